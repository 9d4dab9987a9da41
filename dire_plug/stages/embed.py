"""Embed: compute the penultimate embeddings of real images, once for all runs.

A term may use a part of them: the first rows of each class, the authors' chunks, or a coreset of k-means centres that
stands for all in EDM's sums of distances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from sklearn.cluster import KMeans
from torch import Tensor

from dire_plug import ui
from dire_plug.data.augmentation.batch import normalise
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.models import embed as embed_batch
from dire_plug.models.checkpoint import load
from dire_plug.models.pretrained import Pretrained
from dire_plug.stages.artefacts import (
    Inputs,
    Mode,
    Networks,
    SplitName,
    embeddings_of,
    name_term_embeddings,
)
from dire_plug.stages.squeeze import FILE as NETWORK
from dire_plug.store.artefacts import Artefact
from dire_plug.store.runs import Run
from dire_plug.training.transforms import BATCH, raw_batches
from dire_plug.types import CORESET

FILE = "embeddings.safetensors"
SEED = 0
"""Of k-means, fixed: runs of all seeds and arms see the same centres."""


@dataclass(frozen=True)
class EmbeddedReal:
    """Real images of one split in one network, sorted by class and within a class in the dataset's order.

    Attributes:
        artefact: what holds them.
        values: [M, D], float32.
        labels: [M], int64, ascending.
        indices: [M], int64: where in the split each row stands.
    """

    artefact: Artefact
    values: Tensor
    labels: Tensor
    indices: Tensor


def embed(run: Run, networks: Networks, inputs: Inputs) -> dict[str, Artefact]:
    """Return key of a network → the real rows that the run's terms see in it, made where the store lacks them.

    Raises:
        DirePlugError: an image or a network cannot be read, a class has fewer real images than `real` asks for.
    """
    found = name_term_embeddings(run, networks, inputs)
    for one in found.values():
        _ensure_real(run, one)
    return found


def real_file(run: Run, real: Artefact) -> Path:
    """Return the file with the `values` [M, D] and `labels` [M] that a term reads."""
    return run.store.path(real) / FILE


def _ensure_real(run: Run, real: Artefact) -> None:
    embedded = real.inputs.get("embeddings", real)
    network = embedded.inputs["network"]
    # all rows as they are: a further file would only copy them
    if real is embedded:
        make_embeddings(run, network, mode=run.recipe.real.mode)
        return

    def make(folder: Path) -> None:
        found = ensure_embeddings(run, network, mode=run.recipe.real.mode)
        _write(folder / FILE, _choose(run, found))

    run.store.ensure(real, make)


def ensure_embeddings(
    run: Run, network: Artefact | Pretrained, *, split: SplitName = "train", mode: Mode = "eval"
) -> EmbeddedReal:
    """Return the embeddings of all images of a split, unaugmented, made where the store lacks them.

    Args:
        network: ours, whose weights are taken as they are; or a published one, in eval mode.
        mode: `eval`; or `train`: batch statistics over 500 images at a time in the dataset's order, as in the
            authors' release; the running statistics change in this copy only.

    Raises:
        DirePlugError: an image or the network cannot be read.
    """
    found = load_file(make_embeddings(run, network, split=split, mode=mode))
    artefact = embeddings_of(run, network, split=split, mode=mode)
    return EmbeddedReal(artefact, found["values"], found["labels"], found["indices"])


def make_embeddings(
    run: Run, network: Artefact | Pretrained, *, split: SplitName = "train", mode: Mode = "eval"
) -> Path:
    """Return the file of the embeddings that `ensure_embeddings` loads, made where the store lacks it.

    Raises:
        DirePlugError: an image or the network cannot be read.
    """

    def make(folder: Path) -> None:
        function = _embedder(run, network, mode=mode)
        _write(folder / FILE, _embed_split(run, function, split=split))

    return run.store.ensure(embeddings_of(run, network, split=split, mode=mode), make) / FILE


def embed_images(run: Run, network: Artefact | Pretrained, images: Tensor) -> Tensor:
    """Return the embeddings [n, D] of images as they are stored, unaugmented, in eval mode, on the run's device."""
    function = _embedder(run, network)
    return torch.cat([function(part.to(run.device)) for part in torch.split(images, BATCH)])


def _embedder(run: Run, network: Artefact | Pretrained, *, mode: Mode = "eval") -> Callable[[Tensor], Tensor]:
    if isinstance(network, Pretrained):
        return network.embed
    file = run.store.path(network) / NETWORK
    return embedder(file, run.device, mode=mode)


def embedder(network: Path, device: torch.device, *, mode: Mode = "eval") -> Callable[[Tensor], Tensor]:
    """Return a function from images as they are stored, uint8 or float in [0, 1], [n, 3, h, w], to float32, [n, D].

    Args:
        network: a file of ours.
        device: where the images are, and the network is put.
        mode: as in `ensure_embeddings`.

    Raises:
        DirePlugError: the network cannot be read.
    """
    loaded = load(network, device)
    model = loaded.model.train(mode == "train")
    return lambda images: embed_batch(model, normalise(images, loaded.mean, loaded.std), batch=BATCH).float()


def _embed_split(run: Run, function: Callable[[Tensor], Tensor], *, split: SplitName) -> dict[str, Tensor]:
    chosen = run.dataset.train if split == "train" else run.dataset.test
    parts: list[Tensor] = []
    with ui.progress(f"embed: {split} images", len(chosen)) as advance:
        for number, (images, _) in enumerate(raw_batches(chosen, device=run.device), start=1):
            parts.append(function(images).cpu())
            advance(min(number * BATCH, len(chosen)))
    values = torch.cat(parts)
    # stable: within a class the dataset's own order, by which `per_class` takes the first
    labels, indices = torch.sort(chosen.labels, stable=True)
    return {"values": values[indices], "labels": labels, "indices": indices}


def _choose(run: Run, embedded: EmbeddedReal) -> dict[str, Tensor]:
    """Return the rows that the `real` section asks for, and their labels."""
    section, values, labels = run.recipe.real, embedded.values, embedded.labels
    if section.order == "as_released":
        # back in the dataset's own order, which the authors' code cuts
        values, labels = chunks_as_released(values[torch.argsort(embedded.indices)], run.classes)
    if section.per_class is not None:
        values, labels = _first(run, values, labels, section.per_class)
    if section.coreset is None:
        return {"values": values, "labels": labels}
    found = choose_centres(values, labels, section.coreset)
    return {"values": values, "labels": labels, **{f"{CORESET}{name}": tensor for name, tensor in found.items()}}


def _first(run: Run, values: Tensor, labels: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    """Return the first `per_class` rows of each class, and their labels."""
    counts = torch.bincount(labels, minlength=run.classes)
    if int(counts.min()) < per_class:
        label = int(counts.argmin())
        raise DirePlugError(
            f"real.per_class: class '{run.dataset.classes[label]}' of {run.dataset.name} has {int(counts[label])} real "
            f"images, {per_class} were asked for; lower it to {int(counts.min())}"
        )
    # the position of each row within its class, without a loop over classes
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]
    kept = rank < per_class
    return values[kept], labels[kept]


def chunks_as_released(values: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Cut [N, D], in the dataset's own order, into `classes` chunks of ⌊N/C⌋ and label them 0 … C−1; drop the rest.

    The authors' `get_embeddings_cifar100.py` does so with an unsorted training set: its "classes" are mixtures.

    Raises:
        DirePlugError: there are fewer rows than classes.
    """
    each = len(values) // classes
    if each == 0:
        raise DirePlugError(f"real.order as_released: {len(values)} images can't be cut into {classes} chunks")
    return values[: each * classes], torch.arange(classes).repeat_interleave(each)


def choose_centres(values: Tensor, labels: Tensor, k: int) -> dict[str, Tensor]:
    """Return k-means centres of each class; all rows where a class has no more than `k` different ones.

    Args:
        values: [M, D], sorted by class.
        labels: [M], int64, ascending.
        k: centres of a class.

    Returns:
        {"centres": [K, D], "labels": [K], ascending, "weights": [K], rows of a cluster, "variances": [K], their mean
        squared distance from its centre}, as `types.Coreset` has them.
    """
    classes, counts = torch.unique_consecutive(labels, return_counts=True)
    found = [_cluster(rows, k) for rows in torch.split(values, counts.tolist())]
    kept = torch.tensor([len(centres) for centres, _, _ in found])
    names = ("centres", "weights", "variances")
    parts = {name: torch.cat([one[at] for one in found]) for at, name in enumerate(names)}
    return {**parts, "labels": classes.repeat_interleave(kept)}


def _cluster(rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centres, weights and variances of the rows of one class, [m, D]."""
    different = len(torch.unique(rows, dim=0)) if len(rows) > k else len(rows)
    if min(len(rows), different) <= k:
        centres, owner = torch.unique(rows, dim=0, return_inverse=True)
    else:
        fitted = KMeans(k, n_init=1, random_state=SEED).fit(rows.numpy())
        # numbered without gaps: k-means may leave a cluster empty
        _, owner = torch.unique(torch.from_numpy(fitted.labels_).long(), return_inverse=True)
        # recomputed in float32 from the rows, so that weights × centres are the sums of the rows
        centres = rows.new_zeros(int(owner.max()) + 1, rows.shape[1]).index_add_(0, owner, rows)
        centres /= torch.bincount(owner).unsqueeze(1)
    weights = torch.bincount(owner).to(rows.dtype)
    squares = (rows - centres[owner]).square().sum(1)
    return centres, weights, torch.zeros_like(weights).index_add_(0, owner, squares) / weights


def _write(path: Path, tensors: dict[str, Any]) -> None:
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
