"""The order in which G-VBSM's scripts go through all images, and others that they can be given."""

from dire_plug.api.method import (
    DirePlugError,
    ListedPlan,
    Script,
    cut_plan,
)

GROUPS = 10
"""The Tiny-ImageNet script splits the images of a class into so many groups, one after the other."""


def build_order(name: str, script: Script, *, ipc: int, per_class: int | None, batch_size: int) -> ListedPlan:
    """Return the plan of one script.

    Args:
        name: of the script.
        per_class: images of a class that follow each other; None is upstream's own order: all of them, and the tenth
            part on Tiny-ImageNet.

    Raises:
        DirePlugError: the Tiny-ImageNet script can't group the images, or the ImageNet-1K script can't reshape a batch.
    """
    if ipc < 1:
        raise DirePlugError(f"ipc: must be at least 1 (is {ipc})")
    if name == "tiny" and ipc % GROUPS:
        below, above = ipc // GROUPS * GROUPS, (ipc // GROUPS + 1) * GROUPS
        raise DirePlugError(
            f"ipc: the script 'tiny' splits the images of a class into {GROUPS} groups, so IPC must be a multiple of "
            f"{GROUPS}: {f'{below} or {above}' if below else above} (is {ipc})"
        )
    own = ipc // GROUPS if name == "tiny" else ipc
    order = _group_by_group(script.classes, ipc, per_class or own)
    plan = cut_plan(order, classes=script.classes, batch_size=batch_size)
    if name == "imagenet":
        _check_reshape(plan, script, batch_size)
    return plan


def _group_by_group(classes: int, ipc: int, per_class: int) -> list[tuple[int, int]]:
    """Return every (class, image) pair: `per_class` images of class 0, of class 1, …, then the next ones."""
    groups = (range(first, min(first + per_class, ipc)) for first in range(0, ipc, per_class))
    return [(label, image) for group in groups for label in range(classes) for image in group]


def _check_reshape(plan: ListedPlan, script: Script, batch_size: int) -> None:
    images = len(plan.slots[-1].labels)
    if images * 3 * script.size**2 % batch_size:
        raise DirePlugError(
            f"recover.flags.batch-size: the ImageNet-1K script reshapes its images by --batch-size {batch_size}, which "
            f"the last batch, of {images} images, can't be; take a divisor of {plan.ipc * script.classes}"
        )
