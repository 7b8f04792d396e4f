"""The groups of Torch-Pruning 1.6, an independent library, for comparison."""

from collections.abc import Mapping
from typing import Any

import torch_pruning
from torch import nn

from benchmarks.zoo.registry import Pattern
from mipp.graph.nodes import PruningGraph

Channel = tuple[str, int]
_GROUPS = (
    "it leaves the channels of a convolution or norm group independent in its graph, and rounds widths in its pruner"
)
_HALVES = "it does not see that halves which are multiplied, or split at one size, have to stay equally wide"
_HEADS = "it leaves the dimensions of a head independent in its graph; its pruner is told the number of heads"
_FILLED = f"{_HEADS}; it does not see that the code takes the width of the stream for that of all heads"
_PAIRS = "chunk and cat: it couples what is only concatenated, and its groups leave out the second half"
_TIED = "it does not couple the layers that one embedding ties together"
_CONV1D = "not compared: the layers are Conv1D of transformers, neither linear layers nor convolutions of torch"
_DIFFERENCES = {
    "ResNeXt, more groups than channels in each": _GROUPS,
    "ResNeXt, fewer groups than channels in each": _GROUPS,
    "RegNet": _GROUPS,
    "GroupNorm": _GROUPS,
    "ConvTranspose2d, grouped": _GROUPS,
    "Depthwise convolution with a multiplier": _GROUPS,
    "YOLO with C2f blocks": _PAIRS,
    "YOLO head, anchors of a buffer": _PAIRS,
    "YOLO head, anchor points": f"{_PAIRS}; its groups in the head are others, too",
    "CSP and C2f by split": _HALVES,
    "GLU: gated convolutions": _HALVES,
    "gMLP": "its groups leave out the half of the channels that is gated",
    "Res2Net": "it couples the last split with the others, though they are only concatenated",
    "ShuffleNet": "it takes a channel shuffle for the identity",
    "ChannelShuffle": "it takes a channel shuffle for the identity",
    "PixelShuffle: EDSR": "it does not see that r x r channels become one",
    "Shared parameters": "it takes layers with one weight for independent ones",
    "Parametrized: discriminator with spectral norm": "it finds no groups: the weights are computed",
    "Functional calls on parameters": "it finds no groups: there are no modules",
    "Conformer with relative positions": f"{_HEADS}; its groups leave out the half of the channels that gates",
    "ViT by hand, sizes from the stream": _FILLED,
    "GPT by hand, sizes from the stream": _FILLED,
    "Swin by hand, sizes from the stream": _FILLED,
    "DiT": _FILLED,
    "KAN": "it finds no groups: there are no modules",
    "SegFormer": f"{_HEADS}; it does not see that a reshape ties the sequence reduction to the stream",
    "wav2vec 2.0": f"{_HEADS}; {_GROUPS}",
    "BERT, masked words": f"{_HEADS}; {_TIED}",
    "T5 1.1, logits only": f"{_HEADS}; {_TIED}",
    **dict.fromkeys(("GPT-2", "GPT-2, eager attention", "GPT-2 in bfloat16"), _CONV1D),
    "ViT, frozen but for its head": "it follows gradients, and sees nothing but the head, which has some",
}


def compare(pattern: Pattern, graph: PruningGraph) -> str:
    """Compares which output channels are coupled, among those that our groups hold.

    Returns:
        "equal"; "coarser" or "finer" where its sets contain ours or are contained in them; else "different".
    """
    model = pattern.model()
    ours = _our_sets(graph, model)
    theirs = _their_sets(model, pattern.batch())
    common = ours.keys() & theirs.keys()
    if not common:
        return "no groups"
    fewer = "" if len(common) == len(ours) else f", {len(ours) - len(common)} of {len(ours)} channels unknown to it"
    forward = _refines({c: ours[c] for c in common}, theirs)
    backward = _refines({c: theirs[c] for c in common}, ours)
    kind = {(True, True): "equal", (True, False): "coarser", (False, True): "finer", (False, False): "different"}
    return kind[forward, backward] + fewer


def explained(pattern: Pattern, kind: str) -> str:
    """The reason why Torch-Pruning finds other groups in a pattern ("" if it is not known)."""
    if pattern.name in _DIFFERENCES:
        return _DIFFERENCES[pattern.name]
    if kind.startswith("equal"):
        return "equal where it has groups; it has none for the other channels"
    if pattern.family == "recurrent" and kind == "no groups":
        return "not compared: the nodes are recurrent units, not outputs of convolutions or linear layers"
    return _HEADS if pattern.family in ("attention", "heads", "hugging_face") and kind == "finer" else ""


def _refines(fine: Mapping[Channel, int], coarse: Mapping[Channel, int]) -> bool:
    """True if channels that are together in `fine` are together in `coarse`."""
    seen: dict[int, int] = {}
    return all(seen.setdefault(label, coarse[channel]) == coarse[channel] for channel, label in fine.items())


def _our_sets(graph: PruningGraph, model: nn.Module) -> dict[Channel, int]:
    layers = {name: int(_transposed(m)) for name, m in model.named_modules() if _is_layer(m)}
    sets: dict[Channel, int] = {}
    for group in graph.groups.values():
        for s in group.slices:
            name = s.tensor.removesuffix(".weight")
            if layers.get(name) == s.axis and s.tensor.endswith(".weight"):
                for node, positions in enumerate(s.positions.tolist()):
                    sets |= {(name, p): group.first_node + node for p in positions}
    return sets


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def _transposed(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvTransposeNd)


def _their_sets(model: nn.Module, example: Any) -> dict[Channel, int]:
    names = {module: name for name, module in model.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
    parent: dict[Channel, Channel] = {}
    for group in graph.get_all_groups():
        root, cut = group[0].dep.target.module, group[0].dep.handler
        for channel in range(len(group[0].idxs)):
            for item in graph.get_pruning_group(root, cut, [channel]).items:
                module = item.dep.target.module
                if _is_layer(module) and graph.is_out_channel_pruning_fn(item.dep.handler):
                    for position in item.idxs:
                        _unite(parent, (names[module], int(position)), (names[root], channel))
    numbers: dict[Channel, int] = {}
    return {c: numbers.setdefault(_find(parent, c), len(numbers)) for c in list(parent)}


def _unite(parent: dict[Channel, Channel], a: Channel, b: Channel) -> None:
    parent[_find(parent, a)] = _find(parent, b)


def _find(parent: dict[Channel, Channel], channel: Channel) -> Channel:
    parent.setdefault(channel, channel)
    while parent[channel] != channel:
        channel = parent[channel]
    return channel
