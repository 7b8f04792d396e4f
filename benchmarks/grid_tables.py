"""Tables of the grids that `benchmarks.methods` measures."""

from typing import Any

from benchmarks.markdown import COSTS, footnote, load, table
from mipp import grid
from mipp.grid.summary import format_budget


def lenet_before() -> str:
    """LeNet-5 pruned at initialisation: accuracy after training, one column for each budget."""
    data = load("methods_lenet_before")
    return f"{_by_budget(data, 'pruned, 5 epochs')}\n\n{footnote(data)}"


def lenet_after() -> str:
    """LeNet-5 pruned after training: accuracy straight after, and trained further, without and with the refit."""
    stages = {
        "straight after": "pruned",
        "trained for 5 epochs": "pruned, 5 epochs",
        "refitted": "refitted",
        "refitted, and trained for 5 epochs": "refitted, 5 epochs",
    }
    data = load("methods_lenet_after")
    tables = [f"**{title}**\n\n{_by_budget(data, key)}" for title, key in stages.items()]
    return "\n\n".join([*tables, footnote(data)])


def lenet_refit() -> str:
    """LeNet-5 pruned after training, in closed form: refitted accuracy, one column for each budget."""
    data = load("methods_lenet_refit")
    return f"{_by_budget(data, 'refitted')}\n\n{footnote(data)}"


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


def _by_budget(data: dict[str, Any], stage: str) -> str:
    """Means and standard deviations over the seeds, a line for each method; in brackets: runs that emptied a layer."""
    found = {(s.method, s.budget): s for s in grid.summarise(data["rows"])}
    budgets = {format_budget(row): _written(row["budget"]) for row in data["rows"]}
    cells = []
    for method in dict.fromkeys(method for method, _ in found):
        own = [_cell(found.get((method, budget)), stage) for budget in budgets]
        if any(own):
            cells.append([_shown(method), *own])
    return table(["method", *budgets.values()], cells)


def _cell(summary: grid.Summary | None, stage: str) -> str:
    if summary is None or stage not in summary.accuracy:
        return ""
    mean, deviation = summary.accuracy[stage]
    several = f" ± {deviation:.2f}" if summary.seeds > 1 else ""
    return f"{mean:.2f}{several}" + (f" ({summary.collapsed})" if summary.collapsed else "")


def _written(budget: dict[str, Any]) -> str:
    return ", ".join(f"{100 * budget[name]:.0f} % of the {words}" for name, words in COSTS.items() if name in budget)


def _shown(method: str) -> str:
    return "**`mipp`**" if method == "mipp" else f"`{method}`"
