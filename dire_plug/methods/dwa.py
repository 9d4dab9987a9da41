"""DWA: the distillation scripts of its CIFAR, Tiny-ImageNet and ImageNet-1K experiments.

Before the first iteration of each batch the script moves the teacher's weights along the gradient of the batch's own
loss; it reads the teacher anew in each pass. Every image starts from a real one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dire_plug.api.method import (
    RESERVED_DATASET,
    RESERVED_PATHS,
    ChunkedPlan,
    DirePlugError,
    Invocation,
    LoopInputs,
    Script,
    ScriptInputs,
    Slot,
    Synthesis,
    Upstream,
    VerifyCase,
    cifar_scripts,
    hookimpl,
    imagenet_script,
    tiny_imagenet_script,
    to_arguments,
    with_slots,
)
from dire_plug.files import make_folder
from dire_plug.methods.sre2l_family import (
    RESNETS,
    TEACHER,
    FamilyAdapter,
    FamilyFlags,
    ImageNetFlags,
    common_shims,
    saving_arguments,
    write_images,
)

if TYPE_CHECKING:
    from torch import Tensor

# The start images as DWA's scripts read them: a tensor for each pass, or a folder of files for each class.


PLACEHOLDER = "placeholder"
SUFFIX = ".bmp"
"""Exact, and many times faster to write than PNG; the files live for one run."""


def write_tensors(folder: Path, start: Tensor, *, plan: ChunkedPlan, script: Script) -> None:
    """Write `tensor_{pass}.pt`, normalised, [N, 3, H, W]: what all batches of the pass hold, in order.

    Args:
        folder: an existing one.
        start: [C, ipc, 3, H, W], uint8.
        plan: the run's.
        script: whose mean and standard deviation are used.
    """
    import torch

    from dire_plug.data.augmentation.batch import normalise

    for index in range(plan.passes):
        slots = [plan.slot(Slot(index, batch)) for batch in range(plan.slots_per_pass)]
        labels = torch.tensor([label for slot in slots for label in slot.labels])
        images = torch.tensor([image for slot in slots for image in slot.images])
        torch.save(normalise(start[labels, images], script.mean, script.std), folder / f"tensor_{index}.pt")


def write_folders(folder: Path, start: Tensor, *, plan: ChunkedPlan, script: Script) -> None:
    """Write a folder of bitmap files for each class that the script knows, sorted as the classes are.

    Where the plan isn't the script's own, what the script reads is replaced by the start hook: then one file stands for
    all of them.

    Args:
        folder: an existing one.
        start: [C, ipc, 3, H, W], uint8.
        plan: the run's; the script reads one file of a class in a pass.
        script: whose number of classes is needed.
    """
    from PIL import Image

    if is_own(plan, script):
        names = [f"{image:05d}{SUFFIX}" for image in range(plan.passes)]
        for label, images in enumerate(start):
            write_images(folder / f"{label:05d}", images[: plan.passes], names)
        return
    make_folder(shared := folder.parent / PLACEHOLDER)
    Image.new("RGB", (8, 8)).save(shared / f"00000{SUFFIX}")
    for index in range(1, plan.passes):  # hard links: the script counts the files of a class, and reads each
        os.link(shared / f"00000{SUFFIX}", shared / f"{index:05d}{SUFFIX}")
    for label in range(script.classes):
        (folder / f"{label:05d}").symlink_to(shared, target_is_directory=True)


def is_own(plan: ChunkedPlan, script: Script) -> bool:
    """Return whether a plan is the script's own: all its classes, an image of each in a pass."""
    return plan.per_class == 1 and plan.chunks[-1][1] == script.classes


# The flags of DWA's scripts: in upstream's spelling, with upstream's defaults.


class CifarFlags(FamilyFlags):
    """`distillation/distillation_cifar.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=100)
    rho: float = Field(default=0.05, ge=0)
    """The length of all steps of the perturbation together, as a norm over all weights."""
    steps: int = Field(default=1, ge=1)
    """The steps of gradient ascent on the teacher's weights before the first iteration of a batch."""
    r_var: float = Field(default=1, alias="r-var", ge=0)
    """The weight of the variances against the means in the loss of batch statistics."""


class TinyImageNetFlags(CifarFlags):
    """`distillation/distillation_tiny.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=200)
    rho: float = Field(default=0.015, ge=0)


class ImgnetFlags(ImageNetFlags, CifarFlags):
    """`distillation/distillation_imgnet.py`."""

    r_bn: float = Field(default=0.01, alias="r-bn", ge=0)


START = "start"
"""The folder of start images among the inputs."""
SAME = 1e-4
"""The largest difference, in normalised values, between two readings of one image; a step of uint8 is about .015."""
_CIFAR = "distillation/distillation_cifar.py"
_CIFAR_LOOP = 100
"""The CIFAR script counts its batches to 100, with CIFAR-10 too."""
_NAMES: Mapping[str, str] = MappingProxyType(
    {"cifar-10": "cifar10", "cifar-100": "cifar100", "tiny": "tiny", "imagenet": "imagenet"}
)
"""Script → upstream's name of its dataset."""
_TEACHERS: Mapping[str, str] = MappingProxyType(
    {
        "cifar-10": "pretrain/save/cifar10/resnet18_E200/ckpt.pth",
        "cifar-100": "pretrain/save/cifar100/resnet18_E200/ckpt.pth",
        "tiny": "pretrain/save/tiny/resnet18_E100/ckpt.pth",
    }
)
"""Script → where, below the working folder, it reads its teacher."""

_PINS = {
    _CIFAR: "f8389fd8dd1963d58ef5c1d15a1b28b3c597bfd4",
    "distillation/distillation_tiny.py": "9e996b9ea0a4697ea4d068badda5dd0db3a37b5d",
    "distillation/distillation_imgnet.py": "e40be4a1cc9bcd678e12c974ee149523aa0f8c09",
    "distillation/perterb.py": "b17e731e5363e13941ab9bb6092d46451f19bd08",
    "distillation/utils.py": "6963270e153301ff1e18007f65bf59a9d2992949",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class DWA(FamilyAdapter):
    """The adapter of DWA, and the plugin that answers its plan and start hooks."""

    name = "dwa"
    title = "DWA"
    upstream = Upstream(
        repository="https://github.com/AngusDujw/Diversity-Driven-Synthesis",
        commit="c5b125f26a0a5234b814cf668ea5cee1a69d0c2b",
        paths=tuple(_PINS),
        licence="none",
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        {
            **cifar_scripts(_CIFAR),
            "tiny": tiny_imagenet_script("distillation/distillation_tiny.py"),
            "imagenet": imagenet_script("distillation/distillation_imgnet.py"),
        },
        "stateful",
        carried="the teacher's weights, which each slot perturbs again, and the gradients along which it does",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **FamilyAdapter.reserved_flags,
            "init-path": RESERVED_PATHS,
            "dataset": RESERVED_DATASET,
        }
    )
    flags = MappingProxyType(
        {"cifar-10": CifarFlags, "cifar-100": CifarFlags, "tiny": TinyImageNetFlags, "imagenet": ImgnetFlags}
    )
    freezes_after_first_step = True
    architectures = MappingProxyType(
        {
            "cifar-10": RESNETS,
            "cifar-100": RESNETS,
            "tiny": RESNETS,
            "imagenet": ("resnet-18",),
        }
    )
    """The ImageNet-1K script asks torchvision for trained weights, which only torchvision's own network has."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return the family's problems, and a start that isn't of real images."""
        return super().problems(recipe, classes=classes) + self.start_problems(recipe)

    def loop_length(self, script: str) -> int:
        """Return the number to which the script counts its batches: the CIFAR script's is 100 for CIFAR-10 too."""
        return _CIFAR_LOOP if script == "cifar-10" else super().loop_length(script)

    @hookimpl
    def initial_images(self, synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return the plan's start images, [N, 3, H, W]; None where the script has read just these."""
        import torch

        planned = super().initial_images(synthesis, slot, images, labels)
        if planned is None or planned.shape != images.shape:
            return planned
        # upstream's own reading is kept where it agrees up to rounding, so that a kept plan changes no bit
        return None if torch.allclose(planned, images.detach(), rtol=0, atol=SAME) else planned

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the teacher in the script's own layout, and the start images.

        Raises:
            DirePlugError: there are no start images.
        """
        recover = inputs.recipe.recover
        script = self.scripts[recover.script]
        if script_inputs.start is None:
            raise DirePlugError("recover.start: DWA's scripts need real images to start from; set it to 'real'")
        super().write_inputs(inputs, script_inputs)
        plan = self.plan(recover, classes=inputs.classes, ipc=inputs.recipe.ipc)
        make_folder(folder := inputs.folder / START)
        write = write_tensors if script.path == _CIFAR else write_folders
        write(folder, script_inputs.start, plan=plan, script=script)

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, without the arguments of a pass, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.jpg`.
        """
        recover, teacher = inputs.recipe.recover, str(inputs.folder / TEACHER)
        script = self.scripts[recover.script]
        arguments = to_arguments(self.read_flags(recover)) + saving_arguments(inputs.images)
        arguments += ["--dataset", _NAMES[recover.script], "--init-path", str(inputs.folder / START)]
        shims = common_shims(inputs, script)
        # os.listdir has no order of its own, and the script takes it for that of the classes
        if script.path != _CIFAR:
            shims["sorted_listing"] = {}
        if recover.script == "imagenet":
            arguments += ["--arch-name", "resnet18"]
            shims["hub_weights"] = {"teacher": teacher, "untrained": True}
        else:
            shims["files"] = {"links": {_TEACHERS[recover.script]: teacher}}
        return Invocation(script.path, tuple(arguments), shims)

    def verify_case(self, script: str) -> VerifyCase:
        """Return a batch of two iterations, so that it is saved, and the first step of the next one.

        The CIFAR script has one batch a pass, since its start tensor holds all classes; it ends after two iterations,
        and gets a small network where that is 100 images. The answered run reaches the second step of a pass's last
        batch, from which on `--accelerate exact` leaves something out.
        """
        cifar, size = self.scripts[script].path == _CIFAR, self.scripts[script].classes
        batch_size = 100 if cifar else 2
        return VerifyCase(
            recover={
                "script": script,
                "flags": {"batch-size": batch_size, "iteration": 2, "steps": 2, "rho": 0.015},
                "start": "real",
            },
            teachers={"teacher": "resnet-small" if script == "cifar-100" else "resnet-18"},
            steps=None if cifar else 3,
            answered={"plan": {"per_class": 2}, "flags": {"batch-size": 100 if cifar else size // 2}},
            answered_classes=2,
            answered_steps=None if cifar else 5,
            # the next batch moves the teacher's weights along gradients that the last step left, the term's among them
            comparable_steps=None if cifar else 2,
        )
