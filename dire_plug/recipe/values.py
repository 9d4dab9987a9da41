"""Define the strict base model of a recipe's sections, and the bounded types of their values."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from dire_plug.errors import count_of, nearest

LEARNED = "learned"
OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""The operations of DSA, in upstream's order and spelling."""


def _read_rate(value: object) -> float | str:
    if value == LEARNED:
        return LEARNED
    # bool is an int in Python
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise PydanticCustomError("learning_rate", "must be 'learned' or a finite number greater than 0")


def _read_operations(value: str) -> str:
    for name in value.split("_") if value != "none" else ():
        if name not in OPERATIONS:
            hint = nearest(name, OPERATIONS)
            known = ", ".join(OPERATIONS)
            raise PydanticCustomError("dsa", f"no operation of DSA is named '{name}'{hint}; none, or any of {known}")
    return value


Rate = Annotated[float | Literal["learned"], BeforeValidator(_read_rate)]
Operations = Annotated[str, AfterValidator(_read_operations)]


Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
FromZero = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_warmup(section: Any) -> Any:
    """Return a section of a training as it is; a validator of it, where its warm-up may not take all epochs."""
    if (why := warmup_fault(section.warmup_epochs, section.epochs)) is not None:
        raise PydanticCustomError("warmup", "{why}", {"why": why})
    return section


def warmup_fault(warmup_epochs: int, epochs: int) -> str | None:
    """Return what is wrong with a warm-up that leaves no epoch of a training."""
    if warmup_epochs < epochs:
        return None
    return f"warmup_epochs: {warmup_epochs} leaves nothing of {count_of(epochs, 'epoch')}; lower it"
