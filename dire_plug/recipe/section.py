"""What the sections of a recipe are made of: a strict model, and the types with bounds that several use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
FromZero = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
