"""The start images as DWA's scripts read them: a tensor for each pass, or a folder of files for each class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dire_plug.api.method import (
    ChunkedPlan,
    Script,
    Slot,
)
from dire_plug.files import make_folder

if TYPE_CHECKING:
    from torch import Tensor

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
        for label, images in enumerate(start):
            make_folder(class_folder := folder / f"{label:05d}")
            for image, pixels in enumerate(images[: plan.passes]):
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(class_folder / f"{image:05d}{SUFFIX}")
        return
    make_folder(shared := folder.parent / PLACEHOLDER)
    Image.new("RGB", (8, 8)).save(shared / f"00000{SUFFIX}")
    for index in range(1, plan.passes):
        os.link(shared / f"00000{SUFFIX}", shared / f"{index:05d}{SUFFIX}")
    for label in range(script.classes):
        (folder / f"{label:05d}").symlink_to(shared, target_is_directory=True)


def is_own(plan: ChunkedPlan, script: Script) -> bool:
    """Tell whether a plan is the script's own: all its classes, an image of each in a pass."""
    return plan.per_class == 1 and plan.chunks[-1][1] == script.classes
