"""The flags of INFER's scripts: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType

from dire_plug.adapters.sre2l_family import FamilyFlags, ImageNetFlags
from dire_plug.api.method import (
    OWNED_DATASET,
    OWNED_IMAGES,
    OWNED_IPC,
    OWNED_PATHS,
)

OWNED: Mapping[str, str] = MappingProxyType(
    {
        "exp-name": OWNED_PATHS,
        "wandb-name": OWNED_PATHS,
        "syn-data-path": OWNED_PATHS,
        "init_path": OWNED_PATHS,
        "store-best-images": OWNED_IMAGES,
        "ipc": OWNED_IPC,
        "dataset": OWNED_DATASET,
        "M": "the networks are fixed: four on CIFAR, three on ImageNet-1K",
    }
)
"""Flag → why a recipe can't set it."""


MODELS: Mapping[str, type[FamilyFlags]] = MappingProxyType(
    {"cifar-10": FamilyFlags, "cifar-100": FamilyFlags, "imagenet": ImageNetFlags}
)
"""Script → the model of its flags."""
