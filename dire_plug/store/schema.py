"""The schemas of what is read of an entry: its entry.json, and the facts that it holds as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Made(BaseModel):
    """How an entry was made, as far as commands print it."""

    when: str = ""
    versions: dict[str, Any] = {}
    hardware: dict[str, Any] = {}


def _check_made(made: dict[str, Any]) -> dict[str, Any]:
    _Made.model_validate(made)
    return made  # as it stands, with all its keys


class Record(BaseModel):
    """entry.json, as far as it is checked."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    kind: str
    decided_by: dict[str, Any]
    inputs: dict[str, str]
    made_from: dict[str, str]
    files: dict[str, Sha256]
    content: Sha256
    made: Annotated[dict[str, Any], AfterValidator(_check_made)]


class _Network(BaseModel):
    accuracy: FiniteFloat
    judged: str
    exchanged: list[tuple[int, int]] = []
    reordered: FiniteFloat = 0


class _Student(BaseModel):
    last: float
    best: float
    best_epoch: int
    curve: list[tuple[int, float]]


class _Diversity(BaseModel):
    coverage: float | None
    class_coverage: float | None
    vendi: float | None
    class_vendi: float | None
    similarity: float | None
    real: dict[str, Any]


class _Collapse(BaseModel):
    recognised: float
    recognised_real: float
    norm: float
    chance: float


FACTS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "network.json": _Network,
        "student.json": _Student,
        "diversity.json": _Diversity,
        "collapse.json": _Collapse,
    }
)
"""The file of an entry → what it must hold."""


def find_misfit(entry: Path) -> str | None:
    """Return the file of an entry that lacks what is read of it, and what it lacks; None where there is none."""
    for name, model in FACTS.items():
        if (entry / name).is_file():
            try:
                model.model_validate_json((entry / name).read_bytes())
            except ValidationError as error:
                return f"{name}: {tell_first(error)}"
    return None


def tell_first(error: ValidationError) -> str:
    """Return the place and the message of a validation's first problem."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
