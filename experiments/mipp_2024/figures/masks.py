"""The later version's study: how much a pruning mask tells about the data it was made from, I(D;M).

Thousands of small tasks share one network: 8 inputs, 16 hidden nodes, 2 classes, the same initial weights. Each task
has inputs of its own scales and a linear rule of its own. A deterministic pruner makes one mask of k hidden nodes per
task, so I(D;M) = H(M). It is at most log2 of the number of masks, and no estimate from K tasks exceeds log2 K.

The control draws its mask from a hash of the task: it tells all about the data, and chooses at random.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from experiments.mipp_2024.figures import plots
from experiments.mipp_2024.figures.base import Piece, Row, Site, good, of_measurements, spread
from torch import Tensor

from mipp.estimators import Samples
from mipp.methods import MIPP
from mipp.plan.elimination import backward_elimination

TASKS, SMOKE_TASKS = 4096, 64
INPUTS, HIDDEN, CLASSES = 8, 16, 2
SAMPLES, STEPS = 256, 200
TOGETHER = 64
"""Tasks whose networks are trained side by side."""
KEPT = (2, 4, 8)
RULES = ("mipp", "magnitude of the activations", "magnitude of the weights", "hash of the data", "same for all")


def pieces(site: Site) -> list[Piece]:
    """All rules at all numbers of nodes kept, before and after training of the dense networks."""
    tasks = SMOKE_TASKS if site.scale == "smoke" else TASKS
    seeds = range(1 if site.scale == "smoke" else site.seeds or 3)
    found = []
    for trained in (False, True):
        todo = [
            ({"rule": rule, "kept": kept, "seed": seed}, partial(study, rule, kept, seed, tasks, trained=trained))
            for seed in seeds
            for kept in KEPT
            for rule in RULES
        ]
        settings = {"tasks": tasks, "hidden": HIDDEN, "samples": SAMPLES, "steps": STEPS, "trained": trained}
        name = "trained" if trained else "untrained"
        found.append(of_measurements(name, settings, todo, site.folder("masks")))
    return found


def draw(rows: list[Row], path: Path) -> None:
    """Accuracy after training against the entropy of the masks; equal marks keep as many nodes."""
    rows = good(rows)
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    with plots.panels(path, 1, len(panels), width=6, height=4.2, caption=plots.SPREAD) as axes_of:
        for axes, panel in zip(axes_of[0], panels, strict=True):
            own = good(rows, panel=panel)
            for number, rule in enumerate(RULES):
                for kept, marker in zip(KEPT, "o^s", strict=True):
                    members = good(own, rule=rule, kept=kept)
                    if not members:
                        continue
                    (x, dx), (y, dy) = (spread([row[key] for row in members]) for key in ("bits", "accuracy"))
                    axes.errorbar(x, y, dy, dx, marker=marker, markersize=6, color=f"C{number}", capsize=2)
            for kept in KEPT:
                axes.axvline(math.log2(math.comb(HIDDEN, kept)), color="grey", linewidth=0.4, linestyle=":")
            tasks = own[0]["tasks"]
            axes.axvline(math.log2(tasks), color="grey", linewidth=0.8)
            axes.set(
                title=f"{panel}: {tasks:,} tasks, {plots.counted(own)}",
                xlabel="I(D;M) = H(M), bits (dotted: all masks; line: log2 of the tasks)",
                ylabel="accuracy after training, %",
            )
            for number, rule in enumerate(RULES):
                axes.plot([], [], "s", color=f"C{number}", label=plots.shown(rule))
            for kept, marker in zip(KEPT, "o^s", strict=True):
                axes.plot([], [], marker, color="none", markeredgecolor="black", label=f"{kept} of {HIDDEN} kept")
        plots.legend_below(axes_of)


def study(rule: str, kept: int, seed: int, tasks: int, *, trained: bool) -> Row:
    """One rule: the entropy of its masks over all tasks, and the accuracy of the pruned networks after training."""
    x, y, dense = _dense(seed, tasks, trained=trained)
    masks = RULE[rule](dense, x[:, :SAMPLES], kept)
    small = fit(dense, x[:, :SAMPLES], y[:, :SAMPLES], masks)
    right = logits(small, x[:, SAMPLES:], masks).argmax(-1) == y[:, SAMPLES:]
    counts = Counter(tuple(mask) for mask in masks.int().tolist())
    plug_in = -sum(n / tasks * math.log2(n / tasks) for n in counts.values())
    share = masks.double().mean(0)
    bound = -(torch.special.xlogy(share, share) + torch.special.xlogy(1 - share, 1 - share)).sum() / math.log(2)
    return {
        "tasks": tasks,
        "bits": plug_in,
        "bits, Miller-Madow": plug_in + (len(counts) - 1) / (2 * tasks * math.log(2)),
        "bits, sum over the nodes": float(bound),
        "bits, all masks": math.log2(math.comb(HIDDEN, kept)),
        "different masks": len(counts),
        "accuracy": 100 * float(right.float().mean()),
    }


@cache
def _dense(seed: int, tasks: int, *, trained: bool) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Inputs and labels of all tasks, and the weights that are pruned."""
    generator = torch.Generator().manual_seed(seed)
    x, y = family(tasks, generator)
    dense = tuple(w.expand(tasks, *w.shape).clone() for w in initial(generator))
    whole = torch.ones(tasks, HIDDEN)
    return x, y, fit(dense, x[:, :SAMPLES], y[:, :SAMPLES], whole) if trained else dense


def family(tasks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs [tasks, 2 x SAMPLES, INPUTS] of scales that differ from task to task, and labels by a linear rule."""
    scale = torch.randn(tasks, 1, INPUTS, generator=generator).mul(1.5).exp()
    x = torch.randn(tasks, 2 * SAMPLES, INPUTS, generator=generator) * scale / scale.norm(dim=2, keepdim=True)
    rule = torch.randn(tasks, INPUTS, 1, generator=generator)
    return x, (x @ rule).squeeze(2).gt(0).long()


def initial(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Weights and biases of both layers."""
    first = torch.randn(INPUTS, HIDDEN, generator=generator) * math.sqrt(2)
    second = torch.randn(HIDDEN, CLASSES, generator=generator) / math.sqrt(HIDDEN)
    return first, torch.zeros(1, HIDDEN), second, torch.zeros(1, CLASSES)


def hidden(weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """Activations, shape [tasks, samples, HIDDEN]."""
    return (x @ weights[0] + weights[1]).relu()


def logits(weights: tuple[Tensor, ...], x: Tensor, masks: Tensor) -> Tensor:
    """Of all tasks' networks, shape [tasks, samples, CLASSES]; masks [tasks, HIDDEN]."""
    return (hidden(weights, x) * masks[:, None]) @ weights[2] + weights[3]


def fit(weights: tuple[Tensor, ...], x: Tensor, y: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
    """All tasks' networks after full-batch Adam, each by itself; as many at a time as the processor's cache holds."""
    parts = [part.split(TOGETHER) for part in (*weights, x, y, masks)]
    fitted = [_fit(some[:-3], *some[-3:]) for some in zip(*parts, strict=True)]
    return tuple(torch.cat(each) for each in zip(*fitted, strict=True))


def _fit(weights: tuple[Tensor, ...], x: Tensor, y: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
    trained = [w.clone().requires_grad_() for w in weights]
    optimiser = torch.optim.Adam(trained, lr=0.02)
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(logits(tuple(trained), x, masks).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        (loss * len(x)).backward()
        optimiser.step()
    return tuple(w.detach() for w in trained)


def _mipp(weights: tuple[Tensor, ...], x: Tensor, kept: int) -> Tensor:
    masks = torch.zeros(len(x), HIDDEN)
    activations, generator = hidden(weights, x), torch.Generator()
    for mask, upstream, second, bias in zip(masks, activations, weights[2], weights[3], strict=True):
        information = MIPP().estimate(Samples.of(upstream, upstream @ second + bias), generator)
        mask[list(backward_elimination(information, "greedy").kept(kept))] = 1
    return masks


def _largest(scores: Tensor, kept: int) -> Tensor:
    return torch.zeros_like(scores).scatter_(1, scores.topk(kept).indices, 1.0)


def _hashed(weights: tuple[Tensor, ...], x: Tensor, kept: int) -> Tensor:
    scores = []
    for task in x:
        seed = int.from_bytes(hashlib.sha256(task.numpy().tobytes()).digest()[:8], "little") >> 1
        scores.append(torch.rand(HIDDEN, generator=torch.Generator().manual_seed(seed)))
    return _largest(torch.stack(scores), kept)


RULE: dict[str, Callable[[tuple[Tensor, ...], Tensor, int], Tensor]] = {
    "mipp": _mipp,
    "magnitude of the activations": lambda weights, x, kept: _largest(hidden(weights, x).square().mean(1), kept),
    "magnitude of the weights": lambda weights, x, kept: _largest(weights[0].square().sum(1), kept),
    "hash of the data": _hashed,
    "same for all": lambda weights, x, kept: _largest(torch.arange(HIDDEN).float().expand(len(x), -1), kept),
}
