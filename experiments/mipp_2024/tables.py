"""Renders the results into the README of the experiments: `python -m experiments.mipp_2024.tables [--check]`."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.markdown import chosen, column, hardware, load, render, table
from experiments.mipp_2024 import record
from experiments.mipp_2024.figures.base import Figure, Outcome, Row, by, good, spread
from experiments.mipp_2024.figures.plots import collapsed, counted, shown
from experiments.mipp_2024.figures.registry import FIGURES
from experiments.mipp_2024.recipes import AGAIN, ONCE, PAPER, SHORT
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
NO_RUN = (
    (
        "figure5: blocks of ResNet-34 and ResNet-50",
        "ratios alternate with a period of two and three layers",
        "a drawing; `mipp inspect mipp.zoo:resnet34 --input 1,3,32,32` shows why: in each block the last layer writes "
        "to the stream, and only the others have nodes of their own",
    ),
    ("table1: notation", "–", "a list; the words used here are in `docs/concepts/words.md`"),
    ("table3: functions that make one number of a map", "–", "formulas; `MIPP(collapse=...)` has each; see figure10"),
)
"""Figures and tables of the paper that need no run: name, claim, and what is said of it here."""


def main() -> None:
    render(PAGES, TABLES, __doc__)


def figures() -> str:
    """One row for each figure: command, claim, tolerance, hardware, minutes, verdicts."""
    columns = ("figure", "command", "expected", "tolerance", "hardware", "minutes", "outcome")
    rows = [*(_row(name, figure) for name, figure in FIGURES.items()), _language_row()]
    return table(columns, [*rows, *((name, "none needed", says, "–", "", "", told) for name, says, told in NO_RUN)])


def outcomes() -> str:
    """The findings for each figure, with its plots."""
    found = []
    for name, figure in FIGURES.items():
        file = record.load(figure.experiment)
        if file is not None:
            asked = figure.says if figure.says.startswith("asked: ") else f"expected: {figure.says}."
            found += [f"### {name}", f"{_capital(figure.title)}; {counted(good(file.rows))}. {_capital(asked)}"]
            found += [f"![{figure.title}](plots/{path.name})" for path in _plots(name)]
            found.append("\n".join(f"- {outcome}" for outcome in figure.outcome(file.rows)))
    found += ["### language", "A transformer and an LSTM, by `benchmarks.language`."]
    return "\n\n".join([*found, "\n".join(f"- {outcome}" for outcome in _language())])


def recipes() -> str:
    """Table 2: how networks are trained, by the paper and in short."""
    lines = ["| data | scale | stage | " + " | ".join(_TITLES.values()) + " |", "|---" * (3 + len(_TITLES)) + "|"]
    for scale, found in (("paper", PAPER), ("laptop, gpu", SHORT)):
        for data, pair in found.items():
            stages = ("before pruning", "after" if scale == "paper" else "after; also 1 epoch")
            for stage, recipe in zip(stages, pair, strict=True):
                lines.append(f"| {data} | {scale} | {stage} | {' | '.join(_cells(recipe))} |")
    for scale, stage, found in (("trained", "before pruning", ONCE), ("retrained", "after", AGAIN)):
        lines += [f"| {name} | {scale} | {stage} | {' | '.join(_cells(recipe))} |" for name, recipe in found.items()]
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


def _row(name: str, figure: Figure) -> tuple[str, ...]:
    command, found = f"`python -m experiments.mipp_2024 {name}`", record.load(figure.experiment)
    if found is None:
        return (f"{name}: {figure.title}", command, figure.says, figure.tolerance, "", "", "not run")
    verdicts = [f"**{o.verdict}** {o.where}".strip() for o in figure.outcome(found.rows) if o.verdict]
    told = "<br>".join(verdicts) or f"[measured](#{name})"
    title = f"[{name}](#{name}): {figure.title}"
    return (title, command, figure.says, figure.tolerance, _hardware(found), f"{found.minutes:,.0f}", told)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _plots(name: str) -> list[Path]:
    return [path for pattern in (f"{name}.svg", f"{name}-*.svg") for path in sorted(record.PLOTS.glob(pattern))]


def _hardware(found: record.Found) -> str:
    return "<br>".join(dict.fromkeys(map(hardware, found.head["machines"])))


def _emptied(rows: list[Row]) -> str:
    return f"{sum(map(collapsed, rows))} of {len(rows)}" if rows else ""


def _language() -> list[Outcome]:
    """The transformer and the LSTM, whose program is among the benchmarks."""
    found, data = [], load("language")
    for model, kept in dict.fromkeys((r["model"], r["kept"]) for r in data["rows"] if r["method"] != "dense"):
        rows = chosen(data, model=model, kept=kept)
        each = {n: spread(column(own, "with refit"))[0] for (n,), own in by(rows, "method").items()}
        words = ", ".join(f"{shown(n)} {mean:.2f}" for n, mean in each.items())
        found.append(Outcome(words, f"{model}, {kept:.0%} kept, perplexity with the refit"))
    return found


def _language_row() -> tuple[str, ...]:
    data = load("language")
    minutes = sum(v for r in data["rows"] for k, v in r.items() if k.startswith("seconds")) / 60
    asked = "asked: does it work beyond convolutions?"
    command, told = "`python -m benchmarks.language --weights FOLDER`", "[measured](#language)"
    title = "[language](#language): a transformer and an LSTM"
    return (title, command, asked, "–", hardware(data["machine"]), f"{minutes:,.0f}", told)


TABLES = {"figures": figures, "outcomes": outcomes, "recipes": recipes, "methods": methods}


if __name__ == "__main__":
    main()
