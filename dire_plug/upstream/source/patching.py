"""Apply patches and check the result: git exits 0 even where it did nothing, or the wrong thing."""

import ast
import inspect
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from dire_plug import bridge
from dire_plug.api.patch_file import (
    Hunk,
    Patch,
    PatchedFile,
    blob_hash,
    make_patch,
    patch_digest,
    read_patch,
)
from dire_plug.errors import DirePlugError

# The patch rule: a patch only inserts, and each inserted line is an import of bridge or one call of it.


REPAIR = "repair.patch"
"""The patch that mends a script which crashes as published; it may also give a name that the script never defines."""


def check_rules(patch: Patch) -> None:
    """Check a patch against the rule.

    Raises:
        DirePlugError: one `patch:line: message` for every line that breaks it.
    """
    repair = patch.source.name == REPAIR
    problems = [
        f"{patch.source}:{number}: {problem}"
        for file in patch.files
        for number, problem in [*_problems_of_order(file), *_problems_of_lines(file, repair=repair)]
    ]
    if problems:
        raise DirePlugError("\n".join(problems))


def _problems_of_order(file: PatchedFile) -> Iterator[tuple[int, str]]:
    """Find hunks whose two line numbers don't agree, or that don't go down the file."""
    inserted = last = 0
    for hunk in file.hunks:
        if hunk.new != hunk.after + inserted + 1 or hunk.after < last:  # below what was inserted above
            yield hunk.line, f"inserting after line {hunk.after} makes line {hunk.after + inserted + 1}, not {hunk.new}"
        inserted += len(hunk.inserted)
        last = hunk.after


def _problems_of_lines(file: PatchedFile, *, repair: bool) -> Iterator[tuple[int, str]]:
    for hunk in file.hunks:
        yield from _problems(hunk, repair=repair)


def _problems(hunk: Hunk, *, repair: bool) -> Iterator[tuple[int, str]]:
    if hunk.heading:
        yield hunk.line, f"the hunk heading carries text, {hunk.heading.strip()!r}; leave nothing behind `@@`"
    if hunk.counts != (0, len(hunk.body)):
        yield hunk.line, f"the hunk claims {hunk.counts} lines before and after, and inserts {len(hunk.body)}"
    for number, line in enumerate(hunk.body, start=hunk.line + 1):
        if not line.startswith("+"):
            kind = {"-": "deletes a line", " ": "has context"}.get(line[:1], f"has the line {line!r}")
            yield number, f"the patch {kind}; a patch only inserts"
        elif problem := line_problem(line[1:].strip(), repair=repair):
            yield number, f"{line[1:].strip()!r}: {problem}"


def line_problem(line: str, *, repair: bool) -> str | None:
    """Return the problem of one inserted line, without its indentation; None where there is none."""
    try:
        body = ast.parse(line).body
    except SyntaxError:
        return "not one whole Python statement"
    if len(body) != 1:
        return "one statement a line, please"
    match body[0]:
        case ast.ImportFrom(module="dire_plug", names=[ast.alias(name="bridge", asname=None)], level=0):
            return None
        case ast.Expr(value=ast.Call() as call):
            return _call_problem(call)
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
            changes = not call.args or not isinstance(call.args[0], ast.Name) or call.args[0].id != name
            if changes and not repair:
                return "an assigned name must be the first argument, so that a hook that nobody answers changes nothing"
            return _call_problem(call)
    return "neither `from dire_plug import bridge` nor one call of bridge"


def _call_problem(call: ast.Call) -> str | None:
    known = bridge_functions()
    match call.func:
        case ast.Attribute(value=ast.Name(id="bridge"), attr=name):
            if name not in known:
                return f"bridge has no function '{name}' for patches; it has {', '.join(known)}"
        case _:
            return "the only thing that a patch may call is bridge"
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        if not _is_plain(argument):
            return (
                f"argument `{ast.unparse(argument)}`: names, attributes and items of the script only, nothing computed"
            )
    if any(keyword.arg is None for keyword in call.keywords):
        return "arguments are written out, without `**`"
    return None


def _is_plain(node: ast.expr) -> bool:
    match node:
        case ast.Name() | ast.Constant(value=str()):
            return True
        case ast.Attribute(value=inner):
            return _is_plain(inner)
        case ast.Subscript(value=inner, slice=index):
            return _is_plain(inner) and _is_plain(index)
    return False


def bridge_functions() -> list[str]:
    """Return the names of bridge's functions that a patch may call."""
    found = inspect.getmembers(bridge, inspect.isfunction)
    return [
        # its own functions, not those that it imports
        name
        for name, value in found
        if value.__module__ == bridge.__name__ and name[0] != "_" and name != "attach"
    ]


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
        for hunk in reversed(file.hunks):  # from the end, so that the numbers above stay true
            del lines[hunk.new - 1 : hunk.new - 1 + len(hunk.inserted)]
        path.write_bytes(b"\n".join(lines))
        _compare(tree, file, expected=file.before, patch=patch, when="before")


def remake(tree: Path, patch: Patch) -> str:
    """Return the text of the patch that inserts the same lines after the same lines of an unpatched tree."""
    contents = {file.path: _read(tree, file, patch) for file in patch.files}
    insertions = {file.path: {hunk.after: hunk.inserted for hunk in file.hunks} for file in patch.files}
    return make_patch(contents, insertions, commit=patch.commit)


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
    # git sets these in its hooks, and would work on the caller's repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CEILING_DIRECTORIES": str(tree.resolve().parent), "GIT_ATTR_NOSYSTEM": "1"}
    settings = [part for name, value in OWN_BYTES.items() for part in ("-c", f"{name}={value}")]
    # without context, since no line of upstream's may stand in a patch
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
            # a file with Windows line ends keeps them; the patch's lines have none
            found = lines[number - 1].rstrip(b"\r").decode(errors="replace") if number <= len(lines) else "the end"
            if found != line:
                raise DirePlugError(
                    f"{path}:{number}: after {patch.source.name}, {line.strip()!r} must stand here, "
                    "but git left the line out or put it elsewhere"
                )
