"""Where an inserted line stands: its indentation, and that it became a statement of the script."""

import ast
from collections.abc import Iterator

from dire_plug.errors import DirePlugError, nearest
from dire_plug.scaffold.reading import parse


def indentation(content: bytes, line: int) -> str:
    """Return the white space of a statement that follows line `line`, from 1, of a script.

    After a statement it is that statement's own, after the head of a block that of the block; a comment gives its own.
    """
    lines = _lines(content)
    while line > 0 and not lines[line - 1].strip():
        line -= 1
    if line == 0:
        return ""
    return _white(lines[_model(content, line) - 1])


def outer_indents(content: bytes, line: int) -> list[int]:
    """Return the indents of the blocks that end with line `line`: behind them a statement could stand too."""
    if line == 0:
        return []
    lines = _lines(content)
    ending = {
        len(_white(lines[node.lineno - 1]))
        for node in ast.walk(parse(content, where="the script"))
        if isinstance(node, ast.stmt) and node.end_lineno == line
    }
    return sorted(ending)[:-1]


def _model(content: bytes, line: int) -> int:
    """Return the line whose indentation counts after line `line`, which isn't blank."""
    statements = [node for node in ast.walk(parse(content, where="the script")) if isinstance(node, ast.stmt)]
    if ending := [node.lineno for node in statements if node.end_lineno == line]:
        return max(ending)  # the innermost
    text = _lines(content)[line - 1].partition("#")[0].rstrip()
    following = [node.lineno for node in statements if node.lineno > line]
    return min(following) if text.endswith(":") and following else line


def check_statement(before: bytes, after: bytes, *, line: int, where: str) -> None:
    """Look for the statement that an insertion added, and for the names that it uses.

    Args:
        before, after: the script without and with the line.
        line: the number that the inserted line has in `after`.
        where: names the place in an error.

    Raises:
        DirePlugError: the script no longer parses, the line became part of something else, it stands above the import
            of bridge, or it uses a name that the script doesn't have.
    """
    try:
        tree = parse(after, where=where)
    except DirePlugError as error:
        raise DirePlugError(
            f"{where}: with the line there, the script can't be read any more; the line before must be the last one of "
            f"a statement, and the indentation must fit (--indent); nothing was changed ({error})"
        ) from error
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno == line]
    if not found:
        raise DirePlugError(f"{where}: the line would stand within a text, and never be called; nothing was changed")
    if line < _import_line(tree):
        raise DirePlugError(f"{where}: the line would stand before bridge is imported; nothing was changed")
    known = set(_names(parse(before, where=where))) | {"bridge"}
    for name in sorted(set(_loaded(found[0])) - known):
        if "*" not in known:
            raise DirePlugError(f"{where}: the script has no name '{name}'{nearest(name, known)}; nothing was changed")


def _import_line(tree: ast.Module) -> int:
    """Return the line of the import of bridge; 0 where there is none."""
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "dire_plug")
    return next((node.lineno for node in imports), 0)


def _loaded(node: ast.stmt) -> Iterator[str]:
    return (one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load))


def _names(tree: ast.Module) -> Iterator[str]:
    """Yield every name that a script gives to something; `*` where it imports all of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _lines(content: bytes) -> list[str]:
    """Return the lines as git counts them."""
    return content.decode(errors="replace").split("\n")


def _white(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
