"""The words of the code: docstrings state facts, and functions are named by verbs or nouns."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src/mipp", "benchmarks", "experiments", "examples", "tests")
QUESTIONS = ("What", "Whether", "How", "Why", "Which", "Who", "When", "Where")
PRESENT = {"embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed"}  # end in -ed and are no participles
IRREGULAR = {
    "blown", "bound", "broken", "built", "chosen", "done", "drawn", "found", "frozen", "given", "gone", "grown", "held",
    "hidden", "kept", "known", "left", "lost", "made", "seen", "shown", "shrunk", "spent", "taken", "thrown", "told",
    "worn", "written",
}  # fmt: skip


def parsed(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text())


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_open_with_a_fact(folder):
    riddles = [
        f"{path}:{node.body[0].lineno}: {text.splitlines()[0]}"
        for path, tree in parsed(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if (text := ast.get_docstring(node)) and re.match(rf"({'|'.join(QUESTIONS)})\b", text)
    ]
    assert not riddles, "\n".join(riddles)


def is_participle(name: str) -> bool:
    word = name.strip("_").split("_")[0]
    return word in IRREGULAR or (word.endswith("ed") and word not in PRESENT)


def test_few_functions_are_named_by_a_participle():
    names = [
        (node.name, f"{path}:{node.lineno}")
        for path, tree in parsed("src/mipp")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    found = [f"{place} {name}" for name, place in names if is_participle(name)]
    assert len(found) < 0.03 * len(names), "\n".join(found)
