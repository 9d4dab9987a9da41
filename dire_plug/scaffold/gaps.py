"""What a package that `dire-plug new method` wrote still lacks: constants, flags that aren't there, calls in its patch.

Such a package imports this module. Constants are read from its source, so that a message can name the line.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dire_plug.errors import DirePlugError, nearest
from dire_plug.scaffold.calls import CALLS, called
from dire_plug.scaffold.reading import literal
from dire_plug.upstream.patch_file import read_patch

FILL_IN: Any = "FILL_IN"
"""Stands for a value that only a reader of the published script knows."""
FLAG = "_FLAG"
"""Ends the names of the constants that name a flag."""


def require_whole(module: str, *, method: str, patch: Path, calls: Sequence[str], flags: type[BaseModel]) -> None:
    """Refuse to go on with an adapter in which something is missing.

    Args:
        module: the adapter's file.
        calls: names of the functions of bridge that the patch must call.
        flags: the model of the script's flags.

    Raises:
        DirePlugError: all that is missing, one `location: message` a line.
    """
    gaps = [*_constant_gaps(Path(module), flags), *_call_gaps(method, patch, calls)]
    if gaps:
        count = "1 thing is" if len(gaps) == 1 else f"{len(gaps)} things are"
        raise DirePlugError("\n".join([f"{method} isn't whole yet; {count} missing:", *(f"  {gap}" for gap in gaps)]))


def missing_calls(patch: Path, calls: Sequence[str]) -> list[str]:
    """Return those functions of bridge that a patch doesn't call."""
    there = {name for file in read_patch(patch).files for hunk in file.hunks for name in called(hunk.inserted)}
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
        elif name.endswith(FLAG) and isinstance(flag := literal(node.value), str) and flag not in known:
            yield f"{where}: {name}: the script has no flag '{flag}'{nearest(flag, known)}; it has {', '.join(known)}"


def _is_to_fill(node: ast.expr | None) -> bool:
    """Tell whether FILL_IN, or `gaps.FILL_IN`, stands in a value."""
    names = [getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(node)] if node else []
    return "FILL_IN" in names


def _call_gaps(method: str, patch: Path, calls: Sequence[str]) -> Iterator[str]:
    file = read_patch(patch).files[0].path
    for name in missing_calls(patch, calls):
        line, where = CALLS.get(name, (f"bridge.{name}(…)", "see docs/adding-a-method.md"))
        yield f"{patch}: no `bridge.{name}` ({where}): dire-plug patch insert {method} {file}:LINE '{line}'"
