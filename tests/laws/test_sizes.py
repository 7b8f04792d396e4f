"""Functions and files are short enough to be read at once."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src/mipp"
FUNCTION, FILE, PARAMETERS = 50, 400, 7


def functions() -> list[tuple[str, ast.FunctionDef]]:
    return [
        (f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}", node)
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def lines_of(function: ast.FunctionDef) -> int:
    """Lines of the body without the docstring."""
    body = function.body[1 if ast.get_docstring(function) else 0 :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    long = {place: lines_of(node) for place, node in functions() if lines_of(node) > FUNCTION}
    assert not long


def test_files_are_short():
    long = {p.name: n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > FILE}
    assert not long


def test_private_functions_have_few_parameters():
    """Public ones may have more: their callers name them. So may commands, whose parameters are options."""
    many = []
    for place, node in functions():
        count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
        if (
            node.name.startswith("_")
            and not node.name.startswith("__")
            and not node.decorator_list
            and count > PARAMETERS
        ):
            many.append(place)
    assert not many
