"""The flags of INFER's scripts: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from dire_plug.adapters.sre2l_family import FamilyFlags

_PATHS = "the tool chooses where files lie"
OWNED: Mapping[str, str] = MappingProxyType(
    {
        "exp-name": _PATHS,
        "wandb-name": _PATHS,
        "syn-data-path": _PATHS,
        "init_path": _PATHS,
        "store-best-images": "images are always stored",
        "ipc": "it stands at the head of the recipe, and the plan turns it into upstream's",
        "dataset": "the name of the script says it",
        "M": "the networks are fixed: four on CIFAR, three on ImageNet-1K",
    }
)
"""Flag → why a recipe can't set it."""


class CifarFlags(FamilyFlags):
    """`ufc_cifar.py`."""


class ImageNetFlags(FamilyFlags):
    """`ufc_imgnet.py`."""

    jitter: int = Field(default=32, ge=0)


MODELS: Mapping[str, type[FamilyFlags]] = MappingProxyType(
    {"cifar-10": CifarFlags, "cifar-100": CifarFlags, "imagenet": ImageNetFlags}
)
"""Script → the model of its flags."""
