"""Renders benchmarks/results/*.json into the pages that show them: `python -m benchmarks.tables [--check]`."""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, Row
from mipp.methods import all as all_methods
from mipp.methods import needs_of

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/accuracy.md", "docs/results.md", "docs/methods/index.md")
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PEERS = {"mipp": "**MIPP**", "l1": "L1", "l2": "L2", "random": "random"}
PEER_TITLES = {
    "l1": "L1", "taylor": "Taylor", "wanda": "Wanda-style", "torch-pruning taylor": "Torch-Pruning, Taylor",
    "torch-pruning hessian": "Torch-Pruning, Hessian", "random": "random",
}  # fmt: skip
HEADLINE = ("l1", "taylor", "torch-pruning taylor", "random")


def main() -> None:
    render(PAGES, TABLES, __doc__)


def render(pages: Sequence[str], tables: Mapping[str, Callable[[], str]], description: str | None) -> None:
    """The command of a module that renders tables into pages."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="fail if a page differs from the results")
    check = parser.parse_args().check
    stale = []
    for name in pages:
        page = ROOT / name
        text = page.read_text()
        fresh = rendered(text, tables)
        if fresh != text:
            stale.append(name)
            if not check:
                page.write_text(fresh)
    if check and stale:
        sys.exit(f"{', '.join(stale)} differ from the results; run the same command without --check")


def rendered(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """A page with its marked tables made anew."""
    return MARK.sub(lambda m: m.group(1) + "\n" + tables[m.group(2)]() + "\n" + m.group(3), text)


def headline() -> str:
    """Accuracy of MIPP and some peers with the same refit, one row per network and budget."""
    data = _load("accuracy_table")
    titles = ["**MIPP, recovered**", "**MIPP**", *(PEER_TITLES[m] for m in HEADLINE)]
    columns = ["CIFAR-10", "dense", "smaller", *titles, "L1, no refit"]
    cells = []
    for network, rows in _cases(data):
        own = [_spread(_column(_by(rows, "mipp"), stage)) for stage in ("recover", "refit")]
        found = [*own, *(_spread(_column(_by(rows, m), "refit")) for m in HEADLINE)]
        bare = _spread(_column(_by(rows, "l1"), "as published"))
        cells.append([_title(network), f"{rows[0]['dense']:.2f}", _smaller(_by(rows, "mipp")), *found, bare])
    return _table(columns, cells, _footnote(data))


def accuracy_table() -> str:
    """Every row of the comparison."""
    data = _load("accuracy_table")
    columns = ["network", "smaller", "method", "as published", "refit", "recovered", "params", "seconds", "passes"]
    cells = []
    for network, rows in _cases(data):
        for method in dict.fromkeys(r["method"] for r in rows):
            own = _by(rows, method)
            recovered = _spread(_column(own, "recover")) if "recover" in own[0] else ""
            title = {"mipp": "**MIPP**", **PEER_TITLES}.get(method, method)
            sizes = [_smaller(own), title, *(_spread(_column(own, k)) for k in ("as published", "refit")), recovered]
            numbers = [f"÷ {_mean(_column(own, 'params ratio')):.2f}", f"{_mean(_column(own, 'seconds')):.0f}"]
            cells.append([_title(network), *sizes, *numbers, f"{_mean(_column(own, 'forward passes')):.1f}"])
    return _table(columns, cells, _footnote(data))


def accuracy_parts() -> str:
    """Widths, choice of nodes, refit and recovery, alone and together."""
    data = _load("accuracy_parts")
    stages = ("bare", "refit", "bare, recover", "refit, recover")
    cells = []
    for widths, nodes in dict.fromkeys((r["widths"], r["nodes"]) for r in data["rows"]):
        rows = _rows(data, widths=widths, nodes=nodes)
        cells.append([widths, PEERS[nodes], *(_spread(_column(rows, stage)) for stage in stages)])
    return _table(["widths", "nodes", *stages], cells, _footnote(data))


def accuracy_calibration() -> str:
    """Accuracy by what it was calibrated on."""
    data = _load("accuracy_calibration")
    cells = []
    for name in dict.fromkeys(r["calibration"] for r in data["rows"]):
        rows = _rows(data, calibration=name)
        cells.append([name, _spread(_column(rows, "refit")), f"{_mean(_column(rows, 'seconds')):.0f}"])
    return _table(["calibrated on", "accuracy", "seconds"], cells, _footnote(data))


def latency() -> str:
    """Measured speed-up against the ratio of MACs."""
    data = _load("latency")
    cells = [
        [_title(r["network"]), r["batch"], r["runtime"], f"÷ {r['macs ratio']:.2f}", f"{r['dense ms']:.2f}",
         f"{r['pruned ms']:.2f}", f"{r['speed-up']:.2f}", f"{r['speed-up / macs ratio']:.2f}"]
        for r in data["rows"]
    ]  # fmt: skip
    columns = ["network", "batch", "runtime", "MACs", "dense, ms", "pruned, ms", "speed-up", "speed-up ÷ MACs ratio"]
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
        headline, accuracy_table, accuracy_parts, accuracy_calibration, latency, lenet_mnist, defaults, memory, methods,
        estimators, schedule, tracing, wide, language,
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


def _cases(data: dict[str, Any]) -> list[tuple[str, list[Row]]]:
    """Rows of every network and budget."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in data["rows"]:
        found.setdefault((row["network"], row.get("macs"), row.get("params")), []).append(row)
    return [(key[0], rows) for key, rows in found.items()]


def _by(rows: list[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method]


def _smaller(rows: list[Row]) -> str:
    """The ratio that the budget is about."""
    kind = "macs" if "macs" in rows[0] else "params"
    return f"{kind.replace('macs', 'MACs')} ÷ {_mean(_column(rows, f'{kind} ratio')):.2f}"


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
