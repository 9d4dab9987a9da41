"""Applies patches, and makes sure that they did what they say: git exits 0 where it did nothing, or the wrong thing."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dire_plug.api.patch_file import (
    Patch,
    PatchedFile,
    blob_hash,
    make_patch,
    patch_digest,
    read_patch,
)
from dire_plug.errors import DirePlugError
from dire_plug.upstream.patch_rules import check_rules

__all__ = [
    "OWN_BYTES",
    "apply_patch",
    "check_patched",
    "check_rules",
    "make_patch",
    "patch_digest",
    "read_patch",
    "remake",
    "remove_patch",
]


OWN_BYTES = {"core.autocrlf": "false", "core.eol": "lf", "core.attributesFile": ""}
"""Settings of git under which a file keeps its bytes, whatever the user's own configuration converts."""


def apply_patch(tree: Path, patch: Patch) -> None:
    """Apply a patch to a fresh tree that is no git repository, and look for every inserted line afterwards.

    Raises:
        DirePlugError: the patch breaks the rule, a file isn't the one that it was made for, or git did something else.
    """
    check_rules(patch)
    for file in patch.files:
        _compare(tree, file, expected=file.before, patch=patch, when="before")
    _git_apply(tree, patch)
    for file in patch.files:
        _look_for_lines(tree / file.path, file, patch)
        _compare(tree, file, expected=file.after, patch=patch, when="after")


def check_patched(tree: Path, patches: Sequence[Patch]) -> None:
    """Compare the files that patches touch with what the patches, applied in this order, leave of them.

    Raises:
        DirePlugError: a file isn't as the last patch of it leaves it.
    """
    last = {file.path: (file, patch) for patch in patches for file in patch.files}
    for file, patch in last.values():
        if (found := blob_hash(_read(tree, file, patch))) != file.after:
            raise DirePlugError(
                f"{tree / file.path}: must have the blob hash {file.after}, as {patch.source.name} leaves it, but has "
                f"{found}; it was changed: remove the folder {tree} and run `dire-plug vendor` again"
            )


def remove_patch(tree: Path, patch: Patch) -> None:
    """Take the inserted lines out of a patched tree again, and compare every file with upstream's own.

    Raises:
        DirePlugError: a file isn't as the patch leaves it.
    """
    for file in patch.files:
        path = tree / file.path
        _compare(tree, file, expected=file.after, patch=patch, when="after")
        lines = path.read_bytes().split(b"\n")
        for hunk in reversed(file.hunks):
            del lines[hunk.new - 1 : hunk.new - 1 + len(hunk.inserted)]
        path.write_bytes(b"\n".join(lines))
        _compare(tree, file, expected=file.before, patch=patch, when="before")


def remake(tree: Path, patch: Patch) -> str:
    """Return the text of the patch that inserts the same lines at the same places of an unpatched tree."""
    contents = {file.path: _read(tree, file, patch) for file in patch.files}
    places = {file.path: {hunk.after: hunk.inserted for hunk in file.hunks} for file in patch.files}
    return make_patch(contents, places, commit=patch.commit)


def _read(tree: Path, file: PatchedFile, patch: Patch) -> bytes:
    try:
        return (tree / file.path).read_bytes()
    except OSError as error:
        raise DirePlugError(
            f"{tree / file.path}: {patch.source.name} touches this file, which cannot be read: {error.strerror}; "
            "does the adapter list it among upstream's paths?"
        ) from error


def _compare(tree: Path, file: PatchedFile, *, expected: str, patch: Patch, when: str) -> None:
    found = blob_hash(_read(tree, file, patch))
    if found != expected:
        raise DirePlugError(
            f"{tree / file.path}: {when} {patch.source.name} the file must have the blob hash {expected}, "
            f"but has {found}; the patch is valid for commit {patch.commit} only"
        )


def _git_apply(tree: Path, patch: Patch) -> None:
    """Run `git apply` as if no repository stood around `tree`: inside one it may skip every file and exit 0.

    The user's configuration is read nevertheless, so what it converts is switched off.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CEILING_DIRECTORIES": str(tree.resolve().parent), "GIT_ATTR_NOSYSTEM": "1"}
    settings = [part for name, value in OWN_BYTES.items() for part in ("-c", f"{name}={value}")]
    options = ["--unidiff-zero", "--whitespace=nowarn", "--no-ignore-whitespace"]
    command = ["git", *settings, "apply", *options, str(patch.source.resolve())]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DirePlugError("git was not found; install it (vendoring and patching need it)") from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"git apply ended with {done.returncode}"]
        raise DirePlugError(f"{patch.source}: git cannot apply the patch to {tree}: {last[0]}")


def _look_for_lines(path: Path, file: PatchedFile, patch: Patch) -> None:
    lines = path.read_bytes().split(b"\n")
    for hunk in file.hunks:
        for number, line in enumerate(hunk.inserted, start=hunk.new):
            found = lines[number - 1].rstrip(b"\r").decode(errors="replace") if number <= len(lines) else "the end"
            if found != line:
                raise DirePlugError(
                    f"{path}:{number}: after {patch.source.name}, {line.strip()!r} must stand here, "
                    "but git left the line out or put it elsewhere"
                )
