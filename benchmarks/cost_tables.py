"""Tables of what one call costs: passes, memory at full size, and how the time grows."""

from benchmarks.growth import exponent
from benchmarks.markdown import chosen, column, footnote, load, table


def memory_full() -> str:
    """Peak memory at full size beside the bound on it."""
    data = load("memory_full")
    columns = ["network", "weights, MB", "memory_limit", "peak above the model, MB", "bound, MB"]
    cells = [
        [r["network"], r["weights"], data["settings"]["limit"], r["peak"] - r["peak before"], r["bound"]]
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
    data = load("passes")
    columns = ["network", "weights", "passes", "one pass, s", "graph", "selection", "refit", "peak above it, MB"]
    cells = []
    for r in chosen(data, call="prune"):
        phases = [r["passes of the phases"].get(name, 0.0) for name in ("graph", "selection", "compensation")]
        own = [r["network"], r["weights"], f"{r['passes']:.1f}", f"{r['one pass, seconds']:.2f}"]
        cells.append([*own, *(f"{one:.1f}" for one in phases), f"{r['peak above the model, MB']:,}"])
    return table(columns, cells, footnote(data))


def inspections() -> str:
    """Passes over two samples that `inspect` takes, and seconds."""
    data = load("passes")
    cells = [
        [r["network"], f"{r['passes']:.1f}", f"{r['seconds']:.1f}", f"{r['one pass, seconds']:.2f}"]
        for r in chosen(data, call="inspect")
    ]
    return table(["network", "passes", "seconds", "one pass, s"], cells, footnote(data))
