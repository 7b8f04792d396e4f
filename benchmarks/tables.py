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
    lines = [
        "| CIFAR-10, nothing retrained | dense | MACs | **MIPP** | L1 | L2 | random | L1, no refit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network, macs in _budgets(data):
        rows = _rows(data, network=network, macs=macs, budget="macs")
        dense = _rows(data, network=network, method="dense")[0]["accuracy"]
        cells = [_spread([r["accuracy"] for r in rows if r["method"] == m]) for m in PEERS]
        bare = _spread([r["accuracy without compensation"] for r in rows if r["method"] == "l1"])
        ratio = statistics.mean(r["macs ratio"] for r in rows if r["method"] == "mipp")
        lines.append(f"| {_title(network)} | {dense:.2f} | ÷ {ratio:.2f} | {' | '.join(cells)} | {bare} |")
    return "\n".join(lines) + "\n\n" + _footnote(data)


def resnet_cifar() -> str:
    """Every row of the CIFAR-10 comparison."""
    data = _load("resnet_cifar")
    lines = [
        "| network | MACs | widths | method | accuracy | without refit | params | seconds | forward passes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network, macs in _budgets(data):
        for budget in ("macs", "mipp's widths"):
            for method, title in PEERS.items():
                rows = _rows(data, network=network, macs=macs, budget=budget, method=method)
                if not rows:
                    continue
                bare = _spread(_column(rows, "accuracy without compensation"))
                lines.append(
                    f"| {_title(network)} | ÷ {_mean(_column(rows, 'macs ratio')):.2f} | "
                    f"{'own' if budget == 'macs' else 'as MIPP'} | {title} | {_spread(_column(rows, 'accuracy'))} | "
                    f"{bare} | ÷ {_mean(_column(rows, 'params ratio')):.2f} | "
                    f"{_mean(_column(rows, 'seconds')):.0f} | {_mean(_column(rows, 'forward passes')):.1f} |"
                )
    return "\n".join(lines) + "\n\n" + _footnote(data)


def lenet_mnist() -> str:
    """Choice of nodes alone on LeNet-5."""
    data = _load("lenet_mnist")
    lines = ["| method | masks only | with the refit | selection, seconds |", "|---|---|---|---|"]
    dense = _spread([r["accuracy"] for r in _rows(data, method="dense")])
    for method, title in PEERS.items():
        rows = _rows(data, method=method)
        lines.append(
            f"| {title} | {_spread([r['accuracy'] for r in rows])} | "
            f"{_spread([r['accuracy with compensation'] for r in rows])} | "
            f"{_mean([r['selection seconds'] for r in rows]):.2f} |"
        )
    return "\n".join(lines) + f"\n\nDense: {dense} %. " + _footnote(data)


def defaults() -> str:
    """Agreement with the dense network, by choice."""
    data = _load("defaults")
    lines = ["| choice | agreement with the dense network, % |", "|---|---|"]
    lines += [f"| {row['choice']} | {row['agreement']:.2f} |" for row in data["rows"]]
    return "\n".join(lines) + "\n\n" + _footnote(data)


def memory() -> str:
    """Peak memory by number of calibration batches."""
    data = _load("memory")
    lines = [
        "| memory_limit | batches | samples | peak, MB | before `prune`, MB | in temporary files |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['memory limit']} | {row['batches']} | {row['batches'] * data['settings']['samples']:,} | "
        f"{row['peak']} | {row['peak before']} | {row['on disk']} |"
        for row in data["rows"]
    ]
    return "\n".join(lines) + "\n\n" + _footnote(data)


def methods() -> str:
    """What every method needs, and how long it takes where that was measured."""
    measured = _load("methods_resnet") if (RESULTS / "methods_resnet.json").exists() else None
    lines = [
        "| key | labels | gradients | training | data | passes | memory | made for | widths | ResNet-20, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, make in all_methods().items():
        needs = needs_of(make())
        marks = ["yes" if value else "" for value in (needs.labels, needs.gradients, needs.training, needs.data)]
        stage = {"any": "any", "initialisation": "before training", "trained": "after training"}[needs.stage]
        rows = _rows(measured, method=name) if measured else []
        seconds = [row["seconds"]["selection"] for row in rows if "seconds" in row]
        cells = [f"`{name}`", *marks, needs.passes, needs.memory, stage, needs.widths]
        lines.append(f"| {' | '.join([*cells, f'{_mean(seconds):.1f}' if seconds else ''])} |")
    return "\n".join(lines) + ("\n\n" + _footnote(measured) if measured else "")


def estimators() -> str:
    """Seconds per layer and agreement by estimator, one row per layer."""
    data = _load("estimators")
    names = ("gaussian", "surrogate", "mlp")
    pairs = ("gaussian, mlp", "surrogate, mlp", "gaussian, surrogate")
    lines = [
        f"| layer | nodes | {' | '.join(f'{n}, seconds (kept)' for n in names)} | mlp ÷ surrogate | mlp ÷ gaussian | "
        f"{' | '.join(f'τ, overlap (by chance): {p}' for p in pairs)} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    timed = _rows(data, part="time")
    for network, layer in dict.fromkeys((r["network"], r["layer"]) for r in timed):
        rows = {r["estimator"]: r for r in _rows(data, part="time", network=network, layer=layer)}
        cells = [f"{rows[n]['seconds']:.2f} ({len(rows[n]['kept'])})" for n in names]
        ratios = [f"{rows['mlp']['seconds'] / rows[n]['seconds']:,.0f}" for n in ("surrogate", "gaussian")]
        agreed = [_rows(data, part="agreement", network=network, layer=layer, estimators=p)[0] for p in pairs]
        agreement = [f"{a['tau']:.2f}, {a['overlap']:.2f} ({a['overlap by chance']:.2f})" for a in agreed]
        lines.append(f"| {network} {layer} | {rows['mlp']['nodes']} | {' | '.join([*cells, *ratios, *agreement])} |")
    lenet = [r for r in timed if r["network"] == "lenet5"]
    total = {n: sum(r["seconds"] for r in lenet if r["estimator"] == n) for n in names}
    whole = " | ".join(
        [*(f"{total[n]:.2f}" for n in names), *(f"{total['mlp'] / total[n]:,.0f}" for n in names[1::-1])]
    )
    lines.append(f"| **lenet5, all layers** | | {whole} | | | |")
    return "\n".join(lines) + "\n\n" + _footnote(data)


def schedule() -> str:
    """Kept nodes per layer along the paper's schedule."""
    data = _load("estimators")
    rows = _rows(data, part="paper")
    layers = list(rows[0]["widths"])
    lines = [
        f"| confidence | seed | {' | '.join(layers)} | all | accuracy of the masks | seconds |",
        "|---" * (len(layers) + 5) + "|",
    ]
    for row in sorted(rows, key=lambda r: (r["confidence"], r["seed"])):
        widths = " | ".join(str(row["widths"][layer]) for layer in layers)
        lines.append(
            f"| {row['confidence']:.4g} | {row['seed']} | {widths} | {row['nodes']} | {row['accuracy']:.2f} | "
            f"{row['selection seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n\n" + _footnote(data)


def tracing() -> str:
    """Time to trace and group networks at full size."""
    data = _load("tracing")
    lines = ["| network | ops | groups | nodes | trace and rules, s | group, s |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['network']} | {r['ops']:,} | {r['groups']} | {r['nodes']:,} | {r['trace and rules, s']:.1f} | "
        f"{r['group, s']:.1f} |"
        for r in data["rows"]
    ]
    return "\n".join(lines) + "\n\n" + _footnote(data)


def wide() -> str:
    """Time and memory of one wide feed-forward network."""
    data = _load("wide")
    phases = ("read", "graph", "selection", "compensation")
    lines = [
        f"| memory_limit | {' | '.join(f'{p}, s' for p in phases)} | peak, MB | before `prune`, MB | error, cut | "
        "error, refitted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['memory limit']} | {_seconds(r, phases)} | {r['peak']:,} | {r['peak before']:,} | "
        f"{r['error, cut']:.3f} | {r['error, refitted']:.3f} |"
        for r in data["rows"]
    ]
    return "\n".join(lines) + "\n\n" + _footnote(data)


def language() -> str:
    """Perplexity of the pruned language models, as published and with the refit."""
    data = _load("language")
    lines = [
        "| model | kept | dense | method | as published | with the refit | params |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, kept in dict.fromkeys((r["model"], r["kept"]) for r in data["rows"] if r["method"] != "dense"):
        dense = _rows(data, model=model, method="dense")[0]
        for method in dict.fromkeys(r["method"] for r in data["rows"] if r["method"] != "dense"):
            rows = _rows(data, model=model, kept=kept, method=method)
            cells = [_spread(_column(rows, key)) for key in ("as published", "with refit")]
            ratio = dense["params"] / _mean(_column(rows, "params"))
            lines.append(
                f"| {model} | {kept:.0%} | {dense['perplexity']:.2f} | {PEERS.get(method, method)} | "
                f"{' | '.join(cells)} | ÷ {ratio:.2f} |"
            )
    return "\n".join(lines) + "\n\n" + _footnote(data)


TABLES = {
    f.__name__: f
    for f in (
        headline, resnet_cifar, lenet_mnist, defaults, memory, methods, estimators, schedule, tracing, wide, language,
    )
}  # fmt: skip


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


def _seconds(row: Row, phases: Sequence[str]) -> str:
    return " | ".join(f"{row['seconds'][phase]:.0f}" for phase in phases)


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
