"""The pass that runs: where the loop is in it, and what it leaves on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError, DivergedError
from dire_plug.files import write_json
from dire_plug.synthesis.passes import save_pass, save_slot
from dire_plug.synthesis.recording import LossRecord
from dire_plug.types import EXTRAS, Plan, Slot


class CurrentPass:
    """One pass of the plan, slot by slot.

    Attributes:
        slot: where the loop is; its batch is -1 before the first slot.
        state: plugin → name → tensor that the plugin keeps.
    """

    def __init__(
        self, folder: str, plan: Plan, *, index: int = 0, state: dict[str, dict[str, Tensor]] | None = None
    ) -> None:
        """Begin before the first slot.

        Args:
            folder: of the finished passes.
            state: as the pass before left it; None: there is none.
        """
        self._folder = folder
        self._plan = plan
        self._finished = 0
        self._leaf: tuple[Tensor, Tensor] | None = None
        self._learned: dict[str, Tensor] = {}
        self.slot = Slot(index, -1)
        self.state = {} if state is None else state

    @property
    def in_last_slot(self) -> bool:
        """Whether no other slot of the pass follows."""
        return self.slot.batch_index + 1 == self._plan.slots_per_pass

    def next_slot(self) -> None:
        """Go on to the next slot."""
        self.slot = Slot(self.slot.pass_index, self.slot.batch_index + 1)

    def hold(self, images: Tensor, labels: Tensor) -> None:
        """Remember the optimised leaf [N, 3, H, W] of the slot, whose values go on changing, and its labels [N]."""
        self._leaf = (images, labels)

    @property
    def holds_images(self) -> bool:
        """Whether the slot has images that aren't on disk."""
        return self._leaf is not None

    def take_images(self) -> tuple[Tensor, Tensor]:
        """Return copies of the slot's images and labels as they are now, and let go of them.

        Raises:
            DivergedError: the images aren't finite.
        """
        assert self._leaf is not None
        images, labels = (tensor.detach().clone() for tensor in self._leaf)
        if not torch.isfinite(images).all():
            raise DivergedError(
                f"the images of pass {self.slot.pass_index}, batch {self.slot.batch_index} are not finite: the "
                "synthesis diverged; lower the learning rate or the weights of the terms"
            )
        self._leaf = None
        return images, labels

    def save(self, images: Tensor, labels: Tensor) -> None:
        """Write the final images of the slot, which counts as finished then.

        Raises:
            DirePlugError: the plan has another number of images.
        """
        index = self._plan.slot(self.slot).images
        if len(index) != len(images):
            raise DirePlugError(f"{self.slot}: the script made {len(images)} images where the plan has {len(index)}")
        save_slot(self._folder, self.slot, images=images.cpu(), labels=labels.cpu().long(), index=torch.tensor(index))
        self._finished += 1

    def keep(self, values: Mapping[str, Tensor]) -> None:
        """Remember what the script learns beside the images; it is read when the pass ends."""
        self._learned = {name: value.detach() for name, value in values.items()}

    def end(self, record: LossRecord) -> None:
        """Write what the script learned, the record of the losses and, last, what plugins keep.

        Raises:
            DirePlugError: a slot of the plan is missing.
        """
        if self._finished != self._plan.slots_per_pass:
            raise DirePlugError(
                f"pass {self.slot.pass_index} of the script finished {self._finished} of "
                f"{self._plan.slots_per_pass} batches; nothing of this pass is kept"
            )
        if self._learned:
            write_json(Path(self._folder) / EXTRAS, {name: value.tolist() for name, value in self._learned.items()})
        record.save(self._folder, self.slot.pass_index)
        save_pass(self._folder, self.slot.pass_index, self.state)
