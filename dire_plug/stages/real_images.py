"""Select the real images of an arm: as many per class as the condensed set has; or `full`, all of them, the ceiling.

`random` draws them, `rded` makes them of patches (`real_patches.py`). `herding`, `k-center` and `k-means` choose them
in T's embeddings, in eval mode; of these only `k-means` depends on the run's seed. `full` takes every image, and
nothing is copied: students read the dataset. With the recipe's epochs they would take N/(C·IPC) times as many steps as
those of the other arms, which is hours where the others take minutes. So the epochs are cut to about equal steps, but
not below `LEAST_EPOCHS`, since an undertrained ceiling would be none.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dire_plug import ui
from dire_plug.data import Dataset
from dire_plug.data.subsets import choose_by_herding, choose_by_k_center, choose_by_k_means
from dire_plug.errors import DirePlugError
from dire_plug.image_files import TENSORS
from dire_plug.recipe.evaluate import EvaluateSection
from dire_plug.recipe.model import RDED
from dire_plug.seeding import derive
from dire_plug.stages.artefacts import Networks
from dire_plug.stages.embed import ensure_embeddings
from dire_plug.stages.images import save_images
from dire_plug.stages.real_patches import PATCHES, make_of_patches
from dire_plug.stages.row_file import stream_rows
from dire_plug.store.runs import Run

LEAST_EPOCHS = 20
"""The fewest epochs that `full` takes, unless the recipe itself has fewer."""
MOST_BYTES = 16 << 30
"""The largest training set that students get in one tensor."""


def write_subset(run: Run, networks: Networks, folder: Path) -> None:
    """Write `images/` and `images.safetensors` with the real images that the run's arm takes.

    The files go through upstream's own format, as synthesized ones do.

    Raises:
        DirePlugError: a class has too few images, an embedding or a loss isn't finite.
    """
    ipc, classes = run.recipe.ipc, run.classes
    beside = {"labels": torch.arange(classes).repeat_interleave(ipc), "numbers": torch.arange(ipc).repeat(classes)}
    if run.arm == RDED:
        of_classes = make_of_patches(run, networks, sources=folder / PATCHES)
    else:
        if run.arm == "random":
            indices = draw_random(run.dataset, ipc=ipc, seed=run.seed)
        else:
            indices = beside["indices"] = choose_in_embeddings(run, networks)
        of_classes = (_images_at(run.dataset, own)[0] for own in torch.split(indices, ipc))
    # class by class: ImageNet-1K's images don't lie in memory at once
    with stream_rows(folder / TENSORS, torch.arange(classes * ipc), beside=beside, name="images") as add:
        for label, images in enumerate(of_classes):
            save_images(
                folder / "images",
                run.adapter,
                images=images,
                labels=[label] * ipc,
                numbers=range(ipc),
                suffix=run.script.suffix,
            )
            add(images.float() / 255)


def choose_in_embeddings(run: Run, networks: Networks) -> Tensor:
    """Return where in the training set the images stand that the run's arm chooses: [C·ipc], int64, by class.

    Raises:
        DirePlugError: a class has fewer than IPC images, an embedding isn't finite.
    """
    ipc = run.recipe.ipc
    for label, name in enumerate(run.dataset.classes):
        if (count := int((run.dataset.train.labels == label).sum())) < ipc:
            raise too_few(run.dataset, name, count=count, ipc=ipc)
    real = ensure_embeddings(run, networks.teacher)
    chosen = []
    with ui.progress(f"select: {run.arm}", run.classes) as advance:
        for label in range(run.classes):
            own = torch.nonzero(real.labels == label).flatten()
            chosen.append(real.indices[own[_choose(run, real.values[own], label)]])
            advance(label + 1)
    return torch.cat(chosen)


def _choose(run: Run, values: Tensor, label: int) -> Tensor:
    """Return the rows of one class that the run's arm chooses."""
    if run.arm == "k-means":
        return choose_by_k_means(values, run.recipe.ipc, seed=derive(run.seed, "k-means", label))
    return {"herding": choose_by_herding, "k-center": choose_by_k_center}[run.arm](values, run.recipe.ipc)


def select_random(dataset: Dataset, *, ipc: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `ipc` training images of each class without replacement: uint8 [C·ipc, 3, h, w] and labels, by class.

    Raises:
        DirePlugError: a class has fewer images.
    """
    return _images_at(dataset, draw_random(dataset, ipc=ipc, seed=seed))


def draw_random(dataset: Dataset, *, ipc: int, seed: int) -> Tensor:
    """Return where the images of `select_random` stand in the training set: [C·ipc], int64.

    Raises:
        DirePlugError: a class has fewer images.
    """
    return draw_per_class(
        dataset,
        ipc=ipc,
        seed=derive(seed, "random images"),
        too_few=lambda name, count: too_few(dataset, name, count=count, ipc=ipc),
    )


def draw_per_class(dataset: Dataset, *, ipc: int, seed: int, too_few: Callable[[str, int], DirePlugError]) -> Tensor:
    """Draw `ipc` training images of each class without replacement: their indices, [C·ipc], by class.

    Args:
        too_few: class and its number of images → the error to raise where a class has fewer than `ipc`.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, name in enumerate(dataset.classes):
        members = torch.nonzero(dataset.train.labels == label).flatten()
        if len(members) < ipc:
            raise too_few(name, len(members))
        # one generator for all classes, in their order: another order would draw other images
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(chosen)


def _images_at(dataset: Dataset, indices: Tensor) -> tuple[Tensor, Tensor]:
    return dataset.train.images(indices).cpu(), dataset.train.labels[indices]


def too_few(dataset: Dataset, name: str, *, count: int, ipc: int) -> DirePlugError:
    """Return the error for a class of which so many images can't be chosen."""
    return DirePlugError(
        f"class '{name}' of {dataset.name} has {count} training images, {ipc} per class were asked for; "
        "lower the IPC or raise the dataset's limit"
    )


# The arm `full`.


@dataclass(frozen=True)
class Budget:
    """How long students of `full` are trained.

    Attributes:
        images: in the training set.
        epochs: passes over it.
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


def plan_budget(run: Run, section: EvaluateSection, *, ipc: int) -> Budget:
    """Return the fewest epochs whose steps are at least a subset's: at least `LEAST_EPOCHS`, at most the section's."""
    images = len(run.dataset.train)
    subset_steps = section.epochs * math.ceil(run.classes * ipc / section.batch_size)
    per_epoch = math.ceil(images / section.batch_size)
    # never more epochs than the recipe's: a small training set needs no cut
    epochs = min(section.epochs, max(LEAST_EPOCHS, math.ceil(subset_steps / per_epoch)))
    return Budget(images, epochs, epochs * per_epoch, subset_steps)


def with_budget(section: EvaluateSection, budget: Budget) -> EvaluateSection:
    """Return the protocol with the budget's epochs; what it counts in epochs shrinks in proportion.

    That is the warm-up, the first test and the epochs between tests.
    """

    def shrink(epochs: int) -> int:
        return epochs * budget.epochs // section.epochs

    changes: dict[str, Any] = {
        "epochs": budget.epochs,
        "test_from": shrink(section.test_from),
        "test_every": max(1, shrink(section.test_every)),
    }
    if warmup := getattr(section, "warmup_epochs", 0):
        changes["warmup_epochs"] = shrink(warmup)
    return section.model_copy(update=changes)


def check_memory(run: Run) -> None:
    """Raise where the training set is too large for one tensor, as students of `full` get it.

    Raises:
        DirePlugError: it takes more than `MOST_BYTES`.
    """
    dataset = run.dataset
    needed = len(dataset.train) * 3 * dataset.size**2
    if needed > MOST_BYTES:
        raise DirePlugError(
            f"arm 'full': the {len(dataset.train)} training images of {dataset.name} at {dataset.size} pixels take "
            f"{needed / 2**30:.0f} GiB of memory at once, and more than {MOST_BYTES >> 30} GiB aren't taken; leave "
            "'full' out of --arms, or lower dataset.size or dataset.limit for every arm"
        )
