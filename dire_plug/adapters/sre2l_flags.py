"""The flags of SRe2L's scripts: in upstream's spelling, with upstream's defaults, and those that the tool owns."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field

_PATHS = "the tool chooses where files lie"
_PASSES = "the tool runs the passes one by one; set `ipc`"
_VERIFIER = "the verifier only prints; `measure` judges the images in an independent network"
_TEACHER = "the teacher is set in `squeeze.teacher`"
OWNED: Mapping[str, str] = MappingProxyType(
    {
        "exp-name": _PATHS,
        "syn-data-path": _PATHS,
        "arch-path": _TEACHER,
        "arch-name": _TEACHER,
        "ipc-start": _PASSES,
        "ipc-end": _PASSES,
        "store-best-images": "images are always stored",
        "store-last-images": "images are always stored",
        "verifier": _VERIFIER,
        "verifier-arch": _VERIFIER,
        "verifier-arch-path": _VERIFIER,
    }
)
"""Flag → why a recipe can't set it."""


class ScriptFlags(BaseModel):
    """What all three scripts take."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Classes in a batch; with a regrouped plan each holds several images."""
    iteration: int = Field(default=1000, ge=1)
    lr: float = Field(default=0.1, gt=0)
    jitter: int = Field(default=4, ge=0)
    """The largest shift, in pixels."""
    r_bn: float = Field(default=0.05, alias="r-bn", ge=0)
    first_bn_multiplier: float = Field(default=10.0, alias="first-bn-multiplier", ge=0)


class CifarFlags(ScriptFlags):
    """`*small_dataset/recover_cifar.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=100)


class TinyFlags(ScriptFlags):
    """`*small_dataset/recover_tiny.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=200)


class ImageNetFlags(ScriptFlags):
    """`recover/data_synthesis.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=1000)
    jitter: int = Field(default=32, ge=0)
    tv_l2: float = Field(default=1e-4, alias="tv-l2", ge=0)
    l2_scale: float = Field(default=1e-5, alias="l2-scale", ge=0)


MODELS: Mapping[str, type[ScriptFlags]] = MappingProxyType(
    {"cifar": CifarFlags, "tiny": TinyFlags, "imagenet": ImageNetFlags}
)
"""Script → the model of its flags."""
