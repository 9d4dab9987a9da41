"""Compare a vendored tree with its manifest and with the pins of its adapter, at every later use.

The manifest is in the tree, so whoever changes a file can change its record too; the pins are git's own hashes, and
are in the adapter.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dire_plug.api.patch_file import blob_hash
from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, read_json, write_json

MANIFEST = ".dire-plug.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """The contents of a vendored tree, as its manifest file has them.

    Attributes:
        method, repository, commit: where it comes from.
        patches: name → sha256 of each patch that was applied.
        files: path in the tree → sha256.
    """

    method: str
    repository: str
    commit: str
    patches: dict[str, str]
    files: dict[str, str]


def write_manifest(tree: Path, *, method: str, repository: str, commit: str, patches: dict[str, str]) -> None:
    """Record the files of `tree` as they are now."""
    manifest = Manifest(method, repository, commit, patches, _digests(tree))
    write_json(tree / MANIFEST, {"format": FORMAT, **asdict(manifest)})


def read_manifest(tree: Path) -> Manifest:
    """Read the manifest of a vendored tree."""
    content: Any = read_json(tree / MANIFEST)
    try:
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        return Manifest(**content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DirePlugError(f"{tree / MANIFEST}: not a manifest of this version. {_advice(tree)}") from error


def verify_tree(tree: Path) -> None:
    """Compare every file of a vendored tree with its manifest.

    Raises:
        DirePlugError: one line for each file that changed, is missing, or was added, and what to do.
    """
    expected = read_manifest(tree).files
    found = _digests(tree)
    problems = [
        f"{tree / name}: {_difference(expected.get(name), found.get(name))}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if problems:
        raise DirePlugError("\n".join([*problems, _advice(tree)]))


def verify_pins(tree: Path, pins: Mapping[str, str], patched: Mapping[str, str]) -> None:
    """Compare a vendored tree with the hashes that its adapter pins; without pins, compare nothing.

    Args:
        pins: path → git's hash of the blob or tree.
        patched: path → blob hash before the first patch of it, which is compared instead of the file's own.

    Raises:
        DirePlugError: one line for each path that differs, and for each file that no pin covers.
    """
    if not pins:
        return
    problems = []
    for path, pin in pins.items():
        found = [object_hash(tree, path, patched=patched, modes=modes) for modes in (False, True)]
        if pin not in found:  # a file system may mark every file as executable, or none
            problems.append(f"{tree / path}: must have git's hash {pin}, as the adapter pins it, but has {found[0]}")
    for name in _digests(tree):
        if not any(path in (".", name) or name.startswith(f"{path}/") for path in pins):
            problems.append(f"{tree / name}: isn't one of the adapter's pinned files")
    if problems:
        raise DirePlugError("\n".join([*problems, _advice(tree)]))


def object_hash(tree: Path, path: str, *, patched: Mapping[str, str] | None = None, modes: bool = False) -> str:
    """Return git's hash (40 hex) of a file, or of a folder without links, in a tree; "nothing" where there is none.

    Args:
        path: below the tree.
        patched: path → blob hash to use instead of the file's own.
        modes: whether executable files have git's mode for them; otherwise all files have the plain one.
    """
    found = tree / path
    if found.is_file():
        return (patched or {}).get(path) or blob_hash(found.read_bytes())
    if not found.is_dir():
        return "nothing"
    entries = []
    # git sorts folders as if their names ended in a slash
    for entry in sorted(found.iterdir(), key=lambda one: f"{one.name}/" if one.is_dir() else one.name):
        name = entry.relative_to(tree).as_posix()
        if name == MANIFEST:
            continue
        mode = "40000" if entry.is_dir() else "100755" if modes and entry.stat().st_mode & 0o100 else "100644"
        own = bytes.fromhex(object_hash(tree, name, patched=patched, modes=modes))
        entries.append(f"{mode} {entry.name}\0".encode() + own)
    content = b"".join(entries)
    # sha1 because git's hash is; some builds of Python refuse it where security may depend on it
    return hashlib.sha1(b"tree %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _digests(tree: Path) -> dict[str, str]:
    files = (path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir())
    return {
        # a link's target counts and not what it points to, which may lie outside
        path.relative_to(tree).as_posix(): f"link to {path.readlink()}" if path.is_symlink() else digest_file(path)
        for path in sorted(files)
        if path != tree / MANIFEST
    }


def _difference(expected: str | None, found: str | None) -> str:
    if found is None:
        return "is missing"
    return "was added" if expected is None else "was changed"


def _advice(tree: Path) -> str:
    return f"Upstream's code runs only as it was vendored: remove the folder {tree} and run `dire-plug vendor` again."
