"""Renders the results into the README of the experiments: `python -m experiments.mipp_2024.tables [--check]`."""

import json
from dataclasses import fields
from typing import Any

from benchmarks.markdown import hardware, render
from benchmarks.record import RESULTS
from experiments.mipp_2024 import record
from experiments.mipp_2024.figures.base import Figure, Row, good
from experiments.mipp_2024.figures.plots import collapsed, counted, shown
from experiments.mipp_2024.figures.registry import FIGURES
from experiments.mipp_2024.recipes import PAPER, SHORT
from experiments.mipp_2024.training import Recipe

from mipp.methods import all as all_methods
from mipp.methods import needs_of

PAGES = ("experiments/mipp_2024/README.md",)
COMPARED = ("mipp", "thinet", "sosph", "grasp", "synflow")
TABLE_4 = {
    "activation-based": (True, True, False, False, False),
    "adjacent layer-based": (True, True, False, False, False),
    "structured": (True, True, True, False, False),
    "able to establish layer-wise ratios": (True, False, True, True, True),
    "collapse": (True, False, True, True, True),
    "data dependent": (True, True, True, True, False),
    "at initialization": (True, False, True, True, True),
}
"""What the paper ticks for `COMPARED`."""


def main() -> None:
    render(PAGES, TABLES, __doc__)


def figures() -> str:
    """One row for each figure: command, claim, tolerance, hardware, minutes, outcome."""
    lines = [
        "| figure | command | expected | tolerance | hardware | minutes | outcome |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, figure) for name, figure in FIGURES.items()]
    return "\n".join([*lines, _language()])


def recipes() -> str:
    """Table 2: how networks are trained, by the paper and in short."""
    lines = ["| data | scale | stage | " + " | ".join(_TITLES.values()) + " |", "|---" * (3 + len(_TITLES)) + "|"]
    for scale, found in (("paper", PAPER), ("laptop, gpu", SHORT)):
        for data, pair in found.items():
            stages = ("before pruning", "after" if scale == "paper" else "after; also 1 epoch")
            for stage, recipe in zip(stages, pair, strict=True):
                lines.append(f"| {data} | {scale} | {stage} | {' | '.join(_cells(recipe))} |")
    return "\n".join(lines)


def methods() -> str:
    """Table 4, as the methods say it of themselves and, where the paper says otherwise, what it says."""
    found = record.load("sparsity")
    heads = [shown(name) for name in COMPARED]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    needs = [needs_of(all_methods()[name]()) for name in COMPARED]
    ours = {
        "activation-based": [name in ("mipp", "thinet") for name in COMPARED],
        "adjacent layer-based": [name in ("mipp", "thinet") for name in COMPARED],
        "structured": [True] * len(COMPARED),
        "able to establish layer-wise ratios": [n.widths == "own" for n in needs],
        "data dependent": [n.data for n in needs],
        "at initialization": [n.stage in ("any", "initialisation") for n in needs],
    }
    for words, row in ours.items():
        cells = [_tick(own=own, said=said) for own, said in zip(row, TABLE_4[words], strict=True)]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    if found is not None:
        emptied = [_emptied([r for r in good(found.rows, method=n) if "nodes" in r["budget"]]) for n in COMPARED]
        said = [f"{cell} (paper: {'yes' if t else 'no'})" for cell, t in zip(emptied, TABLE_4["collapse"], strict=True)]
        lines.append(f"| layer collapse resistant: runs at given fractions that emptied a layer | {' | '.join(said)} |")
    more = {"reads labels": [n.labels for n in needs], "takes gradients": [n.gradients for n in needs]}
    lines += [f"| {words} | {' | '.join('yes' if t else 'no' for t in row)} |" for words, row in more.items()]
    return "\n".join(lines)


def _tick(*, own: bool, said: bool) -> str:
    words = "yes" if own else "no"
    return words if own == said else f"{words} (paper: {'yes' if said else 'no'})"


_TITLES = {
    "epochs": "epochs",
    "batch_size": "batch",
    "learning_rate": "learning rate",
    "milestones": "falls to a tenth after",
    "weight_decay": "weight decay",
    "augment": "augmentation",
    "precision": "precision (laptop: 32-true)",
}


def _cells(recipe: Recipe) -> list[str]:
    known = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    return [_text(known[name]) for name in _TITLES]


def _text(value: Any) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _row(name: str, figure: Figure) -> str:
    found = record.load(figure.experiment)
    plot = f"[{name}](plots/{name}.svg)" if (record.PLOTS / f"{name}.svg").exists() else name
    head = f"| {plot}: {figure.title} | `python -m experiments.mipp_2024 {name}` | {figure.says} | {figure.tolerance} "
    if found is None:
        return f"{head}| | | not run |"
    outcome = "<br>".join([*figure.outcome(found.rows), counted(good(found.rows))])
    return f"{head}| {_hardware(found)} | {found.minutes:,.0f} | {outcome} |"


def _hardware(found: record.Found) -> str:
    return "<br>".join(dict.fromkeys(map(hardware, found.head["machines"])))


def _emptied(rows: list[Row]) -> str:
    return f"{sum(map(collapsed, rows))} of {len(rows)}" if rows else ""


def _language() -> str:
    """The transformer and the LSTM, whose program is among the benchmarks."""
    data = json.loads((RESULTS / "language.json").read_text())
    machine, told = data["machine"], []
    for model, kept in dict.fromkeys((r["model"], r["kept"]) for r in data["rows"] if r["method"] != "dense"):
        rows = [r for r in data["rows"] if (r["model"], r["kept"]) == (model, kept)]
        names = dict.fromkeys(r["method"] for r in rows)
        each = {n: [r["with refit"] for r in rows if r["method"] == n] for n in names}
        words = ", ".join(f"{shown(n)} {sum(values) / len(values):.2f}" for n, values in each.items())
        told.append(f"{model}, {kept:.0%} kept, perplexity with the refit: {words}")
    minutes = sum(v for r in data["rows"] for k, v in r.items() if k.startswith("seconds")) / 60
    return (
        "| language: a transformer and an LSTM | `python -m benchmarks.language --weights FOLDER` | asked: does it "
        f"work beyond convolutions? | – | {hardware(machine)} | {minutes:,.0f} | {'<br>'.join(told)} |"
    )


TABLES = {"figures": figures, "recipes": recipes, "methods": methods}


if __name__ == "__main__":
    main()
