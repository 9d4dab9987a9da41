"""Embed: real images as a network's penultimate layer sees them, made once and shared by all runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, write_atomically
from dire_plug.runs.cache import cached
from dire_plug.stages.coreset import choose_centres
from dire_plug.stages.job import Job
from dire_plug.types import CORESET

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dire_plug.models.pretrained import Pretrained

FORMAT = 1
"""Raised when the same network and images give other files."""
FILE = "embeddings.safetensors"

SplitName = Literal["train", "test"]
Mode = Literal["eval", "train"]


@dataclass(frozen=True)
class EmbeddedReal:
    """Real images of one split in one network, sorted by class and within a class in the dataset's order.

    Attributes:
        path: the file that holds the rest.
        values: [M, D], float32.
        labels: [M], int64, ascending.
        indices: [M], int64: where in the split each row stands.
    """

    path: Path
    values: Tensor
    labels: Tensor
    indices: Tensor


def embed(job: Job, network: Path | Pretrained, *, split: SplitName = "train", mode: Mode = "eval") -> EmbeddedReal:
    """Return the embeddings of all images of a split, unaugmented; cached.

    Args:
        network: a file of ours, whose weights are taken as they are; or a published network, in eval mode.
        mode: `eval`; or `train`: batch statistics over 500 images at a time in the dataset's order, as in the
            authors' release, on a copy whose running statistics are thrown away.

    Raises:
        DirePlugError: an image or the network cannot be read.
    """
    import torch
    from safetensors.torch import load_file

    key = {
        "format": FORMAT,
        "dataset": job.dataset.digest,
        "network": digest_file(network) if isinstance(network, Path) else f"{network.name} {network.digest}",
        "split": job.dataset.judged if split == "test" else split,
        "mode": mode,
        "torch": torch.__version__,
    }
    entry = cached(
        job.cache,
        kind="embed",
        key=key,
        make=lambda folder: _write(folder / FILE, _embed(job, network, split=split, mode=mode)),
    )
    found = load_file(entry / FILE)
    return EmbeddedReal(entry / FILE, found["values"], found["labels"], found["indices"])


def real_for_regularizer(job: Job, network: Path) -> Path:
    """Return the file of `values` [M, D] and `labels` [M] that a regularizer reads, by the recipe's `real` section.

    Raises:
        DirePlugError: a class has fewer real images than the section asks for.
    """
    section = job.recipe.real
    embedded = embed(job, network, mode=section.mode)
    if section.per_class is None and section.order == "by_class" and section.coreset is None:
        return embedded.path
    key = {
        "format": FORMAT,
        "embedded": embedded.path.parent.name,
        "per_class": section.per_class,
        "order": section.order,
        "classes": job.classes,
        **({} if section.coreset is None else {"coreset": section.coreset}),
    }
    entry = cached(job.cache, kind="real", key=key, make=lambda folder: _write(folder / FILE, _choose(job, embedded)))
    return entry / FILE


def embedder(network: Path | Pretrained, device: torch.device, *, mode: Mode = "eval") -> Callable[[Tensor], Tensor]:
    """Return what embeds images as they are stored: uint8, or float in [0, 1], [n, 3, h, w] → float32, [n, D].

    Args:
        network: as in `embed`.
        device: where the images are, and the network is put; a published network stays where it was loaded.
        mode: of a network of ours, as in `embed`.

    Raises:
        DirePlugError: the network cannot be read.
    """
    from dire_plug.data.augment import normalise
    from dire_plug.models import embed as embed_batch
    from dire_plug.models.checkpoint import load
    from dire_plug.stages.views import BATCH

    if not isinstance(network, Path):
        return network.embed
    loaded = load(network, device)
    model = loaded.model.train(mode == "train")
    return lambda images: embed_batch(model, normalise(images, loaded.mean, loaded.std), batch=BATCH).float()


def embed_images(network: Path | Pretrained, images: Tensor, *, device: torch.device) -> Tensor:
    """Return the embeddings [n, D] of images as they are stored, unaugmented, in eval mode, on `device`."""
    import torch

    from dire_plug.stages.views import BATCH

    see = embedder(network, device)
    return torch.cat([see(part.to(device)) for part in torch.split(images, BATCH)])


def _embed(job: Job, network: Path | Pretrained, *, split: SplitName, mode: Mode) -> dict[str, Tensor]:
    import torch

    from dire_plug.stages.views import BATCH, raw_batches

    see = embedder(network, job.device, mode=mode)
    chosen = job.dataset.train if split == "train" else job.dataset.test
    parts: list[Tensor] = []
    with ui.progress(f"embed: {split} images", len(chosen)) as advance:
        for number, (images, _) in enumerate(raw_batches(chosen, device=job.device), start=1):
            parts.append(see(images).cpu())
            advance(min(number * BATCH, len(chosen)))
    values = torch.cat(parts)
    labels, indices = torch.sort(chosen.labels, stable=True)
    return {"values": values[indices], "labels": labels, "indices": indices}


def _choose(job: Job, embedded: EmbeddedReal) -> dict[str, Tensor]:
    """Return the rows that the `real` section asks for, and their labels."""
    import torch

    section, values, labels = job.recipe.real, embedded.values, embedded.labels
    if section.order == "as_released":
        values, labels = chunks_as_released(values[torch.argsort(embedded.indices)], job.classes)
    if section.per_class is not None:
        values, labels = _first(job, values, labels, section.per_class)
    if section.coreset is None:
        return {"values": values, "labels": labels}
    found = choose_centres(values, labels, section.coreset)
    return {"values": values, "labels": labels, **{f"{CORESET}{name}": tensor for name, tensor in found.items()}}


def _first(job: Job, values: Tensor, labels: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    """Return the first `per_class` rows of each class, and their labels."""
    import torch

    counts = torch.bincount(labels, minlength=job.classes)
    if int(counts.min()) < per_class:
        label = int(counts.argmin())
        raise DirePlugError(
            f"real.per_class: class '{job.dataset.classes[label]}' of {job.dataset.name} has {int(counts[label])} real "
            f"images, {per_class} were asked for; lower it to {int(counts.min())}"
        )
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]
    kept = rank < per_class
    return values[kept], labels[kept]


def chunks_as_released(values: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Cut [N, D], in the dataset's own order, into `classes` chunks of ⌊N/C⌋ and label them 0 … C−1; drop the rest.

    The authors' `get_embeddings_cifar100.py` does so with an unsorted training set: its "classes" are mixtures.

    Raises:
        DirePlugError: there are fewer rows than classes.
    """
    import torch

    each = len(values) // classes
    if each == 0:
        raise DirePlugError(f"real.order as_released: {len(values)} images can't be cut into {classes} chunks")
    return values[: each * classes], torch.arange(classes).repeat_interleave(each)


def _write(path: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save

    write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
