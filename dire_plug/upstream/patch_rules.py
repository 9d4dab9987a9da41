"""The patch rule: a patch only inserts, and each inserted line is an import of bridge or one call of it."""

import ast
import inspect
from collections.abc import Iterator

from dire_plug import bridge
from dire_plug.api.patch_file import Hunk, Patch, PatchedFile
from dire_plug.errors import DirePlugError

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
        if hunk.new != hunk.after + inserted + 1 or hunk.after < last:
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
    """Say what is wrong with one inserted line, without its indentation, or return None."""
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
        name for name, value in found if value.__module__ == bridge.__name__ and name[0] != "_" and name != "attach"
    ]
