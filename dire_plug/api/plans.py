"""Build plans: which class, and which image of it, each position of each slot of a synthesis holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.types import Slot, SlotPlan


@dataclass(frozen=True)
class ChunkedPlan:
    """Each batch holds one chunk of the classes, each pass the next `per_class` images of every class.

    Attributes:
        chunks: first class, and the one after the last, of each batch of a pass.
        ipc: images per class.
        per_class: images of a class in one slot; 1 is upstream's own order. The last pass may hold fewer.
    """

    chunks: tuple[tuple[int, int], ...]
    ipc: int
    per_class: int = 1

    @property
    def passes(self) -> int:
        """The number of passes."""
        return -(-self.ipc // self.per_class)

    @property
    def slots_per_pass(self) -> int:
        """The number of batches in a pass."""
        return len(self.chunks)

    @property
    def regrouped(self) -> bool:
        """Whether several images of a class share a slot."""
        return self.per_class > 1

    def slot(self, slot: Slot) -> SlotPlan:
        """Return what a slot holds, class by class: 0, 0, …, 1, 1, …

        Raises:
            DirePlugError: the plan has no such slot.
        """
        if not (0 <= slot.pass_index < self.passes and 0 <= slot.batch_index < self.slots_per_pass):
            raise DirePlugError(
                f"the plan has {self.passes} passes of {self.slots_per_pass} batches, so there is no batch "
                f"{slot.batch_index} of pass {slot.pass_index}; does upstream's script split the classes otherwise?"
            )
        # the last pass may hold fewer images of a class
        images = range(slot.pass_index * self.per_class, min((slot.pass_index + 1) * self.per_class, self.ipc))
        classes = range(*self.chunks[slot.batch_index])
        positions = [(label, image) for label in classes for image in images]
        return SlotPlan(tuple(label for label, _ in positions), tuple(image for _, image in positions))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plan.json holds it."""
        return {
            "kind": "regroup" if self.regrouped else "keep",
            "classes": self.chunks[-1][1],
            "ipc": self.ipc,
            "per_class": self.per_class,
            "passes": self.passes,
            "slots_per_pass": self.slots_per_pass,
            "chunks": [list(chunk) for chunk in self.chunks],
        }


@dataclass(frozen=True)
class ListedPlan:
    """Batches that are listed one by one: for scripts that go class by class, or can't start in the middle.

    Attributes:
        slots: what each batch holds, in upstream's order.
        classes: the number of classes.
        passes: calls of the script, each of which makes as many batches: one where it can't start in the middle.
    """

    slots: tuple[SlotPlan, ...]
    classes: int
    passes: int = 1

    @property
    def slots_per_pass(self) -> int:
        """The number of batches in a pass."""
        return len(self.slots) // self.passes

    @property
    def ipc(self) -> int:
        """The images of a class, all batches together."""
        return sum(len(slot.labels) for slot in self.slots) // self.classes

    @property
    def regrouped(self) -> bool:
        """False: the slots are listed in upstream's own order, or the script takes any order as its own."""
        return False

    def slot(self, slot: Slot) -> SlotPlan:
        """Return what a slot holds.

        Raises:
            DirePlugError: the plan has no such slot.
        """
        check_in_passes(slot, batches=self.slots_per_pass, passes=self.passes)
        return self.slots[slot.pass_index * self.slots_per_pass + slot.batch_index]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plan.json holds it."""
        return {
            "kind": "listed",
            "classes": self.classes,
            "ipc": self.ipc,
            "passes": self.passes,
            "slots": [{"labels": list(slot.labels), "images": list(slot.images)} for slot in self.slots],
        }


def check_in_passes(slot: Slot, *, batches: int, passes: int = 1) -> None:
    """Raise for a slot that a plan of equal passes, of `batches` batches each, doesn't have.

    Raises:
        DirePlugError: there is no such slot.
    """
    if not (0 <= slot.pass_index < passes and 0 <= slot.batch_index < batches):
        several = "one pass" if passes == 1 else f"each of {passes} passes"
        raise DirePlugError(
            f"the plan has {batches} batches in {several}, so there is no batch {slot.batch_index} of pass "
            f"{slot.pass_index}; does upstream's script split the images otherwise?"
        )


def cut_plan(
    positions: Sequence[tuple[int, int]], *, classes: int, batch_size: int, pass_size: int | None = None
) -> ListedPlan:
    """Cut (class, image) pairs, in upstream's order, into batches of `batch_size`; the last of a pass may be smaller.

    Args:
        pass_size: images of each pass, a divisor of their number; None: there is one pass.

    Raises:
        DirePlugError: the batch size is below 1, or classes have different numbers of images.
    """
    if batch_size < 1:
        raise DirePlugError(f"plan: the batch size must be at least 1 (is {batch_size})")
    if len(positions) % classes:
        raise DirePlugError(f"plan: {len(positions)} images can't be shared equally by {classes} classes")
    size = pass_size or len(positions) or 1
    passes = [positions[first : first + size] for first in range(0, len(positions), size)]
    cuts = (one[first : first + batch_size] for one in passes for first in range(0, size, batch_size))
    slots = tuple(SlotPlan(tuple(label for label, _ in cut), tuple(image for _, image in cut)) for cut in cuts)
    return ListedPlan(slots, classes, len(passes))


def group_by_group(classes: int, ipc: int, per_class: int) -> list[tuple[int, int]]:
    """Return every (class, image) pair: `per_class` images of class 0, of class 1, …, then the next ones."""
    groups = (range(first, min(first + per_class, ipc)) for first in range(0, ipc, per_class))
    return [(label, image) for group in groups for label in range(classes) for image in group]


def class_by_class(classes: int, ipc: int) -> list[tuple[int, int]]:
    """Return every (class, image) pair: all images of class 0, then those of class 1, …"""
    return [(label, image) for label in range(classes) for image in range(ipc)]


def build_plan(
    *, classes: int, ipc: int, slots_per_pass: int, per_class: int = 1, chunk_size: int | None = None
) -> ChunkedPlan:
    """Split the classes over the batches of a pass, and the images of a class over the passes.

    Args:
        chunk_size: classes in each batch but the last, as upstream's script splits them; None: as equal as possible,
            for a dataset that has fewer classes than the script hard-codes.

    Raises:
        DirePlugError: a number below 1, more slots than classes, or a chunk size that doesn't give that many slots.
    """
    numbers = {"classes": classes, "IPC": ipc, "batches a pass": slots_per_pass, "images of a class a batch": per_class}
    for name, number in numbers.items():
        if number < 1:
            raise DirePlugError(f"plan: the number of {name} must be at least 1 (is {number})")
    if slots_per_pass > classes:
        raise DirePlugError(
            f"plan: {slots_per_pass} batches a pass for {classes} classes would leave some empty; raise the batch size"
        )
    if chunk_size is None:
        # integer arithmetic spreads the remainder: sizes differ by at most one class
        ends = [classes * (batch + 1) // slots_per_pass for batch in range(slots_per_pass)]
    else:
        ends = [min(first + chunk_size, classes) for first in range(0, classes, max(chunk_size, 1))]
    if len(ends) != slots_per_pass:
        raise DirePlugError(
            f"plan: {classes} classes in chunks of {chunk_size} make {len(ends)} batches, not {slots_per_pass}"
        )
    return ChunkedPlan(tuple(zip([0, *ends[:-1]], ends, strict=True)), ipc, per_class)
