"""Check what a method's package still lacks: constants to fill in, flags that aren't there, calls in its patch.

`dire-plug new method` writes a package with items to fill in. Constants are read from its source, so that a message can
name the line.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel

from dire_plug.api.patch_file import read_patch
from dire_plug.errors import DirePlugError, count_of, nearest
from dire_plug.recipe.check import suffix_problem
from dire_plug.types import TORCHVISION_NAMES, CheckpointLayout

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
        "term": (
            "bridge.term(images=IMAGES, labels=LABELS, step=STEP)",
            "after the forward pass, before `backward`, where the loss has no name",
        ),
        "step_done": (
            "bridge.step_done(LOSS, images=IMAGES, labels=LABELS, step=STEP)",
            "after the optimiser's step and the clipping",
        ),
        "image_index": (
            "NUMBER = bridge.image_index(NUMBER, PLACE)",
            "where an image is saved, before its number goes into the name; a script that counts the images of a class "
            "by itself needs none: take it out of `calls`",
        ),
    }
)
"""Function → the line, capitals for the script's names; where it stands. docs/reference/adapters.md has more."""
_CALL = re.compile(r"\bbridge\.(\w+)\(")
FILL_IN: Any = "FILL_IN"
"""Stands for a value that only a reader of the published script knows."""
FLAG, FILE_NAME = "_FLAG", "FILE_NAME"
"""The ends of the names of constants that hold a flag, or the name of an image file."""


def require_complete(
    module: str, *, method: str, patch: Path, calls: Sequence[str], flags: type[BaseModel], others: Sequence[str] = ()
) -> None:
    """Raise where something is missing in an adapter, or can't be right.

    Args:
        module: the adapter's file.
        calls: names of the functions of bridge that the patch must call.
        flags: the model of the script's flags; `others` are those that it doesn't have.

    Raises:
        DirePlugError: a checklist: the next item first, then the others, by file.
    """
    known = [*(field.alias or name for name, field in flags.model_fields.items()), *others]
    values, inserts = list(_constant_gaps(Path(module), known)), list(_call_gaps(patch, calls))
    if not values and not inserts:
        return
    counts = [f"{count_of(len(values), 'value')} to fill in"] if values else []
    counts += [f"{count_of(len(inserts), 'call')} to insert"] if inserts else []
    lines = [f"{method} is incomplete: {', '.join(counts)}"]
    if values:
        lines += [f"  in {module}, line:", *(f"  {number}: {text}" for number, text in values)]
    if inserts and not values:
        lines += [f"  in {patch}, by dire-plug patch insert {method} {read_patch(patch).files[0].path}:LINE 'CALL':"]
        lines += [f"  {line}: {where}" for _, line, where in inserts]
    elif inserts:
        lines += [f"  then, by dire-plug patch insert: {', '.join(name for name, _, _ in inserts)}"]
    raise DirePlugError("\n".join(lines))


def missing_calls(patch: Path, calls: Sequence[str]) -> list[str]:
    """Return those functions of bridge that a patch doesn't call."""
    lines = (line for file in read_patch(patch).files for hunk in file.hunks for line in hunk.inserted)
    there = {name for line in lines for name in _CALL.findall(line)}
    # one of the two is enough: which one depends on whether the loss has a name
    alike = {"loss": {"loss", "term"}, "term": {"loss", "term"}}
    return [name for name in calls if not alike.get(name, {name}) & there]


def _constant_gaps(module: Path, known: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and what is wrong with each constant, those to fill in last."""
    text = module.read_text()
    lines, to_fill = text.splitlines(), []
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        name = node.target.id
        if _is_to_fill(node.value):
            to_fill.append((node.lineno, f"{name}: {lines[node.lineno - 1].partition('#')[2].strip() or 'its value'}"))
        # only literals are checked: a computed name can't be read without running the module
        elif isinstance(value := literal(node.value), str) and (wrong := _wrong(name, value, known)):
            yield node.lineno, f"{name}: {wrong}"
    yield from to_fill


def _wrong(name: str, value: str, flags: Sequence[str]) -> str | None:
    """Return what is wrong with the value of a constant; None where nothing is known to be."""
    if name.endswith(FLAG) and value not in flags:
        return f"the script has no flag '{value}'{nearest(value, flags)}; it has {', '.join(flags)}"
    if name.endswith(FILE_NAME):
        return suffix_problem(value)
    if name == "CHECKPOINT" and value not in (layouts := get_args(CheckpointLayout)):
        hint = nearest(value, layouts)
        return f"no layout '{value}'{hint}; use {', '.join(layouts)} (a network pickled whole is code)"
    if name == "ARCHITECTURE" and value not in TORCHVISION_NAMES:
        ours = next((own for own, theirs in TORCHVISION_NAMES.items() if value in (theirs, own.replace("-", ""))), None)
        if ours is not None:
            return f"dire-plug names '{value}' otherwise: \"{ours}\""
        # only here: it imports torch
        from dire_plug.models.architectures import architectures

        if value not in (built := architectures()):
            return f"'{value}' is unknown{nearest(value, built)}; known: {', '.join(built)}"
    return None


def _is_to_fill(node: ast.expr | None) -> bool:
    """Return whether FILL_IN, or `method.FILL_IN`, stands in a value."""
    names = [getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(node)] if node else []
    return "FILL_IN" in names


def _call_gaps(patch: Path, calls: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the function, the line and where it stands, of each missing call."""
    for name in missing_calls(patch, calls):
        yield name, *CALLS.get(name, (f"bridge.{name}(…)", "see docs/reference/adapters.md"))


def literal(node: ast.expr | None) -> object:
    """Return the value of a literal; None for what is computed, or absent."""
    if node is None:
        return None
    try:
        value: object = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None
    return value
