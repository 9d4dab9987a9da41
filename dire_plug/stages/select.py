"""Arms of real images: as many per class as the condensed set has, under the same protocol.

`random` draws them. `herding`, `k-center` and `k-means` choose them in T's embeddings, in eval mode; only `k-means`
depends on the run's seed. `full` takes every image: see `full.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.seeding import derive
from dire_plug.stages.embed import embed
from dire_plug.stages.full import FULL, check_memory
from dire_plug.stages.images import TENSORS, save_images
from dire_plug.stages.job import Job
from dire_plug.stages.squeeze import squeeze

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.data import Dataset


def select_real(job: Job) -> None:
    """Fill `images/` and `images.safetensors` of the run with the real images that its arm takes.

    The files go through upstream's own format, as synthesized ones do; nothing is done where they are there, and
    nothing is copied for `full`, whose students read the dataset.

    Raises:
        DirePlugError: a class has too few images, an embedding isn't finite, or `full` doesn't fit in memory.
    """
    import torch
    from safetensors.torch import save

    if job.arm == FULL:
        check_memory(job.dataset, bytes_per_value=4 if job.recipe.evaluate.protocol == "hard-labels" else 1)
        return
    if (job.folder / TENSORS).is_file():
        return
    more: dict[str, Tensor] = {}
    if job.arm == "random":
        images, labels = select_random(job.dataset, ipc=job.recipe.ipc, seed=job.seed)
    else:
        more["indices"] = choose_in_embeddings(job)
        images, labels = _images_at(job.dataset, more["indices"])
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
    tensors = {"images": images.float() / 255, "labels": labels, "numbers": numbers, **more}
    write_atomically(job.folder / TENSORS, save(tensors))


def choose_in_embeddings(job: Job) -> Tensor:
    """Return where in the training set the images stand that the job's arm chooses: [C·ipc], int64, by class.

    Raises:
        DirePlugError: a class has fewer than IPC images, an embedding isn't finite.
    """
    import torch

    ipc = job.recipe.ipc
    for label, name in enumerate(job.dataset.classes):
        if (count := int((job.dataset.train.labels == label).sum())) < ipc:
            raise _too_few(job.dataset, name, count=count, ipc=ipc)
    real = embed(job, squeeze(job).teacher)
    chosen = []
    with ui.progress(f"select: {job.arm}", job.classes) as advance:
        for label in range(job.classes):
            own = torch.nonzero(real.labels == label).flatten()
            chosen.append(real.indices[own[_choose(job, real.values[own], label)]])
            advance(label + 1)
    return torch.cat(chosen)


def _choose(job: Job, values: Tensor, label: int) -> Tensor:
    """Return the rows of one class that the job's arm chooses."""
    from dire_plug.data.subsets import choose_by_herding, choose_by_k_center, choose_by_k_means

    if job.arm == "k-means":
        return choose_by_k_means(values, job.recipe.ipc, seed=derive(job.seed, "k-means", label))
    return {"herding": choose_by_herding, "k-center": choose_by_k_center}[job.arm](values, job.recipe.ipc)


def select_random(dataset: Dataset, *, ipc: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `ipc` training images of each class without replacement: uint8 [C·ipc, 3, h, w] and labels, by class.

    Raises:
        DirePlugError: a class has fewer images.
    """
    indices = draw_per_class(
        dataset,
        ipc=ipc,
        seed=derive(seed, "random images"),
        refuse=lambda name, count: _too_few(dataset, name, count=count, ipc=ipc),
    )
    return _images_at(dataset, indices)


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


def _images_at(dataset: Dataset, indices: Tensor) -> tuple[Tensor, Tensor]:
    return dataset.train.images(indices).cpu(), dataset.train.labels[indices]


def _too_few(dataset: Dataset, name: str, *, count: int, ipc: int) -> DirePlugError:
    return DirePlugError(
        f"class '{name}' of {dataset.name} has {count} training images, {ipc} per class were asked for; "
        "lower the IPC or raise the dataset's limit"
    )
