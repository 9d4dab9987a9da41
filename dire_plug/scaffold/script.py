"""Read a published script without running it: the facts that a new method's package starts from."""

import ast
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dire_plug import home, ui
from dire_plug.api.checklist import literal
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest, new_folder
from dire_plug.scaffold.flags import Flag, read_flags
from dire_plug.store.lease import hold
from dire_plug.types import Upstream
from dire_plug.upstream.source.tree import verify_tree, write_manifest
from dire_plug.upstream.source.vendor import fetch

# Reads a published script as a syntax tree: facts are taken from it, never a line of its text.


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
    # invalid escapes in published code warn at each parse
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


ALWAYS = ("torch", "torchvision", "numpy", "PIL")
"""Packages that are always there."""


@dataclass(frozen=True)
class Facts:
    """The facts that are read from a script.

    Attributes:
        content: of the file, for the patch's hashes; none of it is written anywhere.
        flags: those that a recipe could set.
        others: arguments that a typed model can't hold.
        packages: imported at the top, and neither the standard library's, nor torch's, nor files beside the script.
        imports_end: the line after which `from dire_plug import bridge` can stand.
    """

    content: bytes
    flags: list[Flag]
    others: list[str]
    packages: tuple[str, ...]
    imports_end: int


def read_facts(tree: Path, path: str) -> Facts:
    """Read one script of an unpatched tree.

    Raises:
        DirePlugError: there is no such file, or it isn't Python as this Python reads it.
    """
    content = read_script(tree, path)
    syntax = parse(content, where=path)
    flags, others = read_flags(syntax)
    folders = (tree, (tree / path).parent)
    packages = tuple(sorted({name for name in _imported(syntax) if _is_foreign(name, folders)}))
    return Facts(content, flags, others, packages, end_of_imports(syntax))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _is_foreign(name: str, folders: tuple[Path, ...]) -> bool:
    if name in sys.stdlib_module_names or name in ALWAYS:
        return False
    return not any((folder / name).is_dir() or (folder / f"{name}.py").is_file() for folder in folders)


# The published code at its commit, unpatched: fetched once, kept in the cache, and compared at each use.


def published(upstream: Upstream, *, offline: bool = False) -> Path:
    """Return the unpatched tree of the listed paths of a repository.

    Raises:
        DirePlugError: the repository, the commit or a path can't be reached, the tree was changed, or it isn't here and
            `offline`.
    """
    key = {"repository": upstream.repository, "commit": upstream.commit, "paths": upstream.paths}
    folder = home.downloads() / "published" / digest(key)[:16]
    if folder.is_dir():
        verify_tree(folder)
        return folder
    if offline:
        raise DirePlugError(
            f"{upstream.repository}: its code isn't downloaded, and --offline forbids cloning; leave out --offline"
        )
    with hold(folder.with_name(f".{folder.name}.lease"), wait=600, what=f"the tree {folder}"):
        if not folder.is_dir():
            ui.say(f"cloning {upstream.repository} at {upstream.commit[:12]}")
            with new_folder(folder) as tree:
                fetch(upstream, tree)
                write_manifest(tree, method="", repository=upstream.repository, commit=upstream.commit, patches={})
    return folder
