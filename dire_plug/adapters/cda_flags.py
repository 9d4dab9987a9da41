"""The flags of CDA's scripts: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from dire_plug.adapters.sre2l_family import OWNED as FAMILY_OWNED
from dire_plug.adapters.sre2l_family import FamilyFlags, ImageNetFlags
from dire_plug.api.method import (
    OWNED_DEVICE,
)

OWNED: Mapping[str, str] = MappingProxyType(
    {
        **FAMILY_OWNED,
        "G": OWNED_DEVICE,
        "wandb-key": "nothing is logged to wandb",
    }
)
"""Flag → why a recipe can't set it."""


class _CurriculumFlags(FamilyFlags):
    """What both files take: the curriculum of the random crops."""

    easy2hard_mode: Literal["step", "linear", "cosine"] = Field(default="cosine", alias="easy2hard-mode")
    """How the least share of the image in a crop falls from 1 to .08; `step`: it falls at the milestone."""
    milestone: float = Field(default=0, ge=0, le=1)
    """The share of the iterations in which it falls; 0 begins with the whole range, as SRe2L does."""


class TinyFlags(_CurriculumFlags):
    """`CDA/recover_cda_tiny.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=200)


class In1kFlags(ImageNetFlags, _CurriculumFlags):
    """`CDA/recover_cda_in1k.py`."""


MODELS: Mapping[str, type[FamilyFlags]] = MappingProxyType(
    {"tiny": TinyFlags, "cifar-100": TinyFlags, "imagenet": In1kFlags}
)
"""Script → the model of its flags."""
