"""Renders benchmarks/results/*.json into the pages that show them: `python -m benchmarks.tables [--check]`."""

import ast
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.cost_tables import (
    effort,
    effort_levers,
    growth,
    inspections,
    levels,
    looked_at,
    memory_full,
    passes,
    passes_by_clock,
    positions,
    progress,
    rows_needed,
    variations,
)  # fmt: skip
from benchmarks.feature_tables import feature_selection
from benchmarks.grid_tables import lenet_after, lenet_before, lenet_refit, resnet20
from benchmarks.levers import BY_TRIAL
from benchmarks.markdown import COSTS, ROOT, chosen, column, footnote, load, render, spread, table
from benchmarks.papers import sources_of
from benchmarks.people import people
from benchmarks.record import RESULTS, Row
from mipp.methods import all as all_methods
from mipp.methods import needs_of

PAGES = (
    "README.md", "docs/accuracy.md", "docs/results.md",
    "docs/feature-selection.md", "docs/int8.md", "docs/people.md", "docs/reference.md",
    "docs/reliability.md", "docs/theory.md",
    "docs/decisions/index.md",
    "docs/decisions/0016-few-rows-are-multiplied.md",
    "docs/decisions/0020-correlations-of-few-rows-are-shrunk.md",
    "docs/decisions/0021-regions-learn-one-after-the-other.md",
    "docs/decisions/0028-effort-is-how-many-samples-are-read.md",
    "docs/decisions/0032-nodes-are-chosen-by-sixteen-rows-an-input.md",
    "docs/decisions/0037-behind-a-norm-all-channels-have-one-noise.md",
    "docs/decisions/0039-chains-are-priced-under-much-noise.md",
    "docs/decisions/0040-as-few-samples-as-bring-the-rows.md",
    "docs/decisions/0041-nodes-by-trial-too.md",
    "docs/decisions/0042-positions-of-maps-in-turn.md",
    "docs/methods/index.md", "docs/methods/measured.md",
)  # fmt: skip
PEERS = {"mipp": "**MIPP**", "l1": "L1", "l2": "L2", "random": "random"}
LANGUAGE_PEERS = {**PEERS, "flap": "FLAP", "wanda": "Wanda", "osscar": "OSSCAR"}
PEER_TITLES = {
    "l1": "L1", "taylor": "Taylor", "wanda": "Wanda-style", "torch-pruning l1": "Torch-Pruning, L1",
    "torch-pruning taylor": "Torch-Pruning, Taylor",
    "torch-pruning hessian": "Torch-Pruning, Hessian", "random": "random",
}  # fmt: skip
TITLES = {
    "lenet5": "LeNet-5", "resnet20": "ResNet-20", "resnet56": "ResNet-56", "vgg11": "VGG-11",
    "vgg11 of a quarter": "VGG-11 of a quarter of the widths",
    "mobilenetv2": "MobileNetV2", "vit": "small ViT", "lenet5, nodes": "LeNet-5, 30 % of the nodes",
    "lenet5, few nodes": "LeNet-5, 10 % of the nodes", "lenet5, params": "LeNet-5, 5 % of the parameters",
}  # fmt: skip


def main() -> None:
    render(PAGES, TABLES, __doc__)


def headline() -> str:
    """Accuracy of MIPP and of the best other method with the same refit, one row per network and budget."""
    data = load("accuracy_table")
    columns = ["CIFAR-10", "smaller", "**MIPP, recovered**", "**MIPP**", "the best other method"]
    cells = []
    for network, rows in _cases(data):
        own = [spread(column(_by(rows, "mipp"), stage)) for stage in ("recover", "refit")]
        peers = {
            title: column(_by(rows, method), "refit") for method, title in PEER_TITLES.items() if _by(rows, method)
        }
        best = max(peers, key=lambda title: mean(peers[title]))
        cells.append([network, _smaller(_by(rows, "mipp")), *own, f"{spread(peers[best])} ({best})"])
    return table(columns, cells, footnote(data))


def accuracy_table(name: str = "accuracy_table") -> str:
    """Every row of the comparison."""
    data = load(name)
    columns = [
        "network, dense",
        "smaller",
        "method",
        "as published",
        "refit",
        "recovered",
        "params",
        "seconds",
        "passes",
    ]
    cells = []
    for network, rows in _cases(data):
        for method in dict.fromkeys(r["method"] for r in rows):
            own = _by(rows, method)
            recovered = spread(column(own, "recover")) if "recover" in own[0] else ""
            title = {"mipp": "**MIPP**", **PEER_TITLES}.get(method, method)
            sizes = [_smaller(own), title, *(spread(column(own, k)) for k in ("as published", "refit")), recovered]
            numbers = [f"÷ {mean(column(own, 'params ratio')):.2f}", f"{mean(column(own, 'seconds')):.0f}"]
            cells.append([network, *sizes, *numbers, f"{mean(column(own, 'forward passes')):.1f}"])
    return table(columns, cells, footnote(data))


def accuracy_best() -> str:
    """The same at the highest effort."""
    return accuracy_table("accuracy_best")


def accuracy_parts() -> str:
    """Widths, choice of nodes, refit and recovery, alone and together."""
    data = load("accuracy_parts")
    stages = ("bare", "refit", "bare, recover", "refit, recover")
    cells = []
    for widths, nodes in dict.fromkeys((r["widths"], r["nodes"]) for r in data["rows"]):
        rows = chosen(data, widths=widths, nodes=nodes)
        cells.append([widths, PEERS[nodes], *(spread(column(rows, stage)) for stage in stages)])
    return table(["widths", "nodes", *stages], cells, footnote(data))


def accuracy_calibration() -> str:
    """Accuracy by what it was calibrated on."""
    data = load("accuracy_calibration")
    cells = []
    for name in dict.fromkeys(r["calibration"] for r in data["rows"]):
        rows = chosen(data, calibration=name)
        cells.append([name, spread(column(rows, "refit")), f"{mean(column(rows, 'seconds')):.0f}"])
    return table(["calibrated on", "accuracy", "seconds"], cells, footnote(data))


def accuracy_labels() -> str:
    """ResNet-56 trained further with labels."""
    data = load("accuracy_labels")
    cells = [
        [_title(r["network"]), _asked(r), r["draw"], f"{r['dense']:.2f}", f"{r['recover']:.2f}",
         f"{r['trained']:.2f}", r["epochs"], f"{r['minutes']:.0f}"]
        for r in data["rows"]
    ]  # fmt: skip
    columns = ["network", "smaller", "draw", "dense", "recovered", "trained", "epochs", "minutes"]
    return table(columns, cells, footnote(data))


def recovery(name: str = "recovery") -> str:
    """Agreement and KL after distillation of the whole network, or of region after region."""
    data = load(name)
    cells = []
    for network, way in dict.fromkeys((r["network"], r["way"]) for r in data["rows"]):
        rows = chosen(data, network=network, way=way)
        agreed, kl = (spread(column(rows, key), digits=digits) for key, digits in (("agreement", 2), ("kl", 4)))
        cells.append([TITLES.get(network, network), way, agreed, kl, len(rows)])
    return table(["network", "trained", "agreement, %", "KL, nats", "draws"], cells, footnote(data))


def recovery_lenet() -> str:
    """The same for LeNet-5, which is trained anew for each draw."""
    return recovery("recovery_lenet")


def streams() -> str:
    """KL to the dense language model by how its streams and sequences are measured."""
    data = load("streams")
    parts = {"80-uniform": "80 % of the MACs, equal widths", "80": "80 % of the MACs"}
    cells = []
    for part, choice in dict.fromkeys((r["part"], r["choice"]) for r in data["rows"]):
        rows = chosen(data, part=part, choice=choice)
        numbers = ", ".join(f"{r['kl']:.3f} ({r['draw']})" for r in sorted(rows, key=lambda r: r["draw"]))
        cells.append([parts[part], {"flap": "FLAP"}.get(choice, choice), numbers])
    return table(["kept", "choice", "KL, nats (draw)"], sorted(cells, key=lambda c: len(c[0])), footnote(data))


def latency() -> str:
    """Measured speed-up against the ratio of MACs."""
    data = load("latency")
    cells = [
        [_title(r["network"]), r["batch"], r["runtime"], f"÷ {r['macs ratio']:.2f}", f"{r['dense ms']:.2f}",
         f"{r['pruned ms']:.2f}", f"{r['speed-up']:.2f}", f"{r['speed-up / macs ratio']:.2f}"]
        for r in data["rows"]
    ]  # fmt: skip
    columns = ["network", "batch", "runtime", "MACs", "dense, ms", "pruned, ms", "speed-up", "speed-up ÷ MACs ratio"]
    return table(columns, cells, footnote(data))


def handoff() -> str:
    """Int8 after pruning: accuracy, size and latency."""
    data = load("handoff")
    cells = [
        [r["network"], r["type"], r["runtime"], f"{r['macs'] / 1e6:.1f} M", f"{r['accuracy']:.2f}",
         f"{r['bytes'] / 1e3:.0f} kB", f"{r['ms, batch 1']:.2f}", f"{r['ms, batch 8']:.2f}"]
        for r in data["rows"]
    ]  # fmt: skip
    columns = ["ResNet-20", "type", "runtime", "MACs", "accuracy", "bytes", "ms, 1 image", "ms, 8 images"]
    tools = ", ".join(f"{name} {data['settings'][name]}" for name in ("onnxruntime", "torchao"))
    return table(columns, cells, f"{footnote(data).removesuffix('.</sub>')}, {tools}.</sub>")


def lenet_mnist() -> str:
    """Choice of nodes alone on LeNet-5."""
    data = load("lenet_mnist")
    dense = spread(column(chosen(data, method="dense"), "accuracy"))
    cells = []
    for method, title in PEERS.items():
        rows = chosen(data, method=method)
        accuracies = [spread(column(rows, key)) for key in ("accuracy", "accuracy with compensation")]
        cells.append([title, *accuracies, f"{mean(column(rows, 'selection seconds')):.2f}"])
    columns = ["method", "masks only", "with the refit", "selection, seconds"]
    return table(columns, cells, f"Dense: {dense} %. {footnote(data)}")


def defaults() -> str:
    """Agreement with the dense network, by choice."""
    data = load("defaults")
    cells = [[row["choice"], f"{row['agreement']:.2f}"] for row in data["rows"]]
    return table(["choice", "agreement with the dense network, %"], cells, footnote(data))


def allocation() -> str:
    """Agreement with and KL to the dense network, by choices about the widths."""
    data = load("allocation")
    cells = []
    for network, *amounts in dict.fromkeys(
        (r["network"], r.get("macs"), r.get("params"), r.get("nodes")) for r in data["rows"]
    ):
        budget = dict(zip(("macs", "params", "nodes"), amounts, strict=True))
        smaller = next(f"{amount:.0%} of the {COSTS[name]}" for name, amount in budget.items() if amount)
        for choice in dict.fromkeys(r["choice"] for r in chosen(data, network=network, **budget)):
            rows = chosen(data, network=network, choice=choice, **budget)
            found = [spread(column(rows, "agreement")), spread(column(rows, "kl"), 4)]
            cells.append([_title(network), smaller, choice, *found, f"{mean(column(rows, 'seconds')):.0f}"])
    return table(["network", "kept", "choice", "agreement, %", "KL, nats", "seconds"], cells, footnote(data))


def levers() -> str:
    """Agreement with the dense network by the number of images and by choices about the widths."""
    return _choices(lambda choice: choice not in BY_TRIAL)


def trials() -> str:
    """Agreement with the dense network by how many networks were tried."""
    return _choices(lambda choice: choice in BY_TRIAL)


def _choices(wanted: Callable[[str], bool]) -> str:
    data = load("levers")
    data["rows"] = [row for row in data["rows"] if wanted(row["choice"])]
    cells = []
    keys = {
        (r["network"].split("-")[0], *(r.get(name, 0) for name in COSTS), r["samples"], r["choice"])
        for r in data["rows"]
    }
    for network, *amounts, samples, choice in sorted(keys, key=lambda key: (*key[:-1], BY_TRIAL.get(key[-1], 0), key)):
        budget = dict(zip(COSTS, amounts, strict=True))
        rows = [r for r in chosen(data, samples=samples, choice=choice) if r["network"].split("-")[0] == network]
        rows = [r for r in rows if all(r.get(name, 0) == amount for name, amount in budget.items())]
        kept = next(f"{amount:.0%} of the {COSTS[name]}" for name, amount in budget.items() if amount)
        found = [spread(column(rows, "agreement")), spread(column(rows, "kl"), 3)]
        cells.append([_title(network), kept, samples, choice, *found, len(rows)])
    return table(["network", "kept", "images", "choice", "agreement, %", "KL, nats", "runs"], cells, footnote(data))


def noise() -> str:
    """Agreement with the dense network by the noise on the targets."""
    data = load("noise")
    cells = []
    keys = {(r["network"].split("-")[0], *(r.get(name, 0) for name in COSTS), r["noise"]) for r in data["rows"]}
    for network, *amounts, variance in sorted(keys):
        budget = {name: amount for name, amount in zip(COSTS, amounts, strict=True) if amount}
        rows = [r for r in chosen(data, noise=variance, **budget) if r["network"].split("-")[0] == network]
        kept = next(f"{amount:.0%} of the {COSTS[name]}" for name, amount in budget.items())
        found = [spread(column(rows, "agreement")), spread(column(rows, "kl"), 4)]
        cells.append([_title(network), kept, f"{variance:g}", *found, len(rows)])
    return table(["network", "kept", "noise", "agreement, %", "KL, nats", "runs"], cells, footnote(data))


def memory() -> str:
    """Peak memory by number of calibration batches."""
    data = load("memory")
    columns = ["memory_limit", "batches", "samples", "peak, MB", "before `prune`, MB", "in temporary files"]
    cells = [
        [r["memory limit"], r["batches"], f"{r['batches'] * data['settings']['samples']:,}", r["peak"],
         r["peak before"], r["on disk"]]
        for r in data["rows"]
    ]  # fmt: skip
    return table(columns, cells, footnote(data))


def methods() -> str:
    """The requirements of every method, and its measured time."""
    measured = load("methods_resnet") if (RESULTS / "methods_resnet.json").exists() else None
    columns = ["key", "labels", "gradients", "training", "data", "passes", "memory", "made for", "widths"]
    stages = {"any": "any", "initialisation": "before training", "trained": "after training"}
    cells = []
    for name, make in all_methods().items():
        needs = needs_of(make())
        marks = ["yes" if value else "" for value in (needs.labels, needs.gradients, needs.training, needs.data)]
        rows = chosen(measured, method=name) if measured else []
        seconds = [row["seconds"]["selection"] for row in rows if "seconds" in row]
        own = [f"`{name}`", *marks, needs.passes, needs.memory, stages[needs.stage], needs.widths]
        cells.append([*own, f"{mean(seconds):.1f}" if seconds else ""])
    return table([*columns, "ResNet-20, s"], cells, *([footnote(measured)] if measured else []))


def papers() -> str:
    """The sources of every method, as the docstring of its module cites them."""
    cells = []
    for name, make in all_methods().items():
        sources = sources_of(make)
        years = " and ".join(dict.fromkeys(source.year for source in sources))
        links = "; ".join(f"[{source.title}]({source.url})" for source in sources)
        cells.append([f"`{name}`", f"`{make.__name__}`", years, links])
    return table(["method", "class", "year", "paper"], cells)


def rooms() -> str:
    """The packages of the library, as their docstrings describe them."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    names = [name.strip() for layer in reversed(contract["layers"]) for name in re.split("[|:]", layer)]
    docs = {name: ast.get_docstring(ast.parse(path.read_text())) for name in names if (path := _package(name)).exists()}
    cells = [[f"`mipp.{name}`", (text or "").partition("\n\n")[0].replace("\n", " ")] for name, text in docs.items()]
    return table(["package", "what it is for"], cells)


def decisions() -> str:
    """The decision records by their titles."""
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    titles = [page.read_text().partition("\n")[0].removeprefix("# ").partition(": ")[2] for page in pages]
    return table(["", "decision"], [[p.name[:4], f"[{t}]({p.name})"] for p, t in zip(pages, titles, strict=True)])


def estimators() -> str:
    """Seconds per layer and agreement by estimator, one row per layer."""
    data = load("estimators")
    names = ("gaussian", "surrogate", "mlp")
    pairs = ("gaussian, mlp", "surrogate, mlp", "gaussian, surrogate")
    columns = ["layer", "nodes", *(f"{n}, seconds (kept)" for n in names), "mlp ÷ surrogate", "mlp ÷ gaussian"]
    cells = []
    timed = chosen(data, part="time")
    for network, layer in dict.fromkeys((r["network"], r["layer"]) for r in timed):
        rows = {r["estimator"]: r for r in chosen(data, part="time", network=network, layer=layer)}
        seconds = [f"{rows[n]['seconds']:.2f} ({len(rows[n]['kept'])})" for n in names]
        ratios = [f"{rows['mlp']['seconds'] / rows[n]['seconds']:,.0f}" for n in ("surrogate", "gaussian")]
        agreed = [chosen(data, part="agreement", network=network, layer=layer, estimators=p)[0] for p in pairs]
        agreement = [f"{a['tau']:.2f}, {a['overlap']:.2f} ({a['overlap by chance']:.2f})" for a in agreed]
        cells.append([f"{network} {layer}", rows["mlp"]["nodes"], *seconds, *ratios, *agreement])
    total = {n: sum(r["seconds"] for r in timed if (r["network"], r["estimator"]) == ("lenet5", n)) for n in names}
    ratios = [f"{total['mlp'] / total[n]:,.0f}" for n in ("surrogate", "gaussian")]
    cells.append(["**lenet5, all layers**", "", *(f"{total[n]:.2f}" for n in names), *ratios, *[""] * len(pairs)])
    return table([*columns, *(f"τ, overlap (by chance): {p}" for p in pairs)], cells, footnote(data))


def schedule() -> str:
    """Kept nodes per layer along the paper's schedule."""
    data = load("estimators")
    rows = chosen(data, part="paper")
    layers = list(rows[0]["widths"])
    cells = [
        [f"{r['confidence']:.4g}", r["seed"], *(r["widths"][layer] for layer in layers), r["nodes"],
         f"{r['accuracy']:.2f}", f"{r['selection seconds']:.0f}"]
        for r in sorted(rows, key=lambda r: (r["confidence"], r["seed"]))
    ]  # fmt: skip
    columns = ["confidence", "seed", *layers, "all", "accuracy of the masks", "seconds"]
    return table(columns, cells, footnote(data))


def significance() -> str:
    """Nodes that add nothing and stay, by the target of the test."""
    data = load("significance")
    cells = [[r["case"], f"{100 * r['kept']:.1f} %"] for r in chosen(data, part="level")]
    return table(["target of the test", "useless nodes kept, nominal 5 %"], cells, footnote(data))


def growing() -> str:
    """Runs in which more confidence keeps more nodes, by order."""
    data = load("significance")
    cells = [
        [r["samples"], f"`{r['order']}`", f"{r['keep more']} of {r['runs']}", f"{100 * r['kept at first']:.0f} %",
         f"{100 * r['kept at last']:.0f} %"]
        for r in chosen(data, part="growing")
    ]  # fmt: skip
    columns = ["samples", "order", "runs in which some step keeps more", "kept at 50 %", "kept at 99.9 %"]
    return table(columns, cells, footnote(data))


def tracing() -> str:
    """Time to trace and group networks at full size."""
    data = load("tracing")
    cells = [
        [r["network"], f"{r['ops']:,}", r["groups"], f"{r['nodes']:,}", f"{r['trace and rules, s']:.1f}",
         f"{r['group, s']:.1f}"]
        for r in data["rows"]
    ]  # fmt: skip
    return table(["network", "ops", "groups", "nodes", "trace and rules, s", "group, s"], cells, footnote(data))


def wide() -> str:
    """Time and memory of one wide feed-forward network."""
    data = load("wide")
    phases = ("read", "graph", "selection", "compensation")
    sizes, errors = ["peak, MB", "before `prune`, MB"], ["error, cut", "error, refitted"]
    cells = [
        [r["memory limit"], *(f"{r['seconds'][p]:.0f}" for p in phases), f"{r['peak']:,}", f"{r['peak before']:,}",
         *(f"{r[e]:.3f}" for e in errors)]
        for r in data["rows"]
    ]  # fmt: skip
    return table(["memory_limit", *(f"{p}, s" for p in phases), *sizes, *errors], cells, footnote(data))


def language() -> str:
    """Perplexity of the pruned language models, as published and with the refit."""
    data = load("language")
    columns = ["model", "kept", "dense", "method", "as published", "with the refit", "params"]
    pruned = [r for r in data["rows"] if r["method"] != "dense"]
    cells = []
    for model, kept in dict.fromkeys((r["model"], r["kept"]) for r in pruned):
        dense = chosen(data, model=model, method="dense")[0]
        for method in dict.fromkeys(r["method"] for r in pruned):
            rows = chosen(data, model=model, kept=kept, method=method)
            perplexities = [spread(column(rows, key)) for key in ("as published", "with refit")]
            ratio = f"÷ {dense['params'] / mean(column(rows, 'params')):.2f}"
            own = [model, f"{kept:.0%}", f"{dense['perplexity']:.2f}", LANGUAGE_PEERS.get(method, method)]
            cells.append([*own, *perplexities, ratio])
    return table(columns, cells, footnote(data))


def hostile() -> str:
    """Outcomes of hostile input, by kind."""
    data, names = load("hostile"), ("cases", "used", "refused", "broken")
    cells = [[r["kind"], *(f"{r[name]:,}" for name in names)] for r in data["rows"]]
    total = [f"{sum(r[name] for r in data['rows']):,}" for name in names]
    return table(["kind", *names], [*cells, ["**all**", *total]], footnote(data))


def kills() -> str:
    """Runs that were killed, by scenario."""
    data, names = load("kills"), ("runs", "killed", "resumed", "the same", "another result")
    cells = [[r["scenario"], *(r[name] for name in names)] for r in data["rows"]]
    total = [f"**{sum(r[name] for r in data['rows'])}**" for name in names]
    return table(["scenario", *names], [*cells, ["**all**", *total]], footnote(data))


def real() -> str:
    """Trained networks that packages carry: as published, with the refit, and recovered, beside the dense network."""
    data = load("real")
    cells = []
    for network, title, key in (("smollm2", "SmolLM2-135M", "perplexity"), ("speaker", "speaker encoder", "cosine")):
        dense = next((r[key] for r in chosen(data, network=network, method="dense")), None)
        if dense is None:
            continue
        pruned = [r for r in chosen(data, network=network) if r["method"] != "dense"]
        for case, rows in _by_case(pruned).items():
            for method in dict.fromkeys(r["method"] for r in rows):
                own = [r for r in rows if r["method"] == method]
                digits = 0 if key == "perplexity" else 3
                stages = [
                    spread([r[stage] for r in own if stage in r], digits) if any(stage in r for r in own) else ""
                    for stage in ("as published", "refit", "recovered")
                ]
                after = [r["recovery seconds"] for r in own if "recovery seconds" in r]
                cost = [f"{mean(column(own, key)):.{d}f}" for key, d in (("seconds", 0), ("passes", 1))]
                cost += [
                    f"{mean(after):.0f}" if after else "",
                    f"{max(r.get('recovery peak', r['peak']) for r in own):,}",
                ]
                name = f"{title}, {key} {dense:.{max(digits, 1)}f}"
                cells.append([name, case, LANGUAGE_PEERS.get(method, method), *stages, *cost])
    columns = [
        "network, dense",
        "kept",
        "method",
        "as published",
        "refit",
        "recovered",
        "seconds",
        "passes",
        "recovery, s",
        "peak, MB",
    ]
    return table(columns, cells, footnote(data))


def language_headline() -> str:
    """Perplexity of the language model by MIPP and by the best other choice with the same refit."""
    data = load("real")
    dense = next(r["perplexity"] for r in chosen(data, network="smollm2", method="dense"))
    columns = [
        f"SmolLM2-135M, perplexity {dense:.1f}",
        "**MIPP**",
        "MIPP without the refit",
        "the best other choice",
    ]
    cells = []
    for case, rows in _by_case([r for r in chosen(data, network="smollm2") if r["method"] != "dense"]).items():
        own, others = _by(rows, "mipp"), [r for r in rows if not r["method"].lower().startswith("mipp")]
        if own and others:
            best = min(others, key=lambda r: r["refit"])
            stages = [spread(column(own, stage), 1) for stage in ("refit", "as published")]
            cells.append([case, *stages, f"{best['refit']:.1f} ({LANGUAGE_PEERS.get(best['method'], best['method'])})"])
    return table(columns, cells, footnote(data))


def _by_case(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by how much is kept, on how many samples."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        amount = next(
            f"{row[cost]:.0%} of the {words}" for cost, words in COSTS.items() if isinstance(row.get(cost), float)
        )
        alike = ", equal widths" if row.get("uniform") else ""
        found.setdefault(f"{amount}{alike}, {row['samples']} samples", []).append(row)
    return found


TABLES = {
    f.__name__: f
    for f in (
        headline, accuracy_table, accuracy_best, accuracy_parts, accuracy_calibration, accuracy_labels, effort,
        latency, handoff, lenet_mnist, defaults, allocation, levers, trials, noise, memory, memory_full, growth,
        passes, passes_by_clock, inspections, levels, effort_levers, rows_needed, looked_at, positions, variations,
        recovery, recovery_lenet, streams, progress, methods, papers, rooms, decisions, estimators, schedule,
        significance, growing, tracing, wide, language, feature_selection, people, hostile, kills, real,
        language_headline, lenet_before, lenet_after, lenet_refit, resnet20,
    )
}  # fmt: skip


def _cases(data: dict[str, Any]) -> list[tuple[str, list[Row]]]:
    """Rows of every network, by its accuracy where it was trained twice, and budget; with its name and accuracy."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in data["rows"]:
        found.setdefault((row["network"], row.get("macs"), row.get("params"), row["dense"]), []).append(row)
    return [(f"{_title(key[0])}, dense {key[-1]:.2f}", rows) for key, rows in found.items()]


def _by(rows: list[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method]


def _smaller(rows: list[Row]) -> str:
    """The ratio that the budget is about, as it was reached."""
    return _ratio(rows[0], lambda kind: mean(column(rows, f"{kind} ratio")))


def _asked(row: Row) -> str:
    """The ratio that a budget asks for."""
    return _ratio(row, lambda kind: 1 / float(row[kind]))


def _ratio(row: Row, value: Callable[[str], float]) -> str:
    kind = "macs" if "macs" in row else "params"
    return f"{kind.replace('macs', 'MACs')} ÷ {value(kind):.2f}"


def _package(name: str) -> Path:
    return ROOT / "src/mipp" / name / "__init__.py"


def _title(network: str) -> str:
    return TITLES.get(network, network)


if __name__ == "__main__":
    main()
