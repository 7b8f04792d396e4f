"""Tables of what one call costs: passes, memory at full size, and how the time grows."""

from statistics import mean

from benchmarks.growth import exponent
from benchmarks.markdown import COSTS, chosen, column, footnote, load, spread, table
from benchmarks.record import Row
from mipp.plan.effort import EFFORTS


def memory_full() -> str:
    """Peak memory at full size beside the bound on it."""
    data = load("memory_full")
    columns = ["network", "weights, MB", "memory_limit", "one batch, MB", "peak above the model, MB", "bound, MB"]
    cells = [
        [
            r["network"],
            r["weights"],
            data["settings"]["limit"],
            r["batch"],
            f"{r['peak'] - r['before']:,}",
            f"{r['bound']:,}",
        ]
        for r in data["rows"]
    ]
    return table(columns, cells, footnote(data))


def growth() -> str:
    """Exponents of the time of one call, measured and by theory."""
    data = load("growth")
    cells = []
    for axis in dict.fromkeys(r["axis"] for r in data["rows"]):
        rows = sorted(chosen(data, axis=axis), key=lambda r: r["size"])
        sizes = column(rows, "size")
        found, theory = (exponent(sizes, column(rows, key)) for key in ("seconds", "operations"))
        ends = f"{sizes[1]:,.0f} to {sizes[-1]:,.0f}", f"{rows[1]['seconds']:.1f} to {rows[-1]['seconds']:.1f}"
        cells.append([axis, *ends, f"{found:.2f}", f"{theory:.2f}"])
    return table(["size", "from, to", "seconds", "exponent", "by theory"], cells, footnote(data))


def passes() -> str:
    """Passes over the calibration data that one call takes, and its memory."""
    return _passes("passes")


def passes_by_clock() -> str:
    """The same with two threads, by the clock."""
    return _passes("passes_by_clock")


def _passes(file: str) -> str:
    data = load(file)
    columns = ["network", "weights", "passes", "one pass, s", "graph", "selection", "refit", "peak above it, MB"]
    cells = []
    for r in chosen(data, call="prune"):
        phases = [r["passes of the phases"].get(name, 0.0) for name in ("graph", "selection", "compensation")]
        own = [r["network"], r["weights"], f"{r['passes']:.1f}", f"{r['one pass, seconds']:.2f}"]
        cells.append([*own, *(f"{one:.1f}" for one in phases), f"{r['peak above the model, MB']:,}"])
    return table(columns, cells, footnote(data))


def effort() -> str:
    """Passes of the closed-form call by kind of work."""
    data = load("effort")
    keys = (
        "passes", "convolutions, passes", "linear algebra, passes", "linear algebra at the full rate, passes",
        "the rest, passes",
    )  # fmt: skip
    cells = [[r["network"], f"{r['one pass, seconds']:.2f}", *(f"{r[key]:.1f}" for key in keys)] for r in data["rows"]]
    columns = ["network", "one pass, s", "passes", "convolutions", "linear algebra", "at the full rate", "the rest"]
    return table(columns, cells, footnote(data))


def levels() -> str:
    """Passes and agreement at each level of effort."""
    data = load("levels")
    cells = []
    for network in dict.fromkeys(r["network"] for r in data["rows"]):
        for level in EFFORTS:
            rows = chosen(data, network=network, choice=level)
            if rows:
                cells.append([network, _kept(rows[0]), level, *_spent(rows), _agreed(rows), len(rows)])
    columns = ["network", "kept", "effort", "samples", "passes", "one pass, s", "agreement, %", "draws"]
    return table(columns, cells, footnote(data))


def effort_levers() -> str:
    """One change to the default at a time, and its passes and agreement."""
    data = load("levels")
    cells = []
    changes = [r for r in data["rows"] if r["choice"] not in EFFORTS]
    for network in dict.fromkeys(r["network"] for r in changes):
        own = [r for r in chosen(data, network=network, draw=0) if r["choice"] == "default" or r in changes]
        cells += [[network, _kept(r), r["choice"], f"{r['passes']:.1f}", _agreed([r]), f"{r['kl']:.3f}"] for r in own]
    return table(["network", "kept", "change", "passes", "agreement, %", "KL, nats"], cells, footnote(data))


def rows_needed() -> str:
    """Agreement by the rows that the refit and the choice of nodes take for each input of a layer."""
    data = load("rows")
    purposes = dict.fromkeys(r["purpose"] for r in data["rows"])
    cells = []
    for rows in sorted({r["rows"] for r in data["rows"]}):
        found = [chosen(data, purpose=purpose, rows=rows) for purpose in purposes]
        cells.append([rows if rows < 1024 else "all", *(_agreed(own) if own else "" for own in found)])
    return table(["rows an input", *purposes], cells, footnote(data))


def looked_at() -> str:
    """Agreement by the number of samples that the choice of nodes looks at."""
    data = load("looked_at")
    cells = []
    for network, macs, count in dict.fromkeys((r["network"], r["macs"], r["looked at"]) for r in data["rows"]):
        rows = chosen(data, network=network, macs=macs, **{"looked at": count})
        kl = spread(column(rows, "kl"), digits=3)
        cells.append([network, f"{macs:.0%} of the MACs", f"{count:,}", _agreed(rows), kl, len(rows)])
    return table(["network", "kept", "samples looked at", "agreement, %", "KL, nats", "draws"], cells, footnote(data))


def positions() -> str:
    """Agreement by the positions that are read of each image, and by the rows that these make for each input."""
    data = load("positions")
    cells = []
    cases = dict.fromkeys((r["network"], _kept(r), r["rows"], r["positions"]) for r in data["rows"])
    for network, kept, rows, taken in cases:
        own = [r for r in chosen(data, network=network, rows=rows, positions=taken) if _kept(r) == kept]
        cells.append([network, kept, rows, taken, _agreed(own), spread(column(own, "kl"), digits=3), len(own)])
    columns = ["network", "kept", "rows an input", "positions", "agreement, %", "KL, nats", "draws"]
    return table(columns, cells, footnote(data))


def variations() -> str:
    """Agreement, KL and seconds by the number of variations that the refit reads of each image."""
    data = load("variations")
    cells = []
    for network, images, count in dict.fromkeys((r["network"], r["images"], r["variations"]) for r in data["rows"]):
        rows = chosen(data, network=network, images=images, variations=count)
        kl = spread(column(rows, "kl"), digits=4)
        cells.append([network, f"{images:,}", count, _agreed(rows), kl, f"{mean(column(rows, 'seconds')):.1f}"])
    return table(["network", "images", "variations", "agreement, %", "KL, nats", "seconds"], cells, footnote(data))


def progress() -> str:
    """The share of the time in which the estimate of what remains was right within a factor of two."""
    data = load("progress")
    cells = [
        [r["network"], phase["phase"], phase["steps"], f"{phase['seconds']:.1f}", f"{phase['right']:.0%}"]
        for r in data["rows"]
        for phase in r["phases"]
    ]
    return table(["network", "phase", "steps", "seconds", "right"], cells, footnote(data))


def _kept(row: Row) -> str:
    return next(f"{row[name]:.0%} of the {label}" for name, label in COSTS.items() if name in row)


def _spent(rows: list[Row]) -> list[object]:
    return [f"{rows[0]['samples']:,}", f"{mean(column(rows, 'passes')):.1f}", f"{rows[0]['one pass, seconds']:.2f}"]


def _agreed(rows: list[Row]) -> str:
    return spread(column(rows, "agreement")) if "agreement" in rows[0] else ""


def inspections() -> str:
    """Passes over two samples that `inspect` takes, and seconds."""
    data = load("passes")
    cells = [
        [r["network"], f"{r['passes']:.1f}", f"{r['seconds']:.1f}", f"{r['one pass, seconds']:.2f}"]
        for r in chosen(data, call="inspect")
    ]
    return table(["network", "passes", "seconds", "one pass, s"], cells, footnote(data))
