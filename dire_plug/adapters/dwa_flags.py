"""The flags of DWA's scripts: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from dire_plug.adapters.sre2l_family import OWNED as FAMILY_OWNED
from dire_plug.adapters.sre2l_family import FamilyFlags, ImageNetFlags
from dire_plug.api.method import (
    OWNED_DATASET,
    OWNED_PATHS,
)

OWNED: Mapping[str, str] = MappingProxyType(
    {
        **FAMILY_OWNED,
        "init-path": OWNED_PATHS,
        "dataset": OWNED_DATASET,
    }
)
"""Flag → why a recipe can't set it."""


class CifarFlags(FamilyFlags):
    """`distillation/distillation_cifar.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=100)
    rho: float = Field(default=0.05, ge=0)
    """The length of all steps of the perturbation together, as a norm over all weights."""
    steps: int = Field(default=1, ge=1)
    """The steps of gradient ascent on the teacher's weights before the first iteration of a batch."""
    r_var: float = Field(default=1, alias="r-var", ge=0)
    """The weight of the variances against the means in the loss of batch statistics."""


class TinyFlags(CifarFlags):
    """`distillation/distillation_tiny.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=200)
    rho: float = Field(default=0.015, ge=0)


class ImgnetFlags(ImageNetFlags, CifarFlags):
    """`distillation/distillation_imgnet.py`."""

    r_bn: float = Field(default=0.01, alias="r-bn", ge=0)


MODELS: Mapping[str, type[FamilyFlags]] = MappingProxyType(
    {"cifar-10": CifarFlags, "cifar-100": CifarFlags, "tiny": TinyFlags, "imagenet": ImgnetFlags}
)
"""Script → the model of its flags."""
