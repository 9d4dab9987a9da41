"""Edit a patch line by line: insert, show and remove lines, by the line of the published file after which they stand.

`check_statement` makes sure that an inserted line became a statement of the script; `find_owner` finds the adapter
whose patch is edited, installed or in a folder, and never dire-plug's own by accident.
"""

import ast
import importlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from dire_plug import home, plugins
from dire_plug.api.checklist import IMPORT
from dire_plug.api.patch_file import Patch, blob_hash, insert_lines, make_patch, read_patch
from dire_plug.errors import DirePlugError, PluginError, nearest
from dire_plug.files import write_atomically
from dire_plug.scaffold.reach import place_problem
from dire_plug.scaffold.script import end_of_imports, parse, read_script
from dire_plug.types import Adapter
from dire_plug.upstream.source.patching import REPAIR, line_problem


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
    return sorted(ending)[:-1]  # the innermost is what `indentation` gives


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
            of bridge, it uses a name that the script doesn't have, or it is never reached, or too often.
    """
    try:
        tree = parse(after, where=where)
    except DirePlugError as error:
        raise DirePlugError(
            f"{where}: with the line there, the script can't be read any more; the line before must be the last one of "
            f"a statement, and the indentation must fit (--indent); nothing was changed ({error})"
        ) from error
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno == line]
    if not found:  # in a text of several lines
        raise DirePlugError(f"{where}: the line would stand within a text, and never be called; nothing was changed")
    if line < _import_line(tree):
        raise DirePlugError(f"{where}: the line would stand before bridge is imported; nothing was changed")
    # names are compared before anything runs: a typo would otherwise fail in the middle of a synthesis
    known = set(_names(parse(before, where=where))) | {"bridge"}
    for name in sorted(set(_loaded(found[0])) - known):
        if "*" not in known:  # `import *` may bring any name
            raise DirePlugError(f"{where}: the script has no name '{name}'{nearest(name, known)}; nothing was changed")
    if problem := place_problem(tree, line):
        raise DirePlugError(f"{where}: {problem}; nothing was changed")


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
    return content.decode(errors="replace").split("\n")  # not splitlines, to which a form feed ends a line


def _white(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


NAME = "bridge.patch"
Places = dict[str, dict[int, list[str]]]
"""File → the line of the published file after which lines stand → those lines, indented."""


@dataclass(frozen=True)
class PatchLocation:
    """A line of a published file, from 1; lines are inserted after it."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Inserted:
    """A line of a patch.

    Attributes:
        place: the line of the published file after which it stands.
        number: in the patched file.
        text: indented.
        outer: indents of blocks that end there, behind which it could stand too; none where the indent was given.
    """

    place: PatchLocation
    number: int
    text: str
    outer: tuple[int, ...] = ()


def parse_location(text: str) -> PatchLocation:
    """Read `FILE:LINE`.

    Raises:
        DirePlugError: it isn't of that form.
    """
    file, _, line = text.rpartition(":")
    if not file or not line.isascii() or not line.isdigit():
        raise DirePlugError(
            f"'{text}' is no location; write FILE:LINE, the line of the published file after which to insert"
        )
    return PatchLocation(str(PurePosixPath(file)), int(line))


def show_lines(adapter: Adapter) -> list[Inserted]:
    """Return the inserted lines of a method's patch, in their order."""
    return list(_inserted_lines(read_patch(adapter.patches() / NAME)))


def insert_line(
    adapter: Adapter, tree: Path, place: PatchLocation, call: str, *, indent: int | None = None
) -> Inserted:
    """Insert a line into a method's patch, and the import of bridge into a file that lacks it; write the patch again.

    Args:
        tree: the published code, unpatched.
        call: one call of bridge; its own indentation doesn't count.
        indent: the number of spaces before it; None takes those of the statement before.

    Raises:
        DirePlugError: the line breaks the rule, has no place there, or stands there already; the patch isn't for these
            files. Nothing is changed then.
    """
    call = call.strip()
    _check_call(call)
    contents, places = _read(adapter, tree, also=place.file)
    content = contents[place.file]
    if place.line > (count := content.count(b"\n")):
        raise DirePlugError(f"{place}: the file has lines 1 to {count}; 0 is above the first")
    own = places.setdefault(place.file, _import_of(content))
    before = insert_lines(content, own, path=place.file)
    if call in (line.strip() for line in own.get(place.line, ())):
        raise DirePlugError(f"{place}: {call!r} is there already")
    text = (indentation(content, place.line) if indent is None else " " * indent) + call
    own.setdefault(place.line, []).append(text)
    number = place.line + sum(len(lines) for line, lines in own.items() if line <= place.line)  # those above move it
    check_statement(before, insert_lines(content, own, path=place.file), line=number, where=str(place))
    _write(adapter, contents, places)
    return Inserted(place, number, text, tuple(outer_indents(content, place.line)) if indent is None else ())


def remove_lines(adapter: Adapter, tree: Path, place: PatchLocation, call: str | None = None) -> list[Inserted]:
    """Remove the lines after a place, or the one of them that is `call`, from a patch; return them.

    Raises:
        DirePlugError: there is none, or it is the import, which goes by itself. Nothing is changed then.
    """
    contents, places = _read(adapter, tree)
    wanted = None if call is None else call.strip()
    here = [line for line in show_lines(adapter) if line.place == place]
    gone = [line for line in here if wanted in (None, line.text.strip())]
    if not gone:
        there = ", ".join(sorted({str(line.place) for line in show_lines(adapter)}))
        raise DirePlugError(
            f"{place}: the patch has no {'such line' if here else 'line'} there; it has lines at {there}"
        )
    texts = [line.text for line in gone]
    own = places[place.file]
    own[place.line] = [text for text in own[place.line] if text not in texts]
    if IMPORT in texts:
        raise DirePlugError(
            f"{place}: the import is removed automatically, with a file's last call; a patch's first file keeps it"
        )
    if not own[place.line]:
        del own[place.line]
    if len(places) > 1 and own == _import_of(contents[place.file]):  # a patch of no file can't be written
        del places[place.file]
    _write(adapter, contents, places)
    return gone


def _check_call(call: str) -> None:
    if call == IMPORT:
        raise DirePlugError(f"'{call}' is inserted automatically, into each file that the patch touches")
    problem = "one line, please" if len(call.splitlines()) > 1 else line_problem(call, repair=False)
    if problem:
        raise DirePlugError(f"{call!r}: {problem}")


def _import_of(content: bytes) -> dict[int, list[str]]:
    return {end_of_imports(parse(content, where="the script")): [IMPORT]}


def _read(adapter: Adapter, tree: Path, *, also: str | None = None) -> tuple[dict[str, bytes], Places]:
    """Return the contents of the files that a patch is for, and `also`, before it; and its lines.

    A repair is applied before, so the numbers are those of the repaired file.
    """
    patch = read_patch(adapter.patches() / NAME)
    if patch.commit != adapter.upstream.commit:
        raise DirePlugError(
            f"{patch.source}: is for commit {patch.commit}, but the adapter pins {adapter.upstream.commit}, where "
            "lines have other numbers: dire-plug new method NAME --update --commit SHA moves both"
        )
    files = dict.fromkeys([*(file.path for file in patch.files), *([also] if also else [])])
    contents = {file: _repaired(adapter, file, read_script(tree, file)) for file in files}
    for file in patch.files:
        if (found := blob_hash(contents[file.path])) != file.before:
            raise DirePlugError(
                f"{patch.source}: is for a {file.path} with the blob hash {file.before}; the published one has {found}"
            )
    return contents, {file.path: {hunk.after: list(hunk.inserted) for hunk in file.hunks} for file in patch.files}


def _repaired(adapter: Adapter, path: str, content: bytes) -> bytes:
    repair = adapter.patches() / REPAIR
    if not repair.is_file():
        return content
    for file in read_patch(repair).files:
        if file.path == path:
            content = insert_lines(content, {hunk.after: hunk.inserted for hunk in file.hunks}, path=path)
    return content


def _write(adapter: Adapter, contents: Mapping[str, bytes], places: Places) -> None:
    text = make_patch(contents, places, commit=adapter.upstream.commit)
    write_atomically(adapter.patches() / NAME, text.encode())


def _inserted_lines(patch: Patch) -> Iterator[Inserted]:
    for file in patch.files:
        for hunk in file.hunks:
            for number, text in enumerate(hunk.inserted, start=hunk.new):
                yield Inserted(PatchLocation(file.path, hunk.after), number, text)


GROUP = "dire_plug.methods"


def find_owner(method: str, *, package: Path | None) -> Adapter:
    """Return the adapter whose patch may be edited.

    Args:
        package: the folder of a package that needn't be installed; None looks for its entry point.

    Raises:
        DirePlugError: nobody offers the method, or it is one of dire-plug's own, whose patches change in a checkout of
            it only.
    """
    adapter = _in_folder(method, package) if package else _installed(method)
    ours = adapter.patches().resolve().is_relative_to(home.resource("patches").resolve())
    if ours and not (package and home.checkout() == package.resolve()):
        raise DirePlugError(f"{method} is dire-plug's own, and its patch isn't edited; write a method of your own")
    return adapter


def _installed(method: str) -> Adapter:
    known = plugins.known("methods")
    if plugins.find_method(method) not in known:
        raise DirePlugError(
            f"unknown method '{method}'{nearest(method, known)}; install its package: pip install --no-deps "
            "-e FOLDER; or name its folder with --package FOLDER"
        )
    return plugins.load_adapter(method)


def _in_folder(method: str, package: Path) -> Adapter:
    points = _entry_points(package)
    if method not in points:
        offered = ", ".join(points) or "none"
        raise DirePlugError(f"{package}: offers no method '{method}'{nearest(method, points)}; it offers {offered}")
    module, _, attribute = points[method].partition(":")
    with _importable(package):
        try:
            loaded = importlib.import_module(module)
            adapter = getattr(loaded, attribute)()
        except Exception as error:  # a third party's module may raise anything
            raise PluginError(f"{package}: {points[method]} cannot be made: {error!r}") from error
    # an installed package of the same name shadows the folder; editing its patch would be a surprise
    if not Path(loaded.__file__ or "").resolve().is_relative_to(package.resolve()):
        raise DirePlugError(f"{package}: {module} is installed from {loaded.__file__}; leave out --package")
    return cast(Adapter, adapter)


def _entry_points(package: Path) -> dict[str, str]:
    file = package / "pyproject.toml"
    try:
        content: Any = tomllib.loads(file.read_text())
    except OSError as error:
        raise DirePlugError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DirePlugError(f"{file}: {error}") from error
    return dict(content.get("project", {}).get("entry-points", {}).get(GROUP, {}))


@contextmanager
def _importable(package: Path) -> Iterator[None]:
    """Make the modules of a folder importable; those below `src` too."""
    places = [str((package / name).resolve()) for name in (".", "src")]
    sys.path[:0] = places
    importlib.invalidate_caches()  # finders remember folders, and this one may be seconds old
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
