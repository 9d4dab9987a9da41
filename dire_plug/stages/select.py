"""Arms of real images: as many per class as the condensed set has, under the same protocol."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from dire_plug.errors import DirePlugError, NotLandedError
from dire_plug.files import write_atomically
from dire_plug.seeding import derive
from dire_plug.stages.images import TENSORS, save_images
from dire_plug.stages.job import Job

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.data import Dataset


def select_real(job: Job) -> None:
    """Fill `images/` and `images.safetensors` of the run with the real images that its arm takes.

    The files go through upstream's own format, as synthesized ones do; nothing is done where they are there.

    Raises:
        NotLandedError: the arm's way of selecting isn't built yet.
        DirePlugError: a class has too few images.
    """
    import torch
    from safetensors.torch import save

    if (job.folder / TENSORS).is_file():
        return
    if job.arm != "random":
        raise NotLandedError(f"arm '{job.arm}': this way of selecting real images hasn't landed yet; 'random' works")
    images, labels = select_random(job.dataset, ipc=job.recipe.ipc, seed=job.seed)
    numbers = torch.arange(job.recipe.ipc).repeat(job.classes)
    shutil.rmtree(job.folder / "images", ignore_errors=True)
    save_images(
        job.folder / "images",
        job.adapter,
        images=images,
        labels=labels.tolist(),
        numbers=numbers.tolist(),
        suffix=job.script.suffix,
    )
    tensors = {"images": images.float() / 255, "labels": labels, "numbers": numbers}
    write_atomically(job.folder / TENSORS, save(tensors))


def select_random(dataset: Dataset, *, ipc: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `ipc` training images of each class without replacement: uint8 [C·ipc, 3, h, w] and labels, by class.

    Raises:
        DirePlugError: a class has fewer images.
    """
    indices = draw_per_class(
        dataset,
        ipc=ipc,
        seed=derive(seed, "random images"),
        refuse=lambda name, count: DirePlugError(
            f"class '{name}' of {dataset.name} has {count} training images, {ipc} per class were asked for; "
            "lower the IPC or raise the dataset's limit"
        ),
    )
    return dataset.train.images(indices).cpu(), dataset.train.labels[indices]


def draw_per_class(dataset: Dataset, *, ipc: int, seed: int, refuse: Callable[[str, int], DirePlugError]) -> Tensor:
    """Draw `ipc` training images of each class without replacement: their indices, [C·ipc], by class.

    Args:
        refuse: class and its number of images → the error to raise where a class has fewer than `ipc`.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, name in enumerate(dataset.classes):
        members = torch.nonzero(dataset.train.labels == label).flatten()
        if len(members) < ipc:
            raise refuse(name, len(members))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(chosen)
