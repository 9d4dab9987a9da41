"""CDA: the recover scripts of its Tiny-ImageNet and ImageNet-1K experiments, and the first of them for CIFAR-100.

CDA published no script for CIFAR-100. `cifar-100` is the Tiny script's file, of whose 200 classes a label plan uses
100, with the images and the random crops at 32 pixels; the statistics of its clipping and the 200 outputs of its
teacher are the Tiny script's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from dire_plug.api.method import (
    RESERVED_DEVICE,
    Invocation,
    LoopInputs,
    Script,
    Upstream,
    VerifyCase,
    imagenet_script,
    tiny_imagenet_script,
    to_arguments,
    with_slots,
)
from dire_plug.methods.sre2l_family import (
    RESNETS,
    TEACHER,
    FamilyAdapter,
    FamilyFlags,
    ImageNetFlags,
    common_shims,
    saving_arguments,
)

# The flags of CDA's scripts: in upstream's spelling, with upstream's defaults.


class _CurriculumFlags(FamilyFlags):
    """The flags that both files have: the curriculum of the random crops."""

    easy2hard_mode: Literal["step", "linear", "cosine"] = Field(default="cosine", alias="easy2hard-mode")
    """The schedule by which the least crop falls from the whole image to 8 % of it; `step`: at the milestone."""
    milestone: float = Field(default=0, ge=0, le=1)
    """The share of the iterations in which it falls; 0 begins with the whole range, as SRe2L does."""


class TinyImageNetFlags(_CurriculumFlags):
    """`CDA/recover_cda_tiny.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=200)


class In1kFlags(ImageNetFlags, _CurriculumFlags):
    """`CDA/recover_cda_in1k.py`."""


_TINY_IMAGENET = tiny_imagenet_script("CDA/recover_cda_tiny.py")

_PINS = {
    _TINY_IMAGENET.path: "21584febd851710350b7c9fa263d751b63b4351f",
    "CDA/recover_cda_in1k.py": "321ab3bc6f22ebc0cccc2ce671676384b9c1e14e",
    "CDA/utils.py": "7f9e6923e6a6f15324c168bef50c5445073b1292",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class CDA(FamilyAdapter):
    """The adapter of CDA, and the plugin that answers its plan and start hooks."""

    name = "cda"
    title = "CDA"
    upstream = Upstream(
        repository="https://github.com/VILA-Lab/SRe2L",
        commit="8d00cba364bfa34aa1f5a8107dc041ae1be8ebe6",
        paths=tuple(_PINS),
        licence="none",
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        {
            "tiny": _TINY_IMAGENET,
            "cifar-100": _TINY_IMAGENET,
            "imagenet": imagenet_script("CDA/recover_cda_in1k.py"),
        },
        "independent",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **FamilyAdapter.reserved_flags,
            "G": RESERVED_DEVICE,
            "wandb-key": "nothing is logged to wandb",
        }
    )
    flags = MappingProxyType({"tiny": TinyImageNetFlags, "cifar-100": TinyImageNetFlags, "imagenet": In1kFlags})
    architectures = MappingProxyType(
        {
            "tiny": RESNETS,
            "cifar-100": RESNETS,
            "imagenet": ("resnet-18",),
        }
    )
    """The ImageNet-1K script asks torchvision for trained weights, which only torchvision's own network has."""

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, without the arguments of a pass, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.jpg`.
        """
        recover, teacher = inputs.recipe.recover, str(inputs.folder / TEACHER)
        script = self.scripts[recover.script]
        arguments = to_arguments(self.read_flags(recover)) + saving_arguments(inputs.images)
        shims = common_shims(inputs, script)
        if recover.script == "imagenet":
            shims["hub_weights"] = {"teacher": teacher, "untrained": True}
        else:
            arguments += ["--arch-path", teacher]
        return Invocation(script.path, tuple(arguments), shims)

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, so that it is saved, and the first step of the next batch.

        The file of `tiny` and `cifar-100` runs twice in its own shape, with another curriculum: unpatched it has no
        other number of classes. The answered run has two batches of two classes.
        """
        flags: dict[str, Any] = {"batch-size": 2 if script == "imagenet" else 10, "iteration": 2, "milestone": 1}
        if script == "cifar-100":
            flags["easy2hard-mode"] = "step"
        half = self.scripts[script].classes // 2
        return VerifyCase(
            recover={"script": script, "flags": flags},
            teachers={"teacher": "resnet-18"},
            answered={"start": "real", "plan": {"per_class": 2}, "flags": {"batch-size": half}},
            answered_classes=4,
        )
