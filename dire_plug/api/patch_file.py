"""Read and write patch files: insert-only diffs without context; the header pins a commit and each file's hash."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dire_plug.errors import DirePlugError

TITLE = "A dire-plug patch: it only inserts, has no context, and is valid for this commit alone."
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)$")
_FILE = re.compile(r"^file: ([0-9a-f]{40}) ([0-9a-f]{40}) (.+)$")
_COMMIT = re.compile(r"^commit: ([0-9a-f]{40})$")


@dataclass(frozen=True)
class Hunk:
    """Lines at one place.

    Attributes:
        line: the number, in the patch file, of the hunk's first line.
        after: the line of the unpatched file, from 1, after which the lines stand.
        new: the number that the first inserted line has in the patched file.
        heading: what follows the second `@@`.
        counts: the numbers of lines before and after that the hunk claims.
        body: the lines as they stand in the patch, with their first character.
    """

    line: int
    after: int
    new: int
    heading: str
    counts: tuple[int, int]
    body: tuple[str, ...]

    @property
    def inserted(self) -> tuple[str, ...]:
        """The inserted lines, without the plus sign and the line end."""
        return tuple(line[1:].removesuffix("\r") for line in self.body if line.startswith("+"))


@dataclass(frozen=True)
class PatchedFile:
    """One file that a patch touches: its path in the repository, git's blob hashes before and after, the hunks."""

    path: str
    before: str
    after: str
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class Patch:
    """A patch: where it was read, the commit that it is valid for, and the files that it touches."""

    source: Path
    commit: str
    files: tuple[PatchedFile, ...]


def blob_hash(content: bytes) -> str:
    """Return git's blob hash (sha1, 40 hex) of a file's content."""
    # git's own hash, so that a reader can check it with `git hash-object`
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def patch_digest(patches: Sequence[Path]) -> str:
    """Return the sha256, in hex, of the contents of patch files in their order."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in patches)).hexdigest()


def read_patch(path: Path) -> Patch:
    """Read a patch file.

    Raises:
        DirePlugError: the file cannot be read, its header lacks the commit or a file's hashes, or it is no diff.
    """
    try:
        # bytes, not read_text: universal newlines would hide a carriage return, which belongs to the line
        lines = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DirePlugError(f"{path}: the patch cannot be read: {error}") from error
    start = next((number for number, line in enumerate(lines) if line.startswith("diff --git ")), len(lines))
    commits = [found[1] for line in lines[:start] if (found := _COMMIT.match(line))]
    hashes = {found[3]: (found[1], found[2]) for line in lines[:start] if (found := _FILE.match(line))}
    if len(commits) != 1:
        raise DirePlugError(f"{path}: the header must name one commit, `commit: <40 hex>`; it names {len(commits)}")
    hunks = _read_hunks(path, lines, start)
    # a file in the diff without hashes would be patched unchecked
    if not hunks or hashes.keys() != hunks.keys():
        listed, touched = ", ".join(sorted(hashes)) or "nothing", ", ".join(sorted(hunks)) or "nothing"
        raise DirePlugError(f"{path}: the header lists {listed}, but the diff touches {touched}; make the patch again")
    files = tuple(PatchedFile(name, *hashes[name], tuple(found)) for name, found in hunks.items())
    return Patch(path, commits[0], files)


def _read_hunks(path: Path, lines: list[str], start: int) -> dict[str, list[Hunk]]:
    files: dict[str, list[Hunk]] = {}
    name = ""
    number = start
    end = len(lines) - (lines[-1] == "")
    while number < end:
        line = lines[number]
        number += 1
        if line.startswith("+++ b/"):
            name = line.removeprefix("+++ b/")
            files.setdefault(name, [])
        elif found := _HUNK.match(line):
            first = number
            while number < end and not lines[number].startswith(("@@", "diff --git ")):
                number += 1
            counts = (int(found[2] or 1), int(found[4] or 1))
            hunk = Hunk(first, int(found[1]), int(found[3]), found[5], counts, tuple(lines[first:number]))
            files.setdefault(name, []).append(hunk)
        elif not line.startswith(("diff --git ", "--- a/")):
            raise DirePlugError(f"{path}:{number}: not a line of a diff between two versions of a file: {line!r}")
    return files


def make_patch(
    contents: Mapping[str, bytes], insertions: Mapping[str, Mapping[int, Sequence[str]]], *, commit: str
) -> str:
    """Return the text of the patch that inserts lines into files.

    Args:
        contents: path in the repository → content of the unpatched file.
        insertions: path → number of the line after which to insert → the lines, indented, without line ends.
        commit: the 40 hex digits of the commit that the contents are of.

    Raises:
        DirePlugError: a line number lies outside its file.
    """
    header = [TITLE, f"commit: {commit}"]
    diff: list[str] = []
    for path, places in insertions.items():
        before = contents[path]
        after = insert_lines(before, places, path=path)
        header.append(f"file: {blob_hash(before)} {blob_hash(after)} {path}")
        diff += [f"diff --git a/{path} b/{path}", f"--- a/{path}", f"+++ b/{path}"]
        end = _line_end(before)
        shift = 0
        for place in sorted(places):
            count = len(places[place])
            diff.append(f"@@ -{place},0 +{place + shift + 1}{f',{count}' if count > 1 else ''} @@")
            diff += [f"+{line}{end}" for line in places[place]]
            # later hunks start lower by what the earlier ones inserted
            shift += count
    return "\n".join([*header, "", *diff, ""])


def insert_lines(content: bytes, places: Mapping[int, Sequence[str]], *, path: str) -> bytes:
    """Return `content` with lines inserted after the lines numbered by `places`, with the file's own line ends."""
    lines = content.split(b"\n")
    last = len(lines) - 1  # what follows the last line end cannot be continued without changing it
    end = _line_end(content)
    # from the end, so that the numbers of earlier places stay right
    for place in sorted(places, reverse=True):
        if not 0 <= place <= last:
            raise DirePlugError(f"{path}: lines can be inserted after lines 0 to {last}, not after {place}")
        lines[place:place] = [(line + end).encode() for line in places[place]]
    return b"\n".join(lines)


def _line_end(content: bytes) -> str:
    """Return what stands before a line feed in this file: a carriage return, or nothing."""
    return "\r" if content.partition(b"\n")[0].endswith(b"\r") else ""
