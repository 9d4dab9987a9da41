"""Turn pydantic's errors into `location: message` lines, with the nearest known key beside an unknown one."""

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dire_plug.errors import nearest

_WORDS = {
    "missing": "is missing",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "needs at least {min_length}",
}
"""Type of error → message, where pydantic's own is worded for Python's types rather than for YAML's."""
_WITHOUT_VALUE = {"missing", "extra_forbidden", "too_short", "two_mixes", "warmup", "role"}
UNKNOWN = "unknown key"
"""How the message on such a key begins."""
_NO_VARIANT = {"union_tag_not_found", "union_tag_invalid"}


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
        keys, siblings, variants, chosen, others = _walk(model, found["loc"])
        location = ".".join(filter(None, [prefix, *keys])) or "recipe"
        if variants and found["type"] in _NO_VARIANT:
            told = _variant_problems(found, variants, prefix=location)
        else:
            in_union = any(map(_is_union_tag, found["loc"]))
            message = _union_message(found) if in_union else _message(found, siblings)
            if found["type"] == "extra_forbidden" and (having := _having(keys[-1], others)):
                message = f"no key of {chosen}, but of {having}; take a copy of the recipe without it"
            told = [Problem(location, message)] if message else []
        for problem in told:
            problems.setdefault(problem.location, problem)  # each branch of a union complains; the first one is told
    return list(problems.values())


def model_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of a model and of the models in it; not those of variants."""
    keys = []
    for name, field in _fields(model).items():
        keys.append(f"{prefix}{name}")
        if found := _model_in(field.annotation):
            keys += model_keys(found, f"{prefix}{name}.")
    return keys


def with_path(problem: Problem, known: Iterable[str]) -> Problem:
    """Name the whole path in the message on an unknown key whose last part is, or nearly is, that of a known one.

    A key that has a neighbour of nearly its name keeps that hint, unless it stands at the top.
    """
    if not problem.message.startswith(UNKNOWN):
        return problem
    above, _, last = problem.location.rpartition(".")
    by_last: dict[str, list[str]] = {}
    for key in known:
        by_last.setdefault(key.rpartition(".")[2], []).append(key)
    close = get_close_matches(last, by_last, n=1, cutoff=0.8)
    if not close or (above and problem.message != UNKNOWN):
        return problem
    paths = [f"'{path}'" for path in by_last[close[0]]]
    return Problem(problem.location, f"{UNKNOWN} (did you mean {' or '.join(paths)}?)")


def _walk(
    model: type[BaseModel], location: Iterable[str | int]
) -> tuple[list[str], list[str], dict[str, type[BaseModel]], str, dict[str, type[BaseModel]]]:
    """Follow an error's location through a model; a tag of a variant chooses the model that the rest is followed in.

    Returns:
        The location without the tags that pydantic adds; the valid keys beside the last one, none where any key is; tag
        → model, where the value is one of several models and a key of it says which; and, where the location leads
        through such a value, its tag, and tag → model of the others.
    """
    current: Any = model
    variants: dict[str, type[BaseModel]] = {}
    keys: list[str] = []
    siblings: list[str] = []
    chosen, others = "", dict[str, type[BaseModel]]()
    for part in location:
        if _is_union_tag(part):
            continue
        if part in variants:
            chosen, others = str(part), variants
            current, variants = others.pop(chosen), {}
        else:
            found = _model_in(current)
            fields = _fields(found) if found else {}
            keys.append(str(part))
            siblings = list(fields)
            variants = _variants(fields[str(part)]) if part in fields else {}
            current = fields[str(part)].annotation if part in fields else _value_type(current)
    return keys, siblings, variants, chosen, others


def _having(key: str, variants: Mapping[str, type[BaseModel]]) -> str:
    """Return a variant that has a key, and whether others have it, in words; "" where none has."""
    tags = [tag for tag, model in variants.items() if key in _fields(model)]
    return f"{tags[0]}{' and others' if len(tags) > 1 else ''}" if tags else ""


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _value_type(annotation: Any) -> Any:
    return typing.get_args(annotation)[-1] if typing.get_origin(annotation) is dict else None  # a dict takes any key


def _variants(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """Return tag → model for a field whose value is one of several models, told apart by a key of theirs."""
    if not isinstance(field.discriminator, str):
        return {}
    models = typing.get_args(field.annotation)
    return {
        tag: model for model in models for tag in typing.get_args(model.model_fields[field.discriminator].annotation)
    }


def _variant_problems(found: ErrorDetails, variants: dict[str, type[BaseModel]], *, prefix: str) -> list[Problem]:
    """Describe a missing or unknown tag; check the other keys against the variant that they fit best."""
    key = str(found["ctx"]["discriminator"]).strip("'")
    given = dict(found["input"])
    message = "is missing"
    if found["type"] == "union_tag_invalid":
        tag, known = str(found["ctx"]["tag"]), ", ".join(variants)
        message = f"no {key} is named '{tag}'{nearest(tag, variants)}; one of {known}"
    others: list[list[Problem]] = []
    for tag, model in variants.items():
        try:
            model.model_validate(given | {key: tag})
            others.append([])
        except ValidationError as error:
            others.append(describe(error, model, prefix=prefix))
    return [Problem(f"{prefix}.{key}", message), *min(others, key=len)]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:  # X | Y, Optional[X]
        return next((model for part in typing.get_args(annotation) if (model := _model_in(part))), None)
    return None


def _message(found: ErrorDetails, known: list[str]) -> str:
    kind = found["type"]
    if kind == "extra_forbidden":
        return f"{UNKNOWN}{nearest(str(found['loc'][-1]), known)}"
    words = _WORDS.get(kind)
    context = {name: _quote_free(value) for name, value in found.get("ctx", {}).items()}
    message = words.format(**context) if words else _own_words(found)
    return message if kind in _WITHOUT_VALUE else f"{message} (is {_shorten(found['input'])})"


def _union_message(found: ErrorDetails) -> str:
    """Describe an error in one branch of `keep | {per_class: …}`; empty for the branch that wasn't meant."""
    is_mapping_branch = any(isinstance(part, str) and part.endswith("Section") for part in found["loc"])
    if is_mapping_branch and found["type"] != "model_type":
        return _message(found, ["per_class"])
    if not is_mapping_branch and not isinstance(found["input"], dict):
        return f"{_own_words(found)} or a mapping (is {_shorten(found['input'])})"
    return ""


def _own_words(found: ErrorDetails) -> str:
    return found["msg"].removeprefix("Value error, ").replace("Input should be", "must be")  # how pydantic's own begin


def _is_union_tag(part: str | int) -> bool:
    # pydantic puts the branch of a union into a location, by its type: `literal['keep']`, `RegroupSection`
    return isinstance(part, str) and (part.startswith("literal[") or part.endswith("Section"))


def _quote_free(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value  # a bound of 1, not 1.0


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
