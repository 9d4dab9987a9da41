"""`dire-plug patch`: lines of a patch, put in, shown and taken out by their place in the published file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dire_plug.api.checklist import IMPORT
from dire_plug.api.patch_file import Patch, blob_hash, insert_lines, make_patch, read_patch
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.scaffold.placing import check_statement, indentation, outer_indents
from dire_plug.scaffold.reading import end_of_imports, parse, read_script
from dire_plug.types import Adapter
from dire_plug.upstream.patch_rules import REPAIR, line_problem

NAME = "bridge.patch"
Places = dict[str, dict[int, list[str]]]
"""File → the line of the published file after which lines stand → those lines, indented."""


@dataclass(frozen=True)
class Place:
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

    place: Place
    number: int
    text: str
    outer: tuple[int, ...] = ()


def read_place(text: str) -> Place:
    """Read `FILE:LINE`.

    Raises:
        DirePlugError: it isn't of that form.
    """
    file, _, line = text.rpartition(":")
    if not file or not line.isascii() or not line.isdigit():
        raise DirePlugError(
            f"'{text}' is no place; write FILE:LINE, the line of the published file after which it stands"
        )
    return Place(str(PurePosixPath(file)), int(line))


def show_lines(adapter: Adapter) -> list[Inserted]:
    """Return the inserted lines of a method's patch, in their order."""
    return list(_lines(read_patch(adapter.patches() / NAME)))


def insert_line(adapter: Adapter, tree: Path, place: Place, call: str, *, indent: int | None = None) -> Inserted:
    """Insert a line into a method's patch, and the import of bridge into a file that lacks it; write the patch anew.

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
        raise DirePlugError(f"{place}: {call!r} stands there already")
    text = (indentation(content, place.line) if indent is None else " " * indent) + call
    own.setdefault(place.line, []).append(text)
    number = place.line + sum(len(lines) for line, lines in own.items() if line <= place.line)
    check_statement(before, insert_lines(content, own, path=place.file), line=number, where=str(place))
    _write(adapter, contents, places)
    return Inserted(place, number, text, tuple(outer_indents(content, place.line)) if indent is None else ())


def remove_lines(adapter: Adapter, tree: Path, place: Place, call: str | None = None) -> list[Inserted]:
    """Take the lines after a place, or the one of them that is `call`, out of a patch; return them.

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
            f"{place}: the import goes by itself, with a file's last call; a patch's first file keeps it"
        )
    if not own[place.line]:
        del own[place.line]
    if len(places) > 1 and own == _import_of(contents[place.file]):
        del places[place.file]
    _write(adapter, contents, places)
    return gone


def _check_call(call: str) -> None:
    if call == IMPORT:
        raise DirePlugError(f"'{call}' is put in by itself, into each file that the patch touches")
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
            "lines have other numbers: write a new package with `dire-plug new method`"
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


def _lines(patch: Patch) -> Iterator[Inserted]:
    for file in patch.files:
        for hunk in file.hunks:
            for number, text in enumerate(hunk.inserted, start=hunk.new):
                yield Inserted(Place(file.path, hunk.after), number, text)
