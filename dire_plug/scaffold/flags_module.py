"""The text of a new package's `flags.py`: a script's flags as a typed model."""

import json
import keyword
import re
from collections.abc import Sequence

from pydantic import BaseModel

from dire_plug.scaffold.flags import Flag

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
