"""The key `weight`, which the tool adds to the settings of every regularizer: a number, or `auto`."""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from dire_plug.recipe.values import Count, Section

KEY = "weight"
PLAIN = 1.0
"""The weight of a term that says none: it is added as it is."""
MOST = 0.3
"""The greatest ratio that never collapsed the images in trials; 1 did."""


class AutoWeight(Section):
    """A weight λ that follows the gradients with respect to the images: λ = ratio · ‖∇ upstream's loss‖ / ‖∇ term‖.

    The logarithm of the quotient is averaged: m ← average · m + (1 − average) · log(‖∇L‖/‖∇R‖), and λ = ratio · eᵐ.
    """

    ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    """The ratio of the term's gradient to that of upstream's loss; at most .3 unless `force` is set."""
    every: Count = 10
    """The gradients are compared every so many steps of a slot, the first one of them."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """The weight of the earlier comparisons in the average."""
    force: bool = False
    """Whether to allow a ratio above .3."""

    @model_validator(mode="after")
    def _stays_where_images_did_not_collapse(self) -> Self:
        if self.ratio > MOST and not self.force:
            message = f"ratio must be at most {MOST:g}, above which images collapse; force: true allows it"
            raise PydanticCustomError("ratio", message)
        return self


def _read(value: object) -> object:
    if value == "auto":
        return AutoWeight()
    if isinstance(value, dict | AutoWeight):
        return value
    # bool is an int in Python: `weight: true` would be 1
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise PydanticCustomError("weight", "must be a finite number from 0 up, 'auto', or a mapping of auto's settings")


Weight = Annotated[float | AutoWeight, BeforeValidator(_read)]


@cache
def with_weight(model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of a regularizer's settings with the tool's key `weight` beside its own."""
    fields: dict[str, Any] = {KEY: (Weight, PLAIN)}
    return create_model(model.__name__, __base__=model, **fields)


def take_weight(settings: dict[str, Any]) -> tuple[float | AutoWeight, dict[str, Any]]:
    """Return the weight among checked settings, and the plugin's own."""
    weight = settings.get(KEY, PLAIN)
    own = {name: value for name, value in settings.items() if name != KEY}
    return (AutoWeight(**weight) if isinstance(weight, dict) else float(weight)), own
