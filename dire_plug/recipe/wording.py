"""A recipe's errors in words: pydantic's findings as `location: message`, unknown keys with the nearest known one."""

import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dire_plug.errors import nearest

_WORDS = {
    "missing": "is missing",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "literal_error": "must be {expected}",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "needs at least {min_length}",
}
_WITHOUT_VALUE = {"missing", "extra_forbidden", "too_short"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, as a dotted key, and what."""

    location: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


def describe(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> list[Problem]:
    """Return one problem for each location that pydantic complains of; `prefix` is the dotted key of `model`."""
    problems: dict[str, Problem] = {}
    for found in error.errors(include_url=False):
        keys = [str(part) for part in found["loc"] if not _is_union_tag(part)]
        tagged = len(keys) < len(found["loc"])
        location = ".".join(filter(None, [prefix, *keys])) or "recipe"
        message = _union_message(found) if tagged else _message(found, known_keys(model, keys[:-1]))
        if message:
            problems.setdefault(location, Problem(location, message))
    return list(problems.values())


def known_keys(model: type[BaseModel], keys: Iterable[str]) -> list[str]:
    """Return the keys that are valid at a dotted location of a recipe; none where any key is."""
    current: Any = model
    for key in keys:
        found = _model_in(current)
        if found is not None:
            fields = {field.alias or name: field for name, field in found.model_fields.items()}
            current = fields[key].annotation if key in fields else None
        else:
            current = typing.get_args(current)[-1] if typing.get_origin(current) is dict else None
    found = _model_in(current)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next((model for part in typing.get_args(annotation) if (model := _model_in(part))), None)
    return None


def _message(found: ErrorDetails, known: list[str]) -> str:
    kind = found["type"]
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(found['loc'][-1]), known)}"
    words = _WORDS.get(kind)
    context = {name: _quote_free(value) for name, value in found.get("ctx", {}).items()}
    message = words.format(**context) if words else found["msg"].removeprefix("Value error, ")
    return message if kind in _WITHOUT_VALUE else f"{message} (is {_shorten(found['input'])})"


def _union_message(found: ErrorDetails) -> str:
    """Word an error in one branch of `keep | {per_class: …}`; empty for the branch that wasn't meant."""
    is_mapping_branch = any(isinstance(part, str) and part.endswith("Section") for part in found["loc"])
    if is_mapping_branch and found["type"] != "model_type":
        return _message(found, ["per_class"])
    if not is_mapping_branch and not isinstance(found["input"], dict):
        return f"{_WORDS['literal_error'].format(**found.get('ctx', {}))} or a mapping (is {_shorten(found['input'])})"
    return ""


def _is_union_tag(part: str | int) -> bool:
    return isinstance(part, str) and (part.startswith("literal[") or part.endswith("Section"))


def _quote_free(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
