"""Find inserted calls that the script would never reach, or reach too often: by its loops and blocks, without a run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

BEGINS_SLOT = ("labels", "start", "steps")
"""Functions of bridge that are called once a batch."""
OF_A_STEP = ("loss", "term", "step_done")
LEAVES = {ast.Return: "return", ast.Raise: "raise", ast.Continue: "continue", ast.Break: "break"}
LOOPS = (ast.For, ast.While, ast.AsyncFor)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class _Call:
    """A call in a statement: its function's last name, its line, the innermost loop (else function) around it."""

    name: str
    line: int
    around: ast.AST
    in_loop: bool
    node: ast.Call


def place_problem(tree: ast.Module, line: int) -> str | None:
    """Return why the call of bridge at a line of the patched script can't stand there; None where it can.

    Args:
        tree: of the script with all calls that its patch has so far.
        line: of the statement in question, in the patched script.
    """
    if (left := _left_before(tree, line)) is not None:
        kind, where = left
        return f"it would never be reached: it stands behind the `{kind}` of line {where} of the patched file"
    calls = list(_calls(tree, around=tree, in_loop=False))
    bridge = [call for call in calls if _is_bridge(call.node)]
    own = next((call for call in bridge if call.line == line), None)
    if own is None:
        return None
    return _repeated(own, bridge) or _wrong_side(own, calls) or _unscaled(own, calls)


def _left_before(tree: ast.Module, line: int) -> tuple[str, int] | None:
    """Return the statement that leaves the block of a line before it is reached, and where that stands."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list) or not any(one.lineno == line for one in block if hasattr(one, "lineno")):
                continue
            for one in block:
                if one.lineno == line:
                    break
                if type(one) in LEAVES:
                    return LEAVES[type(one)], one.lineno
    return None


def _repeated(own: _Call, bridge: list[_Call]) -> str | None:
    """Find a slot that would begin in each step."""
    for other in bridge:
        slot, step = (own, other) if own.name in BEGINS_SLOT else (other, own)
        if slot.name in BEGINS_SLOT and step.name in OF_A_STEP and slot.in_loop and slot.around is step.around:
            return (
                f"bridge.{slot.name} and bridge.{step.name} would stand in the same loop, so a batch would begin in "
                f"each step; bridge.{slot.name} belongs before the loop over steps (see --indent)"
            )
    return None


def _wrong_side(own: _Call, calls: list[_Call]) -> str | None:
    """Find a loss after `backward`, and an end of a step before the optimizer's."""
    beside = [call for call in calls if call.around is own.around and call is not own]
    if own.name in ("loss", "term"):
        lines = [call.line for call in beside if call.name == "backward"]
        if lines and max(lines) < own.line:
            return f"bridge.{own.name} must stand before `backward`, which is in line {max(lines)} of the patched file"
    if own.name == "step_done":
        lines = [call.line for call in beside if call.name == "backward"]
        if lines and min(lines) > own.line:
            return (
                "bridge.step_done must stand after the optimizer's step, and `backward` comes only in line "
                f"{min(lines)} of the patched file"
            )
    return None


def _unscaled(own: _Call, calls: list[_Call]) -> str | None:
    """Find a term beside a loss that is scaled: `scaler.scale(…).backward()`."""
    if own.name != "term" or any(keyword.arg == "scaler" for keyword in own.node.keywords):
        return None
    for call in calls:
        inner = call.node.func.value if isinstance(call.node.func, ast.Attribute) else None
        if call.name != "backward" or not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Attribute):
            continue
        if inner.func.attr == "scale":
            name = ast.unparse(inner.func.value)
            return f"the script scales its loss by `{name}`: add scaler={name}, or the term would be too small"
    return None


def _is_bridge(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "bridge"
    )


def _calls(node: ast.AST, *, around: ast.AST, in_loop: bool) -> Iterator[_Call]:
    """Yield all calls of methods below a node, with the loop or function that is nearest around each."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            yield _Call(child.func.attr, child.lineno, around, in_loop, child)
        if isinstance(child, LOOPS):
            yield from _calls(child, around=child, in_loop=True)
        elif isinstance(child, FUNCTIONS):
            yield from _calls(child, around=child, in_loop=False)
        else:
            yield from _calls(child, around=around, in_loop=in_loop)
