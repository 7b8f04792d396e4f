"""`mipp report`."""

from pathlib import Path

from mipp.cli import console
from mipp.storage.folder import read_report


def run(folder: Path, *, html: Path | None, json: bool) -> None:
    """Prints the report of a saved result, or writes its page anew."""
    report = read_report(folder)
    if html is not None:
        report.to_html(html)
    console.show(report.to_dict(), report, json=json)
