"""The flags of MTT's scripts, in upstream's spelling with upstream's defaults; those that the tool owns; `prepare`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from dire_plug.adapters.matching_family import DSA, OWNED_EVALUATION
from dire_plug.adapters.matching_family import OWNED as FAMILY_OWNED
from dire_plug.api.method import (
    OWNED_IMAGES,
    OWNED_PATHS,
    OWNED_START,
    OWNED_UNREAD,
    Flags,
)

_DSA = "set `dsa_strategy`; none turns it off"
_TEXTURE = "the tool condenses images, not textures"
_IMAGENET = "for upstream's ImageNet subsets, which the tool doesn't run"
OWNED: Mapping[str, str] = MappingProxyType(
    {
        **FAMILY_OWNED,
        "subset": _IMAGENET,
        "res": _IMAGENET,
        "eval_it": OWNED_EVALUATION,
        "lr_init": OWNED_UNREAD,
        "batch_real": "the script reads it for its ImageNet subsets alone",
        "pix_init": OWNED_START,
        "dsa": _DSA,
        "no_aug": _DSA,
        "buffer_path": f"{OWNED_PATHS}; `prepare.buffers` names a folder with experts",
        "texture": _TEXTURE,
        "canvas_size": _TEXTURE,
        "canvas_samples": _TEXTURE,
        "force_save": OWNED_IMAGES,
    }
)
"""Flag → why a recipe can't set it."""

Rate = Annotated[float, Field(gt=0)]
Strategy = Annotated[str, Field(pattern=r"^[a-z_]+$")]


class MTTFlags(Flags):
    """`distill.py`."""

    model: Literal["ConvNet", "ConvNetD3", "ConvNetW32", "ConvNetW64"] = "ConvNet"
    """Of the experts, and of the student in the loop."""
    Iteration: int = Field(default=5000, ge=1)
    lr_img: Rate = 1000.0
    lr_lr: Rate = 1e-5
    lr_teacher: Rate = 0.01
    """Where the learned learning rate starts."""
    batch_syn: int | None = Field(default=None, ge=1)
    """None takes all images in each step of the student."""
    expert_epochs: int = Field(default=3, ge=1)
    syn_steps: int = Field(default=20, ge=1)
    max_start_epoch: int = Field(default=25, ge=1)
    zca: bool = False
    load_all: bool = False
    max_files: int | None = Field(default=None, ge=1)
    max_experts: int | None = Field(default=None, ge=1)
    dsa_strategy: Strategy = DSA


class BufferFlags(Flags):
    """`buffer.py`, which trains the experts; `model`, `zca` and `dataset` are those of the loop."""

    lr_teacher: Rate = 0.01
    batch_train: int = Field(default=256, ge=1)
    dsa_strategy: Strategy = DSA
    decay: bool = False
    mom: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)


class Prepare(Flags):
    """A recipe's section `prepare`: experts to train by upstream's buffer.py, or a folder with trained ones."""

    experts: int = Field(default=100, ge=1)
    epochs: int = Field(default=50, ge=1)
    flags: BufferFlags = BufferFlags()
    buffers: str | None = None
    """A folder with replay_buffer_0.pt, … and experts.json, which says what they were trained on."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        set_too = sorted(self.model_fields_set - {"buffers"})
        if self.buffers is not None and set_too:
            raise PydanticCustomError("two_sources", f"buffers are trained already; remove {', '.join(set_too)}")
        return self


MODELS: Mapping[str, type[MTTFlags]] = MappingProxyType({"cifar-10": MTTFlags, "cifar-100": MTTFlags})
"""Script → the model of its flags."""
