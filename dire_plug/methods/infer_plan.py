"""Lay out INFER's plan: untouched real images first, then the same ones with the perturbations of each network.

With M networks and C classes, upstream takes ipc_init = int(IPC / (M/C + 1)) real images a class, and saves
(M + 1)·ipc_init files a class (`ufc_cifar.py` 252-253). Needed to make them again are ipc_init·C images and M·ipc_init
perturbations, which all classes share: as much as IPC·C images, rounded down.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dire_plug.api.method import (
    DirePlugError,
    Slot,
    SlotPlan,
    check_in_passes,
)


@dataclass(frozen=True)
class PerturbationPlan:
    """One call of the script: a block of untouched images, then a block for each network, cut into batches.

    Image `b·originals + j` of a class starts from its real image j; b = 0 is the untouched block.

    Attributes:
        chunks: first class, and the one after the last, of the batches that one of upstream's passes has.
        originals: real images of a class, upstream's ipc_init.
        networks: upstream's M.
        per_class: images of a class in one batch, which share its perturbation; 1 is upstream's own.
    """

    chunks: tuple[tuple[int, int], ...]
    originals: int
    networks: int
    per_class: int = 1

    @property
    def passes(self) -> int:
        """One: the script makes all of its passes in one call."""
        return 1

    @property
    def rounds(self) -> int:
        """Upstream's passes in a block: what the script must take for its ipc_init."""
        return -(-self.originals // self.per_class)

    @property
    def slots_per_pass(self) -> int:
        """The number of batches."""
        return (self.networks + 1) * self.rounds * len(self.chunks)

    @property
    def ipc(self) -> int:
        """The files of a class: more than the recipe's IPC."""
        return (self.networks + 1) * self.originals

    @property
    def regrouped(self) -> bool:
        """Whether several images of a class share a batch."""
        return self.per_class > 1

    def original(self, image: int) -> int:
        """Return which real image of its class an image starts from."""
        return image % self.originals

    def slot(self, slot: Slot) -> SlotPlan:
        """Return what a slot holds, class by class.

        Raises:
            DirePlugError: the plan has no such slot.
        """
        check_in_passes(slot, batches=self.slots_per_pass)
        upstreams_pass, chunk = divmod(slot.batch_index, len(self.chunks))
        block, number = divmod(upstreams_pass, self.rounds)
        first = number * self.per_class
        images = range(first, min(first + self.per_class, self.originals))
        positions = [
            (label, block * self.originals + image) for label in range(*self.chunks[chunk]) for image in images
        ]
        return SlotPlan(tuple(label for label, _ in positions), tuple(image for _, image in positions))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plan.json holds it."""
        return {
            "kind": "regroup" if self.regrouped else "keep",
            "classes": self.chunks[-1][1],
            "ipc": self.ipc,
            "originals": self.originals,
            "networks": self.networks,
            "per_class": self.per_class,
            "passes": self.passes,
            "slots_per_pass": self.slots_per_pass,
            "chunks": [list(chunk) for chunk in self.chunks],
        }


def count_originals(ipc: int, *, networks: int, classes: int) -> int:
    """Return upstream's ipc_init, computed as upstream does."""
    return int(ipc / (networks / classes + 1))


def ipc_argument(plan: PerturbationPlan, ipc: int) -> int:
    """Return the `--ipc` from which the script computes `plan.rounds`: the recipe's own where that is its ipc_init."""
    classes = plan.chunks[-1][1]
    for argument in itertools.chain([ipc], range(1, ipc)):
        if count_originals(argument, networks=plan.networks, classes=classes) == plan.rounds:
            return argument
    raise DirePlugError(f"plan: no --ipc makes the script take {plan.rounds} passes a network; this is a fault of ours")


def cut_classes(classes: int, batch_size: int) -> tuple[tuple[int, int], ...]:
    """Return the batches of one of upstream's passes: first class, and the one after the last."""
    return tuple((first, min(first + batch_size, classes)) for first in range(0, classes, batch_size))


def check_rows(chunks: Sequence[tuple[int, int]], classes: int, batch_size: int) -> None:
    """Raise for batches of a part of the classes where the script reads a start tensor that holds all of them.

    Raises:
        DirePlugError: there is more than one batch.
    """
    if len(chunks) > 1:
        raise DirePlugError(
            f"plan: a batch of {batch_size} classes doesn't match its start tensor, whose rows are all {classes} "
            f"classes, so upstream's loop can't run; set batch-size to {classes} or more, or let several images of a "
            "class share a batch: recover.plan={per_class: …}"
        )
