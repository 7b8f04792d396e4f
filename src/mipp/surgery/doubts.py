"""Sizes in doubt sorted: those that stand or fall together, and the groups that one may be tied to."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from mipp.graph.nodes import Doubt, PruningGraph


def near(graph: PruningGraph, name: str, alike: Sequence[str]) -> list[str]:
    """Groups whose sizes are given by the modules that give those of one group, or those of such groups, and so on."""
    modules = {n: {d.module for d in graph.doubts if n in d.count.per_node} for n in (name, *alike)}
    near, met = [name], set(modules[name])
    while more := [n for n in alike if n not in near and met & modules[n]]:
        near += more
        met = met.union(*(modules[n] for n in more))
    return near[1:]


def company(alike: Sequence[str], unsettled: Collection[str]) -> Iterator[list[str]]:
    """Groups that one group may be tied to: all of its size, those that can be cut alone, and one more with these."""
    if not alike:
        return
    yield list(alike)
    sound = [name for name in alike if name not in unsettled]
    if 0 < len(sound) < len(alike):
        yield sound
    if len(alike) - len(sound) > 1:
        yield from ([*sound, name] for name in alike if name in unsettled)


def in_blocks(graph: PruningGraph, unsettled: Sequence[Sequence[Doubt]]) -> Iterator[tuple[str, list[str]]]:
    """Streams, each with groups of fewer nodes whose size in the code is the width of the stream, as all heads have it.

    Each of these groups reads or writes the stream by a weight. All of them come first, then all but one.
    """
    unsure: dict[str, set[int]] = {}
    for doubt in (d for part in unsettled for d in part if not d.count.fixed and len(d.count.per_node) == 1):
        unsure.setdefault(next(iter(doubt.count.per_node)), set()).add(doubt.size)
    for stream, group in graph.groups.items():
        near, lengths = {s.tensor for s in group.slices}, {s.positions.size for s in group.slices}
        tied = [
            name
            for name, sizes in unsure.items()
            if name != stream and lengths & sizes and any(s.tensor in near for s in graph.groups[name].slices)
            if group.size % graph.groups[name].size == 0
        ]
        heads = [name for name in tied if 1 < graph.groups[name].size < group.size]
        if not heads:
            continue
        for names in dict.fromkeys((tuple(heads), tuple(tied))):
            yield stream, list(names)
        if len(heads) > 1:
            yield from ((stream, [n for n in heads if n != name]) for name in heads)


def names_in(graph: PruningGraph, doubts: Sequence[Doubt]) -> list[str]:
    """The groups that doubts concern."""
    numbers = {d.number for d in doubts}
    return list(dict.fromkeys(name for d in graph.doubts if d.number in numbers for name in d.count.per_node))


def cluster(doubts: Sequence[Doubt]) -> list[list[Doubt]]:
    """Doubts that share a group or a line of code stand or fall together."""
    clusters: list[tuple[set[Any], list[Doubt]]] = []
    for doubt in doubts:
        keys: set[Any] = {*doubt.count.per_node, doubt.reason}
        touching = [c for c in clusters if c[0] & keys]
        merged = [d for _, members in touching for d in members]
        clusters = [c for c in clusters if not c[0] & keys]
        clusters.append((keys.union(*(c[0] for c in touching)), [*merged, doubt]))
    return [members for _, members in clusters]


def by_group(doubts: Sequence[Doubt]) -> list[list[Doubt]]:
    names = dict.fromkeys(name for d in doubts for name in d.count.per_node)
    return [[d for d in doubts if name in d.count.per_node] for name in names]
