"""Check what a method's package still lacks: constants to fill in, flags that aren't there, calls in its patch.

`dire-plug new method` writes a package with items to fill in. Constants are read from its source, so that a message can
name the line.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from dire_plug.api.patch_file import read_patch
from dire_plug.errors import DirePlugError, nearest
from dire_plug.recipe.check import suffix_problem

IMPORT = "from dire_plug import bridge"
CALLS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "watch": ("bridge.watch(NETWORK)", "when the trained network is loaded and frozen"),
        "labels": ("LABELS = bridge.labels(LABELS)", "once a batch, before anything is sized by its labels"),
        "start": ("IMAGES = bridge.start(IMAGES, LABELS)", "when the images are drawn, before their optimiser is made"),
        "loss": (
            "LOSS = bridge.loss(LOSS, images=IMAGES, labels=LABELS, step=STEP)",
            "after the last summand, before `backward`",
        ),
        "step_done": (
            "bridge.step_done(LOSS, images=IMAGES, labels=LABELS, step=STEP)",
            "after the optimiser's step and the clipping",
        ),
        "image_index": (
            "NUMBER = bridge.image_index(NUMBER, PLACE)",
            "where an image is saved, before its number goes into the name",
        ),
    }
)
"""Function → the line, capitals for the script's names; where it stands. docs/reference/adapters.md has more."""
_CALL = re.compile(r"\bbridge\.(\w+)\(")
FILL_IN: Any = "FILL_IN"
"""Stands for a value that only a reader of the published script knows."""
FLAG, FILE_NAME = "_FLAG", "FILE_NAME"
"""The ends of the names of constants that hold a flag, or the name of an image file."""


def require_complete(module: str, *, method: str, patch: Path, calls: Sequence[str], flags: type[BaseModel]) -> None:
    """Raise where something is missing in an adapter, or can't be right.

    Args:
        module: the adapter's file.
        calls: names of the functions of bridge that the patch must call.
        flags: the model of the script's flags.

    Raises:
        DirePlugError: all that is missing, one `location: message` a line.
    """
    gaps = [*_constant_gaps(Path(module), flags), *_call_gaps(method, patch, calls)]
    if gaps:
        count = "1 item" if len(gaps) == 1 else f"{len(gaps)} items"
        raise DirePlugError("\n".join([f"{method} is incomplete: {count} to fill in:", *(f"  {gap}" for gap in gaps)]))


def missing_calls(patch: Path, calls: Sequence[str]) -> list[str]:
    """Return those functions of bridge that a patch doesn't call."""
    lines = (line for file in read_patch(patch).files for hunk in file.hunks for line in hunk.inserted)
    there = {name for line in lines for name in _CALL.findall(line)}
    return [name for name in calls if name not in there]


def _constant_gaps(module: Path, flags: type[BaseModel]) -> Iterator[str]:
    text = module.read_text()
    lines, known = text.splitlines(), [field.alias or name for name, field in flags.model_fields.items()]
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        where, name = f"{module}:{node.lineno}", node.target.id
        if _is_to_fill(node.value):
            yield f"{where}: fill in {name}: {lines[node.lineno - 1].partition('#')[2].strip() or 'its value'}"
        # only literals are checked: a computed name can't be read without running the module
        elif name.endswith(FLAG) and isinstance(flag := literal(node.value), str) and flag not in known:
            yield f"{where}: {name}: the script has no flag '{flag}'{nearest(flag, known)}; it has {', '.join(known)}"
        elif (
            name.endswith(FILE_NAME)
            and isinstance(file := literal(node.value), str)
            and (wrong := suffix_problem(file))
        ):
            yield f"{where}: {name}: {wrong}"


def _is_to_fill(node: ast.expr | None) -> bool:
    """Return whether FILL_IN, or `method.FILL_IN`, stands in a value."""
    names = [getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(node)] if node else []
    return "FILL_IN" in names


def _call_gaps(method: str, patch: Path, calls: Sequence[str]) -> Iterator[str]:
    file = read_patch(patch).files[0].path
    for name in missing_calls(patch, calls):
        line, where = CALLS.get(name, (f"bridge.{name}(…)", "see docs/reference/adapters.md"))
        yield f"{patch}: no `bridge.{name}` ({where}): dire-plug patch insert {method} {file}:LINE '{line}'"


def literal(node: ast.expr | None) -> object:
    """Return the value of a literal; None for what is computed, or absent."""
    if node is None:
        return None
    try:
        value: object = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None
    return value
