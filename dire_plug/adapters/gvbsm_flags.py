"""The flags of G-VBSM's scripts: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from dire_plug.api.method import (
    OWNED_IMAGES,
    OWNED_IPC,
    OWNED_PATHS,
    OWNED_VERIFIER,
    Flags,
)

_RANKS = "the tool runs the script in one process, on the run's device"
_TEACHERS = "the teachers are set in `squeeze.teacher` and `squeeze.others`"
OWNED: Mapping[str, str] = MappingProxyType(
    {
        "exp-name": OWNED_PATHS,
        "syn-data-path": OWNED_PATHS,
        "train-data-path": OWNED_PATHS,
        "statistic-path": OWNED_PATHS,
        "pre-train-path": _TEACHERS,
        "arch-name": _TEACHERS,
        "ipc-number": OWNED_IPC,
        "store-best-images": OWNED_IMAGES,
        "verifier": "the script never reads it; its verifier only prints",
        "verifier-arch": OWNED_VERIFIER,
        "gpu-id": _RANKS,
        "world-size": _RANKS,
        "rank": _RANKS,
        "dist-backend": _RANKS,
        "average_grad_ratio": "above 0 the script crashes as published",
    }
)
"""Flag → why a recipe can't set it."""


class SmallFlags(Flags):
    """What the scripts of the CIFAR branches and of Tiny-ImageNet read; they take `tv-l2` and `l2-scale` unread."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Images in a batch."""
    iteration: int = Field(default=1000, ge=1)
    training_momentum: float = Field(default=0.8, alias="training-momentum", ge=0, le=1)
    """Of the moving averages of the batches' statistics, α in the paper."""
    drop_rate: float = Field(default=0.4, alias="drop-rate", ge=0, le=1)
    """The share of convolutions that a step leaves out of the matching."""
    lr: float = Field(default=0.1, gt=0)
    jitter: int = Field(default=32, ge=0)
    """The largest shift, in pixels."""
    r_loss: float = Field(default=0.05, alias="r-loss", ge=0)
    """The weight of the matched statistics."""
    first_multiplier: float = Field(default=10.0, alias="first-multiplier", ge=0)
    nuc_norm: float = Field(default=0.00001, alias="nuc-norm", ge=0)
    """The weight of the term on the nuclear norm of each class's images."""
    tau: float = Field(default=4.0, gt=0)


class FullImageNetFlags(SmallFlags):
    """The script of ImageNet-1K."""

    training_momentum: float = Field(default=0.4, alias="training-momentum", ge=0, le=1)
    drop_rate: float = Field(default=0.0, alias="drop-rate", ge=0, le=1)
    tv_l2: float = Field(default=0.0001, alias="tv-l2", ge=0)
    l2_scale: float = Field(default=0.00001, alias="l2-scale", ge=0)


MODELS: Mapping[str, type[SmallFlags]] = MappingProxyType(
    {"cifar-10": SmallFlags, "cifar-100": SmallFlags, "tiny": SmallFlags, "imagenet": FullImageNetFlags}
)
"""Script → the model of its flags."""


class StatisticsSection(Flags):
    """`prepare.statistics`: from which training images the statistics of the convolutions are taken."""

    images: int | None = Field(default=None, ge=1)
    """So many, at equal distances in the dataset's order; None takes all, as upstream does."""


class PrepareSection(Flags):
    """A recipe's section `prepare`."""

    statistics: StatisticsSection = StatisticsSection()
