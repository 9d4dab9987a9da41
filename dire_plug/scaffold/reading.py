"""Reads a published script as a syntax tree: facts are taken from it, never a line of its text."""

import ast
import warnings
from pathlib import Path

from dire_plug.api.checklist import literal
from dire_plug.errors import DirePlugError, nearest


def read_script(tree: Path, path: str) -> bytes:
    """Return the content of a file of an unpatched tree.

    Raises:
        DirePlugError: there is no such file below `tree`; it names the nearest Python file.
    """
    file = tree / path
    if not file.is_file() or not file.resolve().is_relative_to(tree.resolve()):
        known = sorted(found.relative_to(tree).as_posix() for found in tree.rglob("*.py"))
        raise DirePlugError(f"the published code has no file '{path}'{nearest(path, known)}")
    return file.read_bytes()


def parse(source: bytes, *, where: str) -> ast.Module:
    """Return the syntax tree of a script; its own faults of style don't warn.

    Raises:
        DirePlugError: it isn't Python as this Python reads it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            raise DirePlugError(f"{where}{line}: not a Python script that this Python can read: {error}") from error


def end_of_imports(tree: ast.Module) -> int:
    """Return the line, from 1, after which an import can stand: the end of the first block of imports; 0 is the top."""
    body = tree.body
    places = [place for place, node in enumerate(body) if isinstance(node, ast.Import | ast.ImportFrom)]
    if not places:
        return _before_code(body)
    block = [place for number, place in enumerate(places) if place == places[0] + number]
    return body[block[-1]].end_lineno or 0


def _before_code(body: list[ast.stmt]) -> int:
    """Return the line above the first statement, or the last one of the docstring."""
    if not body:
        return 0
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(literal(first.value), str):
        return first.end_lineno or 0
    decorators: list[ast.expr] = getattr(first, "decorator_list", [])
    return min([first.lineno, *(one.lineno for one in decorators)]) - 1
