"""What decides an artefact of code: its meaning, not its bytes.

A comment, a docstring or another layout of one of our modules makes nothing again; a constant, a formula or a default
does. Modules are digested by their syntax tree, in a notation of our own, since `ast.dump` differs between versions of
Python.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from dire_plug.home import PACKAGE

HARMLESS = frozenset({"hookimpl", "property", "cached_property", "staticmethod", "classmethod", "abstractmethod"})
"""Decorators that don't look at the annotations of what they decorate."""
LOOKS_AT_DOCSTRINGS = frozenset({"__doc__", "getdoc", "use_attribute_docstrings"})
LOOKS_AT_ANNOTATIONS = frozenset({"__annotations__", "get_annotations", "get_type_hints", "signature"})
DATA = "DATA"
"""The class attribute that names the data files beside a module."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def package_digest(top: str) -> str | None:
    """Return the sha256, in hex, of all files of a top-level package or module, by their bytes; None without any.

    Data and compiled modules are included, `__pycache__` is not.
    """
    spec = find_spec(top)
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        files = [(top, Path(spec.origin))] if spec.origin else []
    else:
        files = [
            (path.relative_to(root).as_posix(), path)
            for root in spec.submodule_search_locations
            for path in Path(root).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
    return _digest((where, path.read_bytes()) for where, path in sorted(files)) if files else None


def own_digest(module: str) -> str | None:
    """Return the sha256, in hex, of a module of ours, and of what it imports of its folder and of `api`.

    Of each module its meaning counts, and the data files that it names, YAML by its values. None without the module.
    """
    found = sorted(_own_files(module).items())
    parts = [(name, part) for name, path in found for part in _parts(path)]
    return _digest(parts) if parts else None


def _parts(module: Path) -> Iterator[bytes]:
    text = module.read_text()
    yield meaning(text).encode()
    for name in _data_files(text):
        yield name.encode() + b"\0" + _of_data(module.parent / name)


def _of_data(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix not in {".yaml", ".yml"}:
        return content
    return json.dumps(_values(yaml.safe_load(content))).encode()


def _values(value: Any) -> Any:
    if isinstance(value, dict):
        return {"mapping": sorted([repr(key), _values(each)] for key, each in value.items())}
    return [_values(each) for each in value] if isinstance(value, list) else repr(value)


def _digest(parts: Iterable[tuple[str, bytes]]) -> str:
    seen = hashlib.sha256()
    for where, content in parts:
        # the length keeps two parts from one that is both
        seen.update(f"{where} {len(content)} ".encode() + content)
    return seen.hexdigest()


def _own_files(module: str) -> dict[str, Path]:
    # what lies elsewhere changes no formula, and would make every edit another synthesis
    rooms = module.rpartition(".")[0], f"{PACKAGE.name}.api"
    found, waiting = dict[str, Path](), [module]
    while waiting:
        name = waiting.pop()
        plain = PACKAGE.parent.joinpath(*name.split("."))
        path = plain / "__init__.py" if plain.is_dir() else plain.with_suffix(".py")
        if name in found or not name.startswith(rooms) or not path.is_file():
            continue
        found[name] = path
        waiting += _imports(path.read_text())
    return found


# by the text: another one is parsed anew
@lru_cache(maxsize=256)
def _imports(text: str) -> tuple[str, ...]:
    """Return what a module's text may import from other modules."""
    found = list[str]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names a module, `from module import name` doesn't
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _data_files(text: str) -> list[str]:
    """Return the names of files in the class attributes `DATA` of a module."""
    return [
        name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
        for name, value in map(_assigned, node.body)
        if name == DATA and value is not None
        for name in ast.literal_eval(value)
    ]


def _assigned(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return (target.id, getattr(node, "value", None)) if isinstance(target, ast.Name) else (None, None)


# Meaning.


@lru_cache(maxsize=256)
def meaning(text: str) -> str:
    """Return a module's syntax tree as JSON, the same in every supported Python.

    Left out: comments and layout; docstrings, unless the module looks at them; annotations of functions' parameters,
    results and local names, unless the module looks at them or a decorator may, that isn't in `HARMLESS`. Annotations
    in the body of a class count: pydantic and dataclasses read them. What doesn't parse is its own meaning.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text
    named = set(_names(tree))
    written = _Writer(not named.isdisjoint(LOOKS_AT_DOCSTRINGS), not named.isdisjoint(LOOKS_AT_ANNOTATIONS)).write(tree)
    return json.dumps(written, separators=(",", ":"))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


class _Writer:
    """Writes a tree as JSON.

    Attributes:
        annotated: whether annotations count where the writer is.
    """

    def __init__(self, docstrings: bool, annotations: bool) -> None:
        self._docstrings, self._annotations = docstrings, annotations
        self.annotated = True

    def write(self, node: Any) -> Any:
        """Return a node as ["Kind", {field: …}] without empty fields, so that a new optional field changes nothing."""
        if isinstance(node, list):
            return [self.write(each) for each in node]
        if isinstance(node, ast.Constant):
            return [type(node.value).__name__, _literal(node.value)]
        if not isinstance(node, ast.AST):
            return node  # a name, a number of dots, a conversion
        if isinstance(node, ast.Lambda | ast.ClassDef | Function):
            return self._write_scope(node)
        return self._write_plain(node)

    def _write_scope(self, node: ast.Lambda | ast.ClassDef | Function) -> Any:
        outside = self.annotated
        self.annotated = not isinstance(node, Function) or self._annotations or not _harmless(node)
        try:
            return self._write_plain(node)
        finally:
            self.annotated = outside

    def _write_plain(self, node: ast.AST) -> Any:
        if isinstance(node, ast.AnnAssign) and not self.annotated and node.value is not None:
            return self._write_plain(ast.Assign([node.target], node.value))
        fields: dict[str, Any] = {}
        for name, value in ast.iter_fields(node):
            if name in {"ctx", "type_comment", "kind"} or (name in {"annotation", "returns"} and not self.annotated):
                continue
            if isinstance(node, ast.Delete):
                value = list(_deleted(node.targets))
            elif isinstance(node, ast.JoinedStr):
                value = list(_joined(node.values))
            elif isinstance(value, list) and name in {"body", "orelse", "finalbody"}:
                value = [each for each in value if self._does_something(each)]
            if value is not None and value != []:
                fields[name] = self.write(value)
        return [type(node).__name__, fields]

    def _does_something(self, statement: ast.stmt) -> bool:
        # strings below an attribute count as docstrings: some libraries read them from the source
        value = statement.value if isinstance(statement, ast.Expr) else None
        text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        return self._docstrings if text else not isinstance(statement, ast.Pass)


def _harmless(function: Function) -> bool:
    return all(_last_name(decorator) in HARMLESS for decorator in function.decorator_list)


def _last_name(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def _deleted(targets: list[ast.expr]) -> Iterator[ast.expr]:
    """Yield what a `del` names: `del (a, b)` is `del a, b`."""
    for target in targets:
        if isinstance(target, ast.Tuple | ast.List):
            yield from _deleted(target.elts)
        else:
            yield target


def _joined(values: list[ast.expr]) -> Iterator[ast.expr]:
    """Yield the parts of an f-string, texts in one piece and none empty: versions of Python cut them differently."""
    text = ""
    for value in [*values, None]:
        if isinstance(value, ast.Constant):
            text += str(value.value)
            continue
        if text:
            yield ast.Constant(text)
        text = ""
        if value is not None:
            yield value


def _literal(value: Any) -> str:
    """Return a constant as text: of a string its code points, since what `repr` escapes differs between versions."""
    if isinstance(value, str):
        return json.dumps(value)
    return hex(value) if isinstance(value, int) else repr(value)
