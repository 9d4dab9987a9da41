"""The flags of DM's script: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from dire_plug.adapters.matching_family import DSA, OWNED_EVALUATION
from dire_plug.adapters.matching_family import OWNED as FAMILY_OWNED
from dire_plug.api.method import (
    OWNED_PATHS,
    OWNED_START,
    OWNED_UNREAD,
    Flags,
)

OWNED: Mapping[str, str] = MappingProxyType(
    {
        **FAMILY_OWNED,
        "num_exp": "a run is one experiment; `--seeds` runs several",
        "lr_net": OWNED_EVALUATION,
        "init": OWNED_START,
        "save_path": OWNED_PATHS,
        "dis_metric": OWNED_UNREAD,
    }
)
"""Flag → why a recipe can't set it."""


class DMFlags(Flags):
    """`methods/dc/main_DM.py`."""

    model: Literal["ConvNet", "ConvNetW32", "ConvNetW64", "ConvNetBN"] = "ConvNet"
    """The untrained network in which means are matched, new in each iteration."""
    Iteration: int = Field(default=20000, ge=1)
    lr_img: float = Field(default=1.0, gt=0)
    batch_real: int = Field(default=256, ge=1)
    """Real images of a class in one iteration."""
    dsa_strategy: str = DSA


MODELS: Mapping[str, type[DMFlags]] = MappingProxyType({"cifar-10": DMFlags, "cifar-100": DMFlags})
"""Script → the model of its flags."""
