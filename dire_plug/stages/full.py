"""The arm `full`: students learn from every training image, the ceiling of what a subset or a condensed set can give.

Nothing is copied into the run's folder: students read the dataset. With the recipe's epochs they would take N/(C·IPC)
times as many steps as those of the other arms, which is hours where the others take minutes. So the epochs are cut to
about equal steps, but not below `LEAST_EPOCHS`, since a ceiling that has hardly learned would be none.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError
from dire_plug.stages.job import Job

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.data import Dataset

FULL = "full"
LEAST_EPOCHS = 20
"""The fewest epochs that the arm takes, unless the recipe itself has fewer."""
MOST_BYTES = 16 << 30
"""The largest training set that students get in one piece, as they do."""


@dataclass(frozen=True)
class Budget:
    """How long students of `full` learn.

    Attributes:
        images: in the training set.
        epochs: over all of it.
        steps: of the optimiser.
        subset_steps: those of a student of C·IPC images in the recipe's epochs.
    """

    images: int
    epochs: int
    steps: int
    subset_steps: int

    def to_json(self) -> dict[str, int]:
        """Return the numbers by name."""
        return asdict(self)


def plan_budget(job: Job) -> Budget:
    """Return the fewest epochs whose steps are at least a subset's: at least `LEAST_EPOCHS`, at most the recipe's."""
    section, images = job.recipe.evaluate, len(job.dataset.train)
    subset_steps = section.epochs * math.ceil(job.classes * job.recipe.ipc / section.batch_size)
    per_epoch = math.ceil(images / section.batch_size)
    epochs = min(section.epochs, max(LEAST_EPOCHS, math.ceil(subset_steps / per_epoch)))
    return Budget(images, epochs, epochs * per_epoch, subset_steps)


def with_budget(job: Job, budget: Budget) -> Job:
    """Return the job with the budget's epochs; what the protocol counts in epochs shrinks in proportion.

    That is the warm-up, the first test and the epochs between tests.
    """
    section = job.recipe.evaluate

    def shrink(epochs: int) -> int:
        return epochs * budget.epochs // section.epochs

    changes: dict[str, Any] = {
        "epochs": budget.epochs,
        "test_from": shrink(section.test_from),
        "test_every": max(1, shrink(section.test_every)),
    }
    if warmup := getattr(section, "warmup_epochs", 0):
        changes["warmup_epochs"] = shrink(warmup)
    return replace(job, recipe=job.recipe.model_copy(update={"evaluate": section.model_copy(update=changes)}))


def every_image(job: Job) -> tuple[Tensor, Tensor]:
    """Return the training images, uint8 [N, 3, h, w], and their labels, [N], in the dataset's order.

    Raises:
        DirePlugError: an image can't be decoded.
    """
    return job.dataset.train.images(), job.dataset.train.labels


def check_memory(dataset: Dataset, *, bytes_per_value: int) -> None:
    """Refuse a training set that is too large for one tensor.

    Args:
        bytes_per_value: 1 where students learn from grey levels, 4 where all images are held as networks see them.

    Raises:
        DirePlugError: it takes more than `MOST_BYTES`.
    """
    needed = bytes_per_value * len(dataset.train) * 3 * dataset.size**2
    if needed > MOST_BYTES:
        raise DirePlugError(
            f"arm 'full': the {len(dataset.train)} training images of {dataset.name} at {dataset.size} pixels take "
            f"{needed / 2**30:.0f} GiB of memory at once, and more than {MOST_BYTES >> 30} GiB aren't taken; leave "
            "'full' out of --arms, or lower dataset.size or dataset.limit for every arm"
        )
