"""Tables of the grids that `benchmarks.methods` measures."""

from typing import Any

from benchmarks.markdown import COSTS, chosen, column, footnote, load, spread, table
from benchmarks.record import Row


def lenet_before() -> str:
    """LeNet-5 pruned at initialisation: accuracy after training, one column for each budget."""
    return _by_budget("methods_lenet_before", "pruned, 5 epochs")


def lenet_after() -> str:
    """LeNet-5 pruned after training: accuracy straight after, refitted, and trained further."""
    stages = {
        "straight after": "pruned",
        "refitted": "compensated",
        "refitted, and trained for 5 epochs": "compensated, 5 epochs",
    }
    return "\n\n".join(f"**{title}**\n\n{_by_budget('methods_lenet_after', key)}" for title, key in stages.items())


def resnet20() -> str:
    """ResNet-20 at half of its MACs, by method: one column for each stage."""
    data = load("methods_resnet")
    stages = list(dict.fromkeys(stage for row in data["rows"] for stage in row.get("accuracy", ())))[1:]
    cells = []
    for row in data["rows"]:
        name = _shown(row["method"])
        if "error" in row:
            cells.append([name, *["–"] * len(stages), "", row["error"].partition(":")[0]])
            continue
        values = [f"{row['accuracy'][stage]:.2f}" if stage in row["accuracy"] else "–" for stage in stages]
        cells.append([name, *values, f"÷ {1 / row['params']:.2f}", f"{row['seconds']['selection']:.1f}"])
    return table(["method", *stages, "parameters", "selection, s"], cells, footnote(data))


def rivals() -> str:
    """ResNet-20 at half of its MACs by other libraries."""
    data = load("methods_rivals")
    columns = ["library", "straight after", "after one epoch", "MACs", "parameters", "seconds"]
    cells = [
        [r["method"], f"{r['accuracy']:.2f}", f"{r['accuracy, trained']:.2f}", f"÷ {1 / r['macs']:.2f}",
         f"÷ {1 / r['params']:.2f}", f"{r['seconds']:.0f}"]
        if "error" not in r else [r["method"], r["error"], *[""] * 4]
        for r in data["rows"]
    ]  # fmt: skip
    return table(columns, cells, footnote(data))


def _by_budget(name: str, stage: str) -> str:
    """Means and standard deviations over the seeds, a line for each method; in brackets: runs that emptied a layer."""
    data = load(name)
    budgets: list[dict[str, float]] = []
    for row in data["rows"]:
        if row["budget"] not in budgets:
            budgets.append(row["budget"])
    cells = []
    for method in dict.fromkeys(row["method"] for row in data["rows"]):
        found = [_cell(chosen(data, method=method, budget=budget), stage) for budget in budgets]
        if any(found):
            cells.append([_shown(method), *found])
    return table(["method", *map(_written, budgets)], cells, footnote(data))


def _cell(rows: list[Row], stage: str) -> str:
    good = [row for row in rows if stage in row.get("accuracy", ())]
    if not good:
        return ""
    emptied = sum(bool(row["collapsed"]) for row in good)
    return spread(column([row["accuracy"] for row in good], stage)) + (f" ({emptied})" if emptied else "")


def _written(budget: dict[str, Any]) -> str:
    return ", ".join(f"{100 * budget[name]:.0f} % of the {words}" for name, words in COSTS.items() if name in budget)


def _shown(method: str) -> str:
    return "**`mipp`**" if method == "mipp" else f"`{method}`"
