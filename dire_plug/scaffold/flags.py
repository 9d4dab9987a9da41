"""Read a script's flags from its calls of `add_argument`: names, types and defaults, which are facts."""

import ast
import json
import keyword
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dire_plug.api.checklist import literal

SWITCHES = ("store_true", "store_false")
TYPES: dict[str, type] = {"int": int, "float": float, "str": str}
MOST_CHOICES = 8


@dataclass(frozen=True)
class Flag:
    """One flag that a recipe could set.

    Attributes:
        name: upstream's spelling, without the dashes.
        annotation: the type of its value in Python; of a switch, bool: whether it stands on the command line.
        default: upstream's, where it is a plain value of that type; None leaves the flag out.
    """

    name: str
    annotation: str
    default: int | float | str | bool | None


def read_flags(tree: ast.Module) -> tuple[list[Flag], list[str]]:
    """Return the flags that a typed model can hold, and the names of other arguments, each once, in their order."""
    flags: dict[str, Flag] = {}
    others: dict[str, None] = {}
    for call in _calls(tree):
        names = [name for argument in call.args if isinstance(name := literal(argument), str)]
        flag = _read(names, {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
        if flag is not None:
            flags.setdefault(flag.name, flag)
        elif names:
            others.setdefault(names[0])
    return list(flags.values()), [name for name in others if name.lstrip("-") not in flags]


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (call for call in found if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument")
    yield from sorted(named, key=lambda call: (call.lineno, call.col_offset))


def _read(names: list[str], settings: dict[str, ast.expr]) -> Flag | None:
    """Return one flag; None of a positional argument, a short name alone, or one that takes no single value."""
    name = next((name[2:] for name in names if name.startswith("--") and len(name) > 2), None)
    action = literal(settings.get("action"))
    if name is None or "nargs" in settings or ("action" in settings and action not in (*SWITCHES, "store")):
        return None
    if action in SWITCHES:
        return Flag(name, "bool", False)
    kind = settings.get("type")
    annotation = kind.id if isinstance(kind, ast.Name) and kind.id in TYPES else "str"
    known = TYPES[annotation]
    if choices := _choices(literal(settings.get("choices")), known):
        annotation = f"Literal[{', '.join(map(repr, choices))}]".replace("'", '"')
    return Flag(name, annotation, _default(literal(settings.get("default")), known, choices))


def _choices(values: object, known: type) -> list[Any]:
    """Return the choices, where a Literal can say them on one line."""
    if not isinstance(values, list | tuple) or known is float or not 0 < len(values) <= MOST_CHOICES:
        return []
    plain = all(type(value) is known and '"' not in str(value) and "'" not in str(value) for value in values)
    return list(values) if plain and len(repr(values)) < 60 else []


def _default(value: object, known: type, choices: list[Any]) -> int | float | str | bool | None:
    """Return a default that reads back as itself from the command line; None of any other."""
    if known is float and type(value) is int:
        value = float(value)
    if (choices and value not in choices) or (type(value) is float and not math.isfinite(value)):
        return None
    return value if type(value) is known else None  # type: ignore[return-value]


# The text of a new package's `flags.py`: a script's flags as a typed model.


NOTHING = "    # The script names no flag in a way that could be read."


def flag_lines(flags: Sequence[Flag]) -> str:
    """Return the fields of the model, one line each."""
    return "\n".join(map(_line, flags)) or NOTHING


def typing_names(flags: Sequence[Flag]) -> str:
    """Return the import, with its line ends, that the fields need of typing."""
    literal = any(flag.annotation.startswith("Literal[") for flag in flags)
    return "from typing import Literal\n\n" if literal else ""


def pydantic_names(flags: Sequence[Flag]) -> str:
    """Return the import, with its line end, that the fields need of pydantic."""
    renamed = any(field_name(flag.name) != flag.name for flag in flags)
    return "from pydantic import Field\n" if renamed else ""


def field_name(flag: str) -> str:
    """Return a name that a model's field may have: the flag's own, where it may."""
    name = re.sub(r"\W", "_", flag)
    fits = name.isidentifier() and not keyword.iskeyword(name) and not name.startswith(("_", "model_"))
    return name if fits and not hasattr(BaseModel, name) else f"flag_{name.strip('_')}"


def _line(flag: Flag) -> str:
    name, default = field_name(flag.name), _literal(flag.default)
    annotation = flag.annotation if flag.default is not None else f"{flag.annotation} | None"
    if name != flag.name:
        default = f"Field(default={default}, alias={_literal(flag.name)})"
    return f"    {name}: {annotation} = {default}"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
