"""The real images of FADRM, which its script starts from and mixes in again: in files, named by their places in a pass.

The script reads one file for each class that it counts to, whatever the labels are. So a batch has as many images as
upstream's, whatever the plan, and a plan says which.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any

from dire_plug.api.method import (
    DirePlugError,
    ListedPlan,
    LoopInputs,
    ScriptInputs,
    Slot,
    Synthesis,
    cut_plan,
    group_by_group,
    hookimpl,
)
from dire_plug.methods.cvdd_family import CommitteeAdapter
from dire_plug.methods.sre2l_family import write_images

if TYPE_CHECKING:
    from torch import Tensor

REAL, KIND = "patches", "medium"
"""The folder of real images among the inputs, and upstream's name for those that its commands start from."""


class RealImagesAdapter(CommitteeAdapter):
    """The part of FADRM's adapter that knows which real image lies in which file."""

    plan_key = "ipc"

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ListedPlan:  # type: ignore[override]
        """Return batches as long as the script's own: an image of each class after the other, or `per_class` of each.

        Raises:
            DirePlugError: the dataset has more classes than the script, or its images don't fill the passes.
        """
        known, per_class = self.scripts[recover.script].classes, 1 if recover.plan == "keep" else recover.plan.per_class
        if classes > known:
            raise DirePlugError(f"plan: the script '{recover.script}' knows {known} classes, not {classes}")
        if classes * ipc % known:
            raise DirePlugError(
                f"plan: a pass makes {known} images, so with {classes} classes IPC must be a multiple of "
                f"{known // gcd(known, classes)} (is {ipc})"
            )
        order = group_by_group(classes, ipc, per_class)
        return cut_plan(order, classes=classes, batch_size=self.read_flags(recover).batch_size, pass_size=known)

    @hookimpl
    def initial_images(self, synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> None:
        """Return None: the script reads the plan's real images itself."""

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the networks, and the real images: a folder for each place of a pass, with a file for each pass."""
        import torch

        super().write_inputs(inputs, script_inputs)
        assert script_inputs.start is not None
        plan = self.plan(inputs.recipe.recover, classes=inputs.classes, ipc=inputs.recipe.ipc)
        labels = torch.tensor([label for slot in plan.slots for label in slot.labels]).view(plan.passes, -1)
        images = torch.tensor([image for slot in plan.slots for image in slot.images]).view(plan.passes, -1)
        for place in range(labels.shape[1]):
            names = [f"class{place:05d}_id{number:05d}.jpg" for number in range(plan.passes)]
            # exact: OpenCV tells a format by a file's content, not by its name
            folder = inputs.folder / REAL / KIND / f"{place:05d}"
            write_images(folder, script_inputs.start[labels[:, place], images[:, place]], names, format="BMP")
