"""SRe2L: the recover scripts of its CIFAR-100, Tiny-ImageNet and ImageNet-1K experiments.

The ImageNet-1K script also reshapes its images by `batch-size` (`recover/data_synthesis.py` 81), for a norm that
counts only where `l2-scale` isn't 0; the number of values of a batch must be divisible by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from dire_plug.api.method import (
    CIFAR_10,
    RESERVED_IMAGES,
    RESERVED_VERIFIER,
    ChunkedPlan,
    DirePlugError,
    Invocation,
    LoopInputs,
    Script,
    Slot,
    Upstream,
    VerifyCase,
    cifar_script,
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
    network_shims,
    saving_arguments,
)

# The flags of SRe2L's scripts: in upstream's spelling, with upstream's defaults.


class CifarFlags(FamilyFlags):
    """`*small_dataset/recover_cifar.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=100)


class TinyImageNetFlags(FamilyFlags):
    """`*small_dataset/recover_tiny.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=200)


class DataSynthesisFlags(ImageNetFlags):
    """`recover/data_synthesis.py`."""

    tv_l2: float = Field(default=1e-4, alias="tv-l2", ge=0)
    l2_scale: float = Field(default=1e-5, alias="l2-scale", ge=0)


SMALL = "SRe2L/*small_dataset"
"""The folder's literal name; the asterisk is no pattern."""
IMAGENET = "SRe2L/recover"

_PINS = {
    f"{SMALL}/recover_cifar.py": "6506d29052b5958450274434ec5d28a1d9b1b10d",
    f"{SMALL}/recover_tiny.py": "4e04e9394de26b70459b7ed8571ec57c82337763",
    f"{SMALL}/utils.py": "90ed6a59be22f90eeb6163029fb33097b12ea846",
    f"{IMAGENET}/data_synthesis.py": "ca00fda4300aadbda8a3e49ed32b5d622299553c",
    f"{IMAGENET}/utils.py": "4755153c673a80b495a0c3ab98809bde1188e4c2",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class SRe2L(FamilyAdapter):
    """The adapter of SRe2L, and the plugin that answers its plan and start hooks."""

    name = "sre2l"
    title = "SRe2L"
    upstream = Upstream(
        repository="https://github.com/VILA-Lab/SRe2L",
        commit="8d00cba364bfa34aa1f5a8107dc041ae1be8ebe6",
        paths=tuple(_PINS),
        licence="none",
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        {
            "cifar": cifar_script(f"{SMALL}/recover_cifar.py", 100, statistics=CIFAR_10),
            "tiny": tiny_imagenet_script(f"{SMALL}/recover_tiny.py"),
            "imagenet": imagenet_script(f"{IMAGENET}/data_synthesis.py"),
        },
        "independent",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **FamilyAdapter.reserved_flags,
            "store-last-images": RESERVED_IMAGES,
            "verifier-arch-path": RESERVED_VERIFIER,
        }
    )
    flags = MappingProxyType({"cifar": CifarFlags, "tiny": TinyImageNetFlags, "imagenet": DataSynthesisFlags})
    architectures = MappingProxyType({"cifar": RESNETS, "tiny": ("resnet-18",), "imagenet": ("resnet-18",)})
    """Only the CIFAR script asks torchvision for its network by a call that a shim can answer, and it then replaces
    `conv1` and `maxpool`."""

    def has_native(self, script: str) -> bool:
        """Return whether the native engine has this script's loop."""
        return script == "cifar"

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ChunkedPlan:
        """Return the family's plan.

        Raises:
            DirePlugError: as the family's; or the ImageNet-1K script couldn't reshape a batch.
        """
        plan = super().plan(recover, classes=classes, ipc=ipc)
        if recover.script == "imagenet":
            _check_reshape(plan, self.scripts[recover.script], self.read_flags(recover).batch_size)
        return plan

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, without the arguments of a pass, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.jpg`.
        """
        recover, teacher = inputs.recipe.recover, str(inputs.folder / TEACHER)
        switch = "--store-last-images" if recover.script == "tiny" else "--store-best-images"
        arguments = to_arguments(self.read_flags(recover)) + saving_arguments(inputs.images, switch)
        shims = network_shims(inputs)
        if recover.script == "imagenet":
            shims["hub_weights"] = {"teacher": teacher, "untrained": True}
        else:
            arguments += ["--arch-path", teacher]
        return Invocation(self.scripts[recover.script].path, tuple(arguments), shims)

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, so that it is saved, and the first step of the next batch.

        The answered run has two batches of two classes.
        """
        halves = {"cifar": 50, "tiny": 100, "imagenet": 512}
        return VerifyCase(
            recover={"script": script, "flags": {"batch-size": 10, "iteration": 2}},
            teachers={"teacher": "resnet-18"},
            answered={"start": "real", "plan": {"per_class": 2}, "flags": {"batch-size": halves[script]}},
            answered_classes=4,
        )


def _check_reshape(plan: ChunkedPlan, script: Script, batch_size: int) -> None:
    # passes between these are alike; only the last may be shorter
    for pass_index in {0, plan.passes - 1}:
        for batch_index in range(plan.slots_per_pass):
            images = len(plan.slot(Slot(pass_index, batch_index)).labels)
            if images * 3 * script.size**2 % batch_size:
                raise DirePlugError(
                    f"plan: the ImageNet-1K script reshapes its images by --batch-size {batch_size}, which a batch of "
                    f"{images} images can't be; a power of two up to 512 always works"
                )
