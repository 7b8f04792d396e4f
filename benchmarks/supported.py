"""Checks every supported pattern and writes docs/supported.md: `python -m benchmarks.supported [NAME ...]`.

Each pattern runs in a process of its own with a time limit, so that a hang is a failure and not the end.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import mipp
from benchmarks.record import RESULTS, Record, Row
from benchmarks.zoo import PATTERNS, Pattern
from benchmarks.zoo.checks import check, passed, quiet, warm_up
from benchmarks.zoo.oracle import compare, explained

PAGE = Path(__file__).parents[1] / "docs" / "supported.md"
LIMIT, PEER_LIMIT = 120.0, 30.0  # seconds for a pattern, and for Torch-Pruning on it
NOTHING_MISSING = "Nothing that the manifests name. `mipp.inspect` lists what is frozen in a model, with the reason."
CHECKS = ("cut == masked", "MIPP", "train", "export", "ONNX")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="names, globs or families (files of benchmarks/zoo); all by default")
    wanted = parser.parse_args().names
    torch.set_num_threads(1)
    warm_up()
    record = Record("supported", limit=LIMIT, peer_limit=PEER_LIMIT)
    record.head["command"] = "python -m benchmarks.supported"  # of the whole file, whatever is measured again today
    chosen = [p for p in PATTERNS.values() if not wanted or any(_named(p, glob) for glob in wanted)]
    again = {p.name for p in chosen}
    record.rows = [row for row in record.rows if row["pattern"] in PATTERNS and row["pattern"] not in again]
    record.save()  # each measurement adds to what the file holds
    for pattern in chosen:
        record.measure({"pattern": pattern.name, "family": pattern.family}, partial(measured, pattern))
    order = list(PATTERNS)
    record.rows.sort(key=lambda row: order.index(row["pattern"]))
    record.save()
    PAGE.write_text(page(record.rows))


def _named(pattern: Pattern, glob: str) -> bool:
    return fnmatchcase(pattern.name, glob) or pattern.family == glob


def measured(pattern: Pattern) -> Row:
    """The row of one pattern."""
    start = time.perf_counter()
    row = limited(partial(check, pattern), LIMIT)
    seconds = round(time.perf_counter() - start, 1)
    peer = limited(partial(_peer, pattern), PEER_LIMIT)
    row |= {"Torch-Pruning": peer.get("kind") or f"fails: {peer['error']}", "seconds": seconds}
    return {**row, "passed": passed(row)}


def _peer(pattern: Pattern) -> Row:
    with quiet():
        return {"kind": compare(pattern, mipp.inspect(pattern.model(), pattern.batch()).graph)}


def limited(function: Callable[[], Row], seconds: float) -> Row:
    """The result of a function in a process of its own, or {"error": the reason why there is none}."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(function, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return {"error": f"no end after {seconds:.0f} s"}
        row: Row = receiver.recv()
        return row
    except EOFError:
        return {"error": "the process died"}
    finally:
        child.kill()
        child.join()


def _send(function: Callable[[], Row], sender: Connection) -> None:
    try:
        sender.send(function())
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        sender.send({"error": f"{type(error).__name__}: {lines[0][:160]}"})


# --- the page ---------------------------------------------------------------------------------------------------------


def page(rows: list[Row]) -> str:
    """docs/supported.md."""
    lines = [
        "# Supported patterns",
        "",
        _summary(rows),
        "",
        "| pattern | groups pruned | nodes | cut = masked | MIPP | train | export | ONNX | Torch-Pruning | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        *_libraries(),
        "## What is not pruned, and why",
        "",
        *([line for row in rows for line in _missing(row)] or [NOTHING_MISSING]),
        "",
        "## Where Torch-Pruning finds other groups",
        "",
        *[line for row in rows for line in _difference(row)],
        "",
    ]
    return "\n".join(lines)


def _summary(rows: list[Row]) -> str:
    groups, pruned = (sum(row.get(key, 0) for row in rows) for key in ("groups", "pruned"))
    passed = f"{sum(row['passed'] for row in rows)} of {len(rows)} patterns pass."
    return f"""{passed} Their manifests, written by hand from the architectures (`benchmarks/zoo`), name {groups}
groups that can be pruned; {pruned} of them are. *Nodes*: in the manifest / found, where they differ. *MIPP*: pruned,
refitted, saved and loaded. A check says ok, **failed**, or - where the dense network cannot be exported either.
*Torch-Pruning*: its groups of coupled output channels are equal to ours, finer, coarser or different. Written by
`make zoo`."""


LIBRARY_CHECKS = ("cut == masked", "other size", "train", "save and load")


def _libraries() -> list[str]:
    """The networks of other libraries, where they were measured."""
    path = RESULTS / "libraries.json"
    if not path.exists():
        return []
    data = json.loads(path.read_text())
    rows = [row for row in data["rows"] if row["version"] is not None]
    absent = sorted({row["library"] for row in data["rows"] if row["version"] is None})
    return [
        "## Networks of other libraries",
        "",
        f"Small, without weights, pruned by MIPP to {data['settings']['macs']:.0%} of the MACs. *Frozen*: nodes that",
        "stay besides the outputs. *Multiples*: of what an op demands the widths to be. Written by",
        "`python -m benchmarks.libraries`." + (f" Not installed, left out: {', '.join(absent)}." if absent else ""),
        "",
        "| network | library | groups | nodes | frozen | multiples | MACs left | cut = masked | other size | train | "
        "save, load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_library_line(row) for row in rows),
        "",
    ]


def _library_line(row: Row) -> str:
    library = f"{row['library']} {row['version']}"
    if "error" in row:
        return f"| {row['network']} | {library} | **{_cell(row['error'])}** | | | | | | | | |"
    frozen = sum(nodes for _, nodes, reason, _ in row["frozen"] if "output of the model" not in reason)
    multiples = ", ".join(map(str, row["multiples"]))
    marks = ["in float32" if row["checks"][n].endswith("float32") else _mark(row["checks"][n]) for n in LIBRARY_CHECKS]
    cells = [row["network"], library, row["groups"], row["nodes"], frozen, multiples, f"{row['macs']:.2f}", *marks]
    return f"| {' | '.join(map(str, cells))} |"


def _line(row: Row) -> str:
    if "error" in row:
        return f"| {row['pattern']} | **{_cell(row['error'])}** | | | | | | | {_cell(row['Torch-Pruning'])} | |"
    marks = [_mark(row["checks"][name]) for name in CHECKS]
    count = f"{row['pruned']} of {row['groups']}"
    nodes = f"{row['nodes']}" if row["nodes"] == row["nodes found"] else f"{row['nodes']} / {row['nodes found']}"
    cells = [row["pattern"], count, nodes, *marks, _cell(row["Torch-Pruning"]), f"{row['seconds']:.0f}"]
    return f"| {' | '.join(cells)} |"


def _mark(text: str) -> str:
    return "**failed**" if text.startswith("failed") else "ok" if text == "passed" else "-"


def _missing(row: Row) -> list[str]:
    if "error" in row:
        return [f"- **{row['pattern']}**: {row['error']}"]
    found = [
        f"{m['group']} ({m['found']} of {m['nodes']} nodes): {m['reason'] or '**no reason given**'}"
        for m in row["missing"]
    ]
    found += [f"{name}: {text}" for name, text in row["checks"].items() if text.startswith("failed")]
    found += [f"{name}: **silently skipped**" for name in row["unaccounted"]]
    return [f"- **{row['pattern']}**: {'; '.join(found)}"] if found else []


def _difference(row: Row) -> list[str]:
    found = row["Torch-Pruning"]
    if found == "equal" or found.startswith("fails"):
        return []
    why = explained(PATTERNS[row["pattern"]], found) or "**not explained**"
    return [f"- **{row['pattern']}** ({found}): {why}."]


def _cell(text: Any) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
