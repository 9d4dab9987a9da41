"""The students that DD-Ranking's scores need: on the set, on random real images, on all; hard labels; no augmentation.

Hard labels: the class is the label, nothing augments or mixes, SGD as in the protocol `hard-labels`, in the epochs and
batches of the recipe; DD-Ranking's own default is of that kind. The recipe's students, seeds and tests stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, read_json, write_json
from dire_plug.recipe.evaluate import DeltSection, EvaluateSection, HardLabelsSection
from dire_plug.runs.cache import cached
from dire_plug.stages.job import Job
from dire_plug.stages.squeeze import Teachers

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Raised when the same images and settings give another accuracy."""
ACCURACY = "accuracy.json"
RATE = 0.01
"""Of SGD with hard labels: the protocol's own, and what DD-Ranking takes for all images of CIFAR."""
OFF: Mapping[str, Any] = {"augmentation": "none", "padding": 0, "mixup": 0, "cutmix": 0, "dsa": "none"}
"""The keys of the protocols that augment or mix, and what turns them off."""
MOST_BYTES = 16 << 30
"""The largest training set of which students learn with hard labels: all images in float, in one piece."""

Lay = Callable[[Path], None]


@dataclass(frozen=True)
class Lesson:
    """What students learn from.

    Attributes:
        images: [n, 3, h, w], uint8, or float in [0, 1]; `labels` [n].
        digest: of what decides both.
        lay_out: puts into a folder what the protocol reads from there besides; see `pipeline.set_protocol`.
    """

    images: Tensor
    labels: Tensor
    digest: Any
    lay_out: Lay = lambda folder: None


def with_hard_labels(section: EvaluateSection, *, lr: float = RATE) -> EvaluateSection:
    """Return the protocol with the class for a label and without augmentation, in as many epochs.

    Args:
        lr: of SGD; a protocol with hard labels of its own keeps its learning rate.
    """
    if isinstance(section, HardLabelsSection):
        return section.model_copy(update={"dsa": "none"})
    shared = section.model_dump(include=set(EvaluateSection.model_fields) - {"protocol"})
    return HardLabelsSection(protocol="hard-labels", lr=lr, dsa="none", **shared)


def without_augmentation(section: EvaluateSection) -> EvaluateSection:
    """Return the protocol without augmentation and without mixing.

    Raises:
        DirePlugError: the protocol can't do without.
    """
    if isinstance(section, DeltSection):
        raise DirePlugError(
            f"the protocol '{section.protocol}' always crops and flips, so there is no score without it"
        )
    return section.model_copy(update={key: value for key, value in OFF.items() if key in type(section).model_fields})


def train_students(job: Job, networks: Teachers, lesson: Lesson, section: EvaluateSection) -> dict[str, Any]:
    """Return the students of `lesson` under `section`, as `stages.evaluate` has them; cached by all that decides them.

    Raises:
        DirePlugError: see `stages.evaluate`.
    """
    import torch

    from dire_plug.stages.evaluate import evaluate

    key = {
        "format": FORMAT,
        "section": section.model_dump(mode="json"),
        "lesson": lesson.digest,
        "dataset": job.dataset.digest,
        "networks": {name: digest_file(file) for name, file in networks.in_loop.items()},
        "engine": job.engine,
        "seed": job.seed,
        "torch": torch.__version__,
    }

    def make(folder: Path) -> None:
        lesson.lay_out(folder)
        recipe = job.recipe.model_copy(update={"evaluate": section})
        found = evaluate(replace(job, recipe=recipe, folder=folder), networks, lesson.images, lesson.labels)
        write_json(folder / ACCURACY, found)

    found: dict[str, Any] = read_json(cached(job.cache, kind="ranking", key=key, make=make) / ACCURACY)["students"]
    return found


def random_lesson(job: Job, *, per_class: int) -> Lesson:
    """Return as many real images of each class, drawn by the job's seed; grey levels as they are in the dataset.

    Raises:
        DirePlugError: a class has fewer.
    """
    from dire_plug.stages.select import select_random

    images, labels = select_random(job.dataset, ipc=per_class, seed=job.seed)
    return Lesson(images, labels, {"random": per_class})


def full_lesson(job: Job) -> Lesson:
    """Return all training images; see `check_full`."""
    from dire_plug.stages.full import every_image

    return Lesson(*every_image(job), "full")


def check_full(job: Job) -> None:
    """Refuse a training set of which students can't learn in one piece.

    Raises:
        DirePlugError: it takes more than `MOST_BYTES` in float.
    """
    dataset = job.dataset
    if (needed := 4 * len(dataset.train) * 3 * dataset.size**2) > MOST_BYTES:
        raise DirePlugError(
            f"the {len(dataset.train)} training images of {dataset.name} at {dataset.size} pixels take "
            f"{needed / 2**30:.0f} GiB in one piece, and more than {MOST_BYTES >> 30} GiB aren't taken; give the "
            "accuracy of a student of all of them with hard labels instead: --full-accuracy PERCENT"
        )
