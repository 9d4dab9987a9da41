"""Move a method's package to another commit of its upstream: commit, pins, and the patch, line by line."""

import re
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from dire_plug.api.checklist import IMPORT
from dire_plug.api.patch_file import insert_lines, make_patch, read_patch
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.scaffold.patch_edit import NAME, Inserted, PatchLocation, Places, check_statement, find_owner, show_lines
from dire_plug.scaffold.script import published, read_facts, read_script
from dire_plug.upstream.source.tree import object_hash


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        folder: of the package.
        moved: lines of the patch, at their new places.
        lost: those whose place changed, to be inserted again.
        added, removed: flags of the script.
    """

    folder: Path
    moved: tuple[Inserted, ...]
    lost: tuple[Inserted, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


def update_method(name: str, commit: str, *, into: Path, offline: bool = False) -> Update:
    """Move the package of a method, in its folder below `into`, to another commit of the same repository.

    A line of the patch moves with the published line after which it stands, where that one and the next are unchanged.

    Raises:
        DirePlugError: there is no such package, the commit can't be reached, or nothing would change.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise DirePlugError(f"--commit must be the full commit, 40 hex digits (is '{commit}')")
    folder = into.absolute() / f"dire-plug-{name}"
    adapter = find_owner(name, package=folder)
    old = adapter.upstream
    if commit == old.commit:
        raise DirePlugError(f"{name} is at commit {commit} already")
    if (adapter.patches() / "repair.patch").is_file():
        raise DirePlugError(f"{name} has a repair.patch, which is updated by hand: adapter, patches and recipes")
    before = published(old, offline=offline)
    after = published(replace(old, commit=commit, pins={}), offline=offline)
    moved, lost, places = list[Inserted](), list[Inserted](), dict[str, dict[int, list[str]]]()
    contents: dict[str, bytes] = {}
    patch = read_patch(adapter.patches() / NAME)
    for file in patch.files:
        contents[file.path] = read_script(after, file.path)
        lines = _matching(read_script(before, file.path), contents[file.path])
        own: dict[int, list[str]] = {read_facts(after, file.path).imports_end: [IMPORT]}
        for line in show_lines(adapter):
            if line.place.file != file.path or line.text == IMPORT:
                continue
            new = lines.get(line.place.line)
            if new is None or not _stands(contents[file.path], own, new, line, file.path):
                lost.append(line)
            else:
                own.setdefault(new, []).append(line.text)
                moved.append(replace(line, place=PatchLocation(file.path, new)))
        places[file.path] = own
    text = make_patch(contents, places, commit=commit)
    pins = {path: object_hash(after, path) for path in old.paths}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".yaml") and (content := path.read_text()) != (
            changed := _replaced(content, old.commit, commit, dict(old.pins), pins)
        ):
            write_atomically(path, changed)
    write_atomically(adapter.patches() / NAME, text.encode())
    script = patch.files[0].path
    flags = [{flag.name for flag in read_facts(tree, script).flags} for tree in (before, after)]
    added, removed = (tuple(sorted(one - other)) for one, other in (reversed(flags), flags))
    return Update(folder, tuple(moved), tuple(lost), added, removed)


def _replaced(text: str, old: str, new: str, pins: dict[str, str], new_pins: dict[str, str]) -> str:
    text = text.replace(old, new)
    for path, pin in pins.items():
        text = text.replace(pin, new_pins.get(path, pin))
    return text


def _matching(before: bytes, after: bytes) -> dict[int, int]:
    """Return line → new line, from 1, of lines that are unchanged with the one that follows them; 0 is the top."""
    old, new = (content.decode(errors="replace").split("\n") for content in (before, after))
    found = {0: 0}
    for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        # the last line of a block has another one behind it: the call might belong elsewhere
        found |= {block.a + step + 1: block.b + step + 1 for step in range(block.size - 1)}
    return found


def _stands(content: bytes, own: dict[int, list[str]], place: int, line: Inserted, path: str) -> bool:
    """Return whether a line can stand after a line of the new script."""
    before = insert_lines(content, own, path=path)
    further: Places = {path: {**own, place: [*own.get(place, []), line.text]}}
    number = place + sum(len(lines) for after, lines in further[path].items() if after <= place)
    try:
        check_statement(before, insert_lines(content, further[path], path=path), line=number, where=path)
    except DirePlugError:
        return False
    return True
