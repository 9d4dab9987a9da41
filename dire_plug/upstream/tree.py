"""A vendored tree and its manifest: what was put there, so that every later use can see that nothing changed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, read_json, write_json

MANIFEST = ".dire-plug.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a tree holds.

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


def _digests(tree: Path) -> dict[str, str]:
    files = (path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir())
    return {
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
