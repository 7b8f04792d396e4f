"""Renders benchmarks/results/*.json into the pages that show them: `python -m benchmarks.tables [--check]`."""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, Row
from mipp.methods import all as all_methods
from mipp.methods import needs_of

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md", "docs/methods/index.md")
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PEERS = {"mipp": "**MIPP**", "l1": "L1", "l2": "L2", "random": "random"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page differs from the results")
    check = parser.parse_args().check
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text()
        fresh = rendered(text)
        if fresh != text:
            stale.append(name)
            if not check:
                page.write_text(fresh)
    if check and stale:
        sys.exit(f"{', '.join(stale)} differ from benchmarks/results; run python -m benchmarks.tables")


def rendered(text: str) -> str:
    """A page with its marked tables made anew."""
    return MARK.sub(lambda m: m.group(1) + "\n" + TABLES[m.group(2)]() + "\n" + m.group(3), text)


def headline() -> str:
    """Accuracy of MIPP and its peers with the same refit, one row per network and budget."""
    data = _load("resnet_cifar")
    columns = ["CIFAR-10, nothing retrained", "dense", "MACs", *PEERS.values(), "L1, no refit"]
    cells = []
    for network, macs in _budgets(data):
        rows = _rows(data, network=network, macs=macs, budget="macs")
        dense = _rows(data, network=network, method="dense")[0]["accuracy"]
        peers = [_spread([r["accuracy"] for r in rows if r["method"] == m]) for m in PEERS]
        bare = _spread([r["accuracy without compensation"] for r in rows if r["method"] == "l1"])
        ratio = _mean([r["macs ratio"] for r in rows if r["method"] == "mipp"])
        cells.append([_title(network), f"{dense:.2f}", f"÷ {ratio:.2f}", *peers, bare])
    return _table(columns, cells, _footnote(data))


def resnet_cifar() -> str:
    """Every row of the CIFAR-10 comparison."""
    data = _load("resnet_cifar")
    columns = [
        "network",
        "MACs",
        "widths",
        "method",
        "accuracy",
        "without refit",
        "params",
        "seconds",
        "forward passes",
    ]
    cells = []
    for network, macs in _budgets(data):
        for budget, widths in (("macs", "own"), ("mipp's widths", "as MIPP")):
            for method, title in PEERS.items():
                rows = _rows(data, network=network, macs=macs, budget=budget, method=method)
                if not rows:
                    continue
                accuracy, bare = (_spread(_column(rows, k)) for k in ("accuracy", "accuracy without compensation"))
                fewer, smaller = (f"÷ {_mean(_column(rows, k)):.2f}" for k in ("macs ratio", "params ratio"))
                seconds, passes = (_mean(_column(rows, k)) for k in ("seconds", "forward passes"))
                row = [_title(network), fewer, widths, title, accuracy, bare, smaller]
                cells.append([*row, f"{seconds:.0f}", f"{passes:.1f}"])
    return _table(columns, cells, _footnote(data))


def lenet_mnist() -> str:
    """Choice of nodes alone on LeNet-5."""
    data = _load("lenet_mnist")
    dense = _spread(_column(_rows(data, method="dense"), "accuracy"))
    cells = []
    for method, title in PEERS.items():
        rows = _rows(data, method=method)
        accuracies = [_spread(_column(rows, key)) for key in ("accuracy", "accuracy with compensation")]
        cells.append([title, *accuracies, f"{_mean(_column(rows, 'selection seconds')):.2f}"])
    columns = ["method", "masks only", "with the refit", "selection, seconds"]
    return _table(columns, cells, f"Dense: {dense} %. {_footnote(data)}")


def defaults() -> str:
    """Agreement with the dense network, by choice."""
    data = _load("defaults")
    cells = [[row["choice"], f"{row['agreement']:.2f}"] for row in data["rows"]]
    return _table(["choice", "agreement with the dense network, %"], cells, _footnote(data))


def memory() -> str:
    """Peak memory by number of calibration batches."""
    data = _load("memory")
    columns = ["memory_limit", "batches", "samples", "peak, MB", "before `prune`, MB", "in temporary files"]
    cells = [
        [r["memory limit"], r["batches"], f"{r['batches'] * data['settings']['samples']:,}", r["peak"],
         r["peak before"], r["on disk"]]
        for r in data["rows"]
    ]  # fmt: skip
    return _table(columns, cells, _footnote(data))


def methods() -> str:
    """What every method needs, and how long it takes where that was measured."""
    measured = _load("methods_resnet") if (RESULTS / "methods_resnet.json").exists() else None
    columns = ["key", "labels", "gradients", "training", "data", "passes", "memory", "made for", "widths"]
    stages = {"any": "any", "initialisation": "before training", "trained": "after training"}
    cells = []
    for name, make in all_methods().items():
        needs = needs_of(make())
        marks = ["yes" if value else "" for value in (needs.labels, needs.gradients, needs.training, needs.data)]
        rows = _rows(measured, method=name) if measured else []
        seconds = [row["seconds"]["selection"] for row in rows if "seconds" in row]
        own = [f"`{name}`", *marks, needs.passes, needs.memory, stages[needs.stage], needs.widths]
        cells.append([*own, f"{_mean(seconds):.1f}" if seconds else ""])
    return _table([*columns, "ResNet-20, s"], cells, *([_footnote(measured)] if measured else []))


def estimators() -> str:
    """Seconds per layer and agreement by estimator, one row per layer."""
    data = _load("estimators")
    names = ("gaussian", "surrogate", "mlp")
    pairs = ("gaussian, mlp", "surrogate, mlp", "gaussian, surrogate")
    columns = ["layer", "nodes", *(f"{n}, seconds (kept)" for n in names), "mlp ÷ surrogate", "mlp ÷ gaussian"]
    cells = []
    timed = _rows(data, part="time")
    for network, layer in dict.fromkeys((r["network"], r["layer"]) for r in timed):
        rows = {r["estimator"]: r for r in _rows(data, part="time", network=network, layer=layer)}
        seconds = [f"{rows[n]['seconds']:.2f} ({len(rows[n]['kept'])})" for n in names]
        ratios = [f"{rows['mlp']['seconds'] / rows[n]['seconds']:,.0f}" for n in ("surrogate", "gaussian")]
        agreed = [_rows(data, part="agreement", network=network, layer=layer, estimators=p)[0] for p in pairs]
        agreement = [f"{a['tau']:.2f}, {a['overlap']:.2f} ({a['overlap by chance']:.2f})" for a in agreed]
        cells.append([f"{network} {layer}", rows["mlp"]["nodes"], *seconds, *ratios, *agreement])
    total = {n: sum(r["seconds"] for r in timed if (r["network"], r["estimator"]) == ("lenet5", n)) for n in names}
    ratios = [f"{total['mlp'] / total[n]:,.0f}" for n in ("surrogate", "gaussian")]
    cells.append(["**lenet5, all layers**", "", *(f"{total[n]:.2f}" for n in names), *ratios, *[""] * len(pairs)])
    return _table([*columns, *(f"τ, overlap (by chance): {p}" for p in pairs)], cells, _footnote(data))


def schedule() -> str:
    """Kept nodes per layer along the paper's schedule."""
    data = _load("estimators")
    rows = _rows(data, part="paper")
    layers = list(rows[0]["widths"])
    cells = [
        [f"{r['confidence']:.4g}", r["seed"], *(r["widths"][layer] for layer in layers), r["nodes"],
         f"{r['accuracy']:.2f}", f"{r['selection seconds']:.0f}"]
        for r in sorted(rows, key=lambda r: (r["confidence"], r["seed"]))
    ]  # fmt: skip
    columns = ["confidence", "seed", *layers, "all", "accuracy of the masks", "seconds"]
    return _table(columns, cells, _footnote(data))


def tracing() -> str:
    """Time to trace and group networks at full size."""
    data = _load("tracing")
    cells = [
        [r["network"], f"{r['ops']:,}", r["groups"], f"{r['nodes']:,}", f"{r['trace and rules, s']:.1f}",
         f"{r['group, s']:.1f}"]
        for r in data["rows"]
    ]  # fmt: skip
    return _table(["network", "ops", "groups", "nodes", "trace and rules, s", "group, s"], cells, _footnote(data))


def wide() -> str:
    """Time and memory of one wide feed-forward network."""
    data = _load("wide")
    phases = ("read", "graph", "selection", "compensation")
    sizes, errors = ["peak, MB", "before `prune`, MB"], ["error, cut", "error, refitted"]
    cells = [
        [r["memory limit"], *(f"{r['seconds'][p]:.0f}" for p in phases), f"{r['peak']:,}", f"{r['peak before']:,}",
         *(f"{r[e]:.3f}" for e in errors)]
        for r in data["rows"]
    ]  # fmt: skip
    return _table(["memory_limit", *(f"{p}, s" for p in phases), *sizes, *errors], cells, _footnote(data))


def language() -> str:
    """Perplexity of the pruned language models, as published and with the refit."""
    data = _load("language")
    columns = ["model", "kept", "dense", "method", "as published", "with the refit", "params"]
    pruned = [r for r in data["rows"] if r["method"] != "dense"]
    cells = []
    for model, kept in dict.fromkeys((r["model"], r["kept"]) for r in pruned):
        dense = _rows(data, model=model, method="dense")[0]
        for method in dict.fromkeys(r["method"] for r in pruned):
            rows = _rows(data, model=model, kept=kept, method=method)
            perplexities = [_spread(_column(rows, key)) for key in ("as published", "with refit")]
            ratio = f"÷ {dense['params'] / _mean(_column(rows, 'params')):.2f}"
            own = [model, f"{kept:.0%}", f"{dense['perplexity']:.2f}", PEERS.get(method, method)]
            cells.append([*own, *perplexities, ratio])
    return _table(columns, cells, _footnote(data))


TABLES = {
    f.__name__: f
    for f in (
        headline, resnet_cifar, lenet_mnist, defaults, memory, methods, estimators, schedule, tracing, wide, language,
    )
}  # fmt: skip


def _table(columns: Sequence[str], cells: Sequence[Sequence[object]], *below: str) -> str:
    """A table in Markdown, and what stands below it."""
    heading, *rows = (f"| {' | '.join(map(str, row))} |" for row in (columns, *cells))
    return "\n\n".join(["\n".join([heading, "|---" * len(columns) + "|", *rows]), *below])


def _load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def _rows(data: dict[str, Any], **key: Any) -> list[Row]:
    return [row for row in data["rows"] if all(row.get(k) == v for k, v in key.items())]


def _column(rows: list[Row], key: str) -> list[float]:
    return [row[key] for row in rows]


def _budgets(data: dict[str, Any]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((r["network"], r["macs"]) for r in data["rows"] if "macs" in r))


def _title(network: str) -> str:
    return re.sub(r"resnet(\d+)", r"ResNet-\1", network)


def _mean(values: list[float]) -> float:
    return statistics.mean(values)


def _spread(values: list[float]) -> str:
    return f"{_mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _footnote(data: dict[str, Any]) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    return f"<sub>`{data['command']}` on {where}; {versions}.</sub>"


if __name__ == "__main__":
    main()
