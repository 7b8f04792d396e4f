"""Tables in Markdown pages, made from result files."""

import argparse
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, Row

ROOT = Path(__file__).parents[1]
COSTS = {"macs": "MACs", "params": "parameters", "nodes": "nodes"}
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


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


def table(columns: Sequence[str], cells: Sequence[Sequence[object]], *below: str) -> str:
    """A table in Markdown, and what stands below it."""
    heading, *rows = (f"| {' | '.join(map(str, row))} |" for row in (columns, *cells))
    return "\n\n".join(["\n".join([heading, "|---" * len(columns) + "|", *rows]), *below])


def load(name: str) -> dict[str, Any]:
    """A result file by its stem."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def chosen(data: dict[str, Any], **key: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in data["rows"] if all(row.get(k) == v for k, v in key.items())]


def column(rows: list[Row], key: str) -> list[float]:
    """One value of each row."""
    return [row[key] for row in rows]


def spread(values: list[float], digits: int = 2) -> str:
    """The mean, and the standard deviation where there are several values."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def footnote(data: dict[str, Any]) -> str:
    """The command behind rows and the machine of most of them, with the numbers of rows from others."""
    versions = ", ".join(f"{k} {v}" for k, v in data["machine"]["versions"].items())
    rows = Counter(hardware(row.get("machine", data["machine"])) for row in data["rows"])
    first = max(rows, key=rows.__getitem__, default=hardware(data["machine"]))
    elsewhere = "".join(f", {n} of {rows.total()} rows on {name}" for name, n in rows.items() if name != first)
    return f"<sub>`{data['command']}` on {first}{elsewhere}; {versions}.</sub>"


def hardware(machine: Row) -> str:
    """The GPU; without one, the processor and how many threads were used."""
    threads, processor = machine["threads"], machine["cpu"].replace("(R)", "").removesuffix(" Processor")
    return str(machine["gpu"] or f"{processor}, {threads} thread{'s' * (threads != 1)}")
