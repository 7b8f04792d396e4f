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
            for stage, recipe in zip(("before pruning", "after"), pair, strict=True):
                lines.append(f"| {data} | {scale} | {stage} | {' | '.join(_cells(recipe))} |")
    return "\n".join(lines)


def methods() -> str:
    """Table 4: what the methods need; how often they emptied a layer is measured, where it was."""
    found = record.load("sparsity")
    heads = [shown(name) for name in COMPARED]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    needs = {name: needs_of(all_methods()[name]()) for name in COMPARED}
    ticks = {
        "reads calibration data": [n.data for n in needs.values()],
        "reads labels": [n.labels for n in needs.values()],
        "takes gradients": [n.gradients for n in needs.values()],
        "finds ratios of its own": [n.widths == "own" for n in needs.values()],
        "made for before training": [n.stage in ("any", "initialisation") for n in needs.values()],
        "made for after training": [n.stage in ("any", "trained") for n in needs.values()],
    }
    lines += [f"| {words} | {' | '.join('yes' if t else '' for t in row)} |" for words, row in ticks.items()]
    if found is not None:
        cells = [_emptied([r for r in good(found.rows, method=name) if "nodes" in r["budget"]]) for name in COMPARED]
        lines.append(f"| runs of figure 3 that emptied a layer | {' | '.join(cells)} |")
    return "\n".join(lines)


_TITLES = {
    "epochs": "epochs",
    "batch_size": "batch",
    "learning_rate": "learning rate",
    "milestones": "falls to a tenth after",
    "weight_decay": "weight decay",
    "augment": "augmentation",
    "precision": "precision",
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
