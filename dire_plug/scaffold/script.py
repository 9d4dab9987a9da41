"""Read a published script without running it: the facts that a new method's package starts from.

The script becomes a syntax tree, from which facts are taken, never a line of its text. Its flags, read from the calls
of `add_argument`, become the fields of the package's `flags.py`. The published code is fetched once, at its commit and
unpatched, kept in the cache, and compared at each use.
"""

import ast
import json
import keyword
import math
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from dire_plug import home, ui
from dire_plug.api.checklist import literal
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest, new_folder
from dire_plug.store.lease import hold
from dire_plug.types import Upstream
from dire_plug.upstream.source.tree import verify_tree, write_manifest
from dire_plug.upstream.source.vendor import fetch

SWITCHES = ("store_true", "store_false")
TYPES: dict[str, type] = {"int": int, "float": float, "str": str}
LISTS = ("+", "*")
"""What `nargs` says of a flag that takes several values."""
MOST_CHOICES = 8


@dataclass(frozen=True)
class Flag:
    """One flag that a recipe could set.

    Attributes:
        name: upstream's spelling, without the dashes.
        annotation: the type of its value in Python; of a switch, bool: whether it stands on the command line.
        default: upstream's, where it is a plain value of that type; None leaves the flag out.
    """

    name: str
    annotation: str
    default: int | float | str | bool | None


def read_flags(tree: ast.Module) -> tuple[list[Flag], list[str]]:
    """Return the flags that a typed model can hold, and the names of other arguments, each once, in their order."""
    flags: dict[str, Flag] = {}
    others: dict[str, None] = {}
    for call in _calls(tree):
        names = [name for argument in call.args if isinstance(name := literal(argument), str)]
        flag = _read(names, {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
        if flag is not None:
            flags.setdefault(flag.name, flag)
        elif names:
            others.setdefault(names[0])
    return list(flags.values()), [name for name in others if name.lstrip("-") not in flags]


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (call for call in found if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument")
    yield from sorted(named, key=lambda call: (call.lineno, call.col_offset))  # `ast.walk` goes level by level


def _read(names: list[str], settings: dict[str, ast.expr]) -> Flag | None:
    """Return one flag; None of a positional argument, a short name alone, or one that may have a value or none.

    With nargs="?", const=True and a default that is false, its name alone does what a switch does.
    """
    name = next((name[2:] for name in names if name.startswith("--") and len(name) > 2), None)
    action, several = literal(settings.get("action")), literal(settings.get("nargs"))
    off = ast.unparse(settings.get("default", ast.Constant(False))) in ("False", "None")
    if name and several == "?" and literal(settings.get("const")) is True and off:
        return Flag(name, "bool", False)
    if (
        name is None
        or ("nargs" in settings and several not in LISTS)
        or ("action" in settings and action not in (*SWITCHES, "store"))
    ):
        return None
    if action in SWITCHES:
        return Flag(name, "bool", False)
    kind = settings.get("type")
    annotation = kind.id if isinstance(kind, ast.Name) and kind.id in TYPES else "str"
    known = TYPES[annotation]
    if choices := _choices(literal(settings.get("choices")), known):
        annotation = f"Literal[{', '.join(map(repr, choices))}]".replace("'", '"')
    if several in LISTS:
        return Flag(name, f"list[{annotation}]", None)
    return Flag(name, annotation, _default(literal(settings.get("default")), known, choices))


def _choices(values: object, known: type) -> list[Any]:
    """Return the choices, where a Literal can say them on one line."""
    if not isinstance(values, list | tuple) or known is float or not 0 < len(values) <= MOST_CHOICES:
        return []
    plain = all(type(value) is known and '"' not in str(value) and "'" not in str(value) for value in values)
    return list(values) if plain and len(repr(values)) < 60 else []


def _default(value: object, known: type, choices: list[Any]) -> int | float | str | bool | None:
    """Return a default that reads back as itself from the command line; None of any other."""
    if known is float and type(value) is int:
        value = float(value)
    if (choices and value not in choices) or (type(value) is float and not math.isfinite(value)):
        return None
    # not isinstance: True is an int
    return value if type(value) is known else None  # type: ignore[return-value]


NOTHING = "    # Neither the script nor a module that it imports names a flag in a way that could be read."


def flag_lines(flags: Sequence[Flag]) -> str:
    """Return the fields of the model, one line each."""
    return "\n".join(map(_line, flags)) or NOTHING


def typing_names(flags: Sequence[Flag]) -> str:
    """Return the import, with its line end, that the fields need of typing."""
    literal = any(flag.annotation.startswith("Literal[") for flag in flags)
    return "from typing import Literal\n" if literal else ""


def pydantic_names(flags: Sequence[Flag]) -> str:
    """Return the import, with its line end, that the fields need of pydantic."""
    renamed = any(field_name(flag.name) != flag.name for flag in flags)
    return "from pydantic import Field\n" if renamed else ""


def field_name(flag: str) -> str:
    """Return a name that a model's field may have: the flag's own, where it may."""
    name = re.sub(r"\W", "_", flag)
    # pydantic takes `_x` for private and keeps `model_` for itself; a field such as `copy` would hide a method
    fits = name.isidentifier() and not keyword.iskeyword(name) and not name.startswith(("_", "model_"))
    return name if fits and not hasattr(BaseModel, name) else f"flag_{name.strip('_')}"


def _line(flag: Flag) -> str:
    name, default = field_name(flag.name), _literal(flag.default)
    annotation = flag.annotation if flag.default is not None else f"{flag.annotation} | None"
    if name != flag.name:
        default = f"Field(default={default}, alias={_literal(flag.name)})"
    return f"    {name}: {annotation} = {default}"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


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
    return min([first.lineno, *(one.lineno for one in decorators)]) - 1  # a function's line is that of its `def`


ALWAYS = ("torch", "torchvision", "numpy", "PIL")
"""Packages that are always there."""


@dataclass(frozen=True)
class Facts:
    """The facts that are read from a script, and from upstream's own modules that it imports.

    Attributes:
        content: of the file, for the patch's hashes; none of it is written anywhere.
        modules: path below the tree → syntax; the script's is the first.
        flags: those that a recipe could set.
        others: arguments that a typed model can't hold.
        parser: the module whose arguments these are; None of a script without any.
        packages: imported at the top, and neither the standard library's, nor torch's, nor upstream's own.
        imports_end: the line after which `from dire_plug import bridge` can stand.
    """

    content: bytes
    modules: dict[str, ast.Module]
    flags: list[Flag]
    others: list[str]
    parser: str | None
    packages: tuple[str, ...]
    imports_end: int

    @property
    def paths(self) -> tuple[str, ...]:
        """What of the repository the script needs: its folder, and the modules and packages that stand elsewhere."""
        folder, *others = dict.fromkeys(_outermost(path, next(iter(self.modules))) for path in self.modules)
        return (folder, *sorted(others))


def read_facts(tree: Path, path: str) -> Facts:
    """Read one script of an unpatched tree, which has all files that it might import.

    Raises:
        DirePlugError: there is no such file, or it isn't Python as this Python reads it.
    """
    content = read_script(tree, path)
    modules, packages = _follow(tree, path)
    found = {name: read_flags(syntax) for name, syntax in modules.items()}
    # a parser of a module counts where the script has none: a module may be a script, too
    parser = next((name for name, (flags, others) in found.items() if flags or others), None)
    flags, others = found[parser] if parser else ([], [])
    return Facts(content, modules, flags, others, parser, packages, end_of_imports(modules[path]))


def _outermost(path: str, script: str) -> str:
    """Return the script's folder for what stands in it; else the file, or the outermost folder that holds it alone."""
    folder = PurePosixPath(script).parent
    if PurePosixPath(path).is_relative_to(folder):
        return str(folder)
    shared = next(parent for parent in folder.parents if PurePosixPath(path).is_relative_to(parent))
    return str(shared / PurePosixPath(path).relative_to(shared).parts[0])


def _follow(tree: Path, script: str) -> tuple[dict[str, ast.Module], tuple[str, ...]]:
    """Return the syntax, by path, of a script and upstream's modules that it imports, and other packages' names."""
    # `sys.path.append("..")` and the like are common, so a folder above the script's is searched after it
    above = [folder for folder in (tree / script).parents if folder.is_relative_to(tree)]
    modules, packages, waiting = dict[str, ast.Module](), set[str](), [tree / script]
    while waiting:
        file = waiting.pop(0)
        if (path := file.relative_to(tree).as_posix()) in modules:
            continue
        modules[path] = parse(file.read_bytes(), where=path)
        for level, name in _imported(modules[path]):
            top = name.partition(".")[0]
            folders = [file.parents[level - 1]] if level else above
            own = next((one for one in folders if (one / f"{top}.py").is_file() or (one / top).is_dir()), None)
            if own is not None:
                ends = (end for part in _prefixes(name) for end in (f"{part}.py", f"{part}/__init__.py"))
                waiting += [own / end for end in ends if (own / end).is_file()]
            elif not level and top not in sys.stdlib_module_names and top not in ALWAYS:
                packages.add(top)
    return modules, tuple(sorted(packages))


def _imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the level and the dotted name of each import at the top; of `from a import b` a.b: b may be a module."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names)


def _prefixes(name: str) -> list[str]:
    """Return a, a/b, a/b/c of a.b.c."""
    parts = name.split(".")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def published(upstream: Upstream, *, offline: bool = False) -> Path:
    """Return the unpatched tree of the listed paths of a repository; without any, of all its Python files.

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
        if not folder.is_dir():  # another process may have fetched it meanwhile
            what = ", ".join(upstream.paths) or "all Python files"
            ui.say(f"cloning {upstream.repository} at {upstream.commit[:12]}: {what}")
            with new_folder(folder) as tree:
                fetch(upstream, tree)
                write_manifest(tree, method="", repository=upstream.repository, commit=upstream.commit, patches={})
    return folder
