"""docs/troubleshooting.md lists every error that the library raises, and none that it does not."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mipp
from mipp.cli.errors import CommandError

ROOT = Path(__file__).parents[2]


LISTED = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)


ERRORS = (mipp.MippError, *mipp.MippError.__subclasses__(), *mipp.PlanMismatchError.__subclasses__(), CommandError)
KINDS = {kind.__name__ for kind in ERRORS} - {"DataSetError"}


def text_of(node: ast.expr) -> str:
    """The text of a string with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def messages() -> Iterator[tuple[str, str]]:
    """The places where the library raises an error, and its text."""
    for path in sorted((ROOT / "src" / "mipp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                text = text_of(node.args[0])
                if text.strip("…"):  # else it passes another message on
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


MESSAGES = list(messages())


def test_every_error_is_listed():
    assert [f"{place}: {text}" for place, text in MESSAGES if not any(part in text for part in LISTED)] == []


def test_every_row_is_an_error():
    assert [part for part in LISTED if not any(part in text for _, text in MESSAGES)] == []


def test_every_error_is_one_paragraph():
    assert [place for place, text in MESSAGES if "\n" in text] == []
