"""The table of feature selection."""

from statistics import mean

from benchmarks.features import DATA, SEQUENTIAL, SHARES, difference
from benchmarks.markdown import column, footnote, load, table
from benchmarks.record import Row

_SELECTORS = ("mipp", SEQUENTIAL, "mRMR", "mutual information", "F")


def feature_selection() -> str:
    """Scores of the selectors, one row per data set and number of columns."""
    data = load("features")
    columns = ["data", "columns", "**MIPP**", *_SELECTORS[1:], "MIPP less sequential", "sequential ÷ MIPP, time"]
    shares = [(name, share) for name in DATA for share in ("all", *SHARES, "auto")]
    found = [(key, [r for r in data["rows"] if (r["data"], r["share"]) == key]) for key in shares]
    cells = [_row(*key, rows) for key, rows in found if rows]
    return table(columns, cells, footnote(data))


def _row(name: str, share: float | str, measured: list[Row]) -> list[str]:
    rows = {row["selector"]: row for row in measured}
    first = next(iter(rows.values()))
    title = {"all": "all", "auto": "by the test, "}.get(str(share), "")
    count = f"{first['kept']:g} of {first['columns']}"
    if share == "all":
        return [name, f"all {first['columns']}, no selection: {_score(first)}", *[""] * 7]
    scores = [_score(rows[selector]) if selector in rows else "" for selector in _SELECTORS]
    if SEQUENTIAL not in rows:
        return [name, title + count, *scores, "", ""]
    apart, half = difference(rows["mipp"], rows[SEQUENTIAL])
    ratio = rows[SEQUENTIAL]["seconds"] / rows["mipp"]["seconds"]
    return [name, count, *scores, f"{apart:+.2f} ± {half:.2f}", f"{ratio:,.0f} ({_seconds(rows)})"]


def _score(row: Row) -> str:
    return f"{mean(column([row], 'scores')[0]):.2f}"


def _seconds(rows: dict[str, Row]) -> str:
    return f"{rows[SEQUENTIAL]['seconds']:.2g} s, {1000 * rows['mipp']['seconds']:.2g} ms"
