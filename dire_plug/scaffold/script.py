"""What can be read of a published script without running it: what a new method's package starts from."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dire_plug.scaffold.flags import Flag, read_flags
from dire_plug.scaffold.reading import end_of_imports, parse, read_script

ALWAYS = ("torch", "torchvision", "numpy", "PIL")
"""Packages that are always there."""


@dataclass(frozen=True)
class Facts:
    """Of one script.

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
