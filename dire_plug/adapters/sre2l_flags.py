"""The flags of SRe2L's scripts: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from dire_plug.adapters.sre2l_family import OWNED as FAMILY_OWNED
from dire_plug.adapters.sre2l_family import FamilyFlags, ImageNetFlags
from dire_plug.api.method import (
    OWNED_IMAGES,
    OWNED_VERIFIER,
)

OWNED: Mapping[str, str] = MappingProxyType(
    {
        **FAMILY_OWNED,
        "store-last-images": OWNED_IMAGES,
        "verifier-arch-path": OWNED_VERIFIER,
    }
)
"""Flag → why a recipe can't set it."""


class CifarFlags(FamilyFlags):
    """`*small_dataset/recover_cifar.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=100)


class TinyFlags(FamilyFlags):
    """`*small_dataset/recover_tiny.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=200)


class DataSynthesisFlags(ImageNetFlags):
    """`recover/data_synthesis.py`."""

    tv_l2: float = Field(default=1e-4, alias="tv-l2", ge=0)
    l2_scale: float = Field(default=1e-5, alias="l2-scale", ge=0)


MODELS: Mapping[str, type[FamilyFlags]] = MappingProxyType(
    {"cifar": CifarFlags, "tiny": TinyFlags, "imagenet": DataSynthesisFlags}
)
"""Script → the model of its flags."""
