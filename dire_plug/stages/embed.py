"""Embed: compute the penultimate embeddings of real images, once for all runs.

A term may use a part of them: the first rows of each class, the authors' chunks, or a coreset of k-means centres that
stands for all in EDM's sums of distances.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dire_plug import ui
from dire_plug.data.augmentation.batch import normalise
from dire_plug.data.dataset import Dataset
from dire_plug.errors import DirePlugError
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
from dire_plug.stages.row_file import stream_rows
from dire_plug.stages.squeeze import FILE as NETWORK
from dire_plug.store.runs import Run
from dire_plug.training.transforms import BATCH, raw_batches
from dire_plug.types import CORESET
from dire_plug.types.artefact import Artefact

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
    found, mode = name_term_embeddings(run, networks, inputs), run.recipe.real.mode
    missing = [one for one in found.values() if run.store.find(one) is None]
    wanted: list[Artefact | Pretrained] = [one.inputs.get("embeddings", one).inputs["network"] for one in missing]
    # while images are decoded anyway: the metrics will ask for I's, in eval mode
    if wanted and mode == "eval" and run.store.find(networks.independent) is not None:
        wanted.append(networks.independent)
    make_all_embeddings(run, wanted, mode=mode)
    for one in missing:
        # else the term sees all rows as they are: a further file would only copy them
        if "embeddings" in one.inputs:
            run.store.ensure(one, partial(_make_real, run, one.inputs["embeddings"].inputs["network"]))
    return found


def real_file(run: Run, real: Artefact) -> Path:
    """Return the file with the `values` [M, D] and `labels` [M] that a term reads."""
    return run.store.path(real) / FILE


def _make_real(run: Run, network: Artefact, folder: Path) -> None:
    """Write the rows that the `real` section asks for, and their labels."""
    embedded = ensure_embeddings(run, network, mode=run.recipe.real.mode)
    rows, labels = _choose(run, embedded)
    beside = {"labels": labels}
    if (k := run.recipe.real.coreset) is not None:
        everything = len(rows) == len(embedded.values) and run.recipe.real.order == "by_class"
        centres = choose_centres(embedded.values if everything else embedded.values[rows], labels, k)
        beside |= {f"{CORESET}{name}": tensor for name, tensor in centres.items()}
    with stream_rows(folder / FILE, torch.arange(len(rows)), beside=beside) as add:
        for part in torch.split(rows, BATCH):
            add(embedded.values[part])


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
    make_all_embeddings(run, [network], split=split, mode=mode)
    return run.store.path(embeddings_of(run, network, split=split, mode=mode)) / FILE


def make_all_embeddings(
    run: Run, networks: Iterable[Artefact | Pretrained], *, split: SplitName = "train", mode: Mode = "eval"
) -> None:
    """Make the embeddings of a split in several networks where the store lacks them; each image is decoded once.

    Raises:
        DirePlugError: an image or a network cannot be read.
    """
    named = {(one := embeddings_of(run, network, split=split, mode=mode)).name: (one, network) for network in networks}
    # in the order of the names: two processes that lease several can't wait for each other
    missing = [named[name] for name in sorted(named) if run.store.find(named[name][0]) is None]
    # in train mode a network may draw from the global generator (dropout): one after the other, as it would alone
    for together in [missing] if mode == "eval" else [[one] for one in missing]:
        _make_together(run, together, {}, split=split, mode=mode)


def _make_together(
    run: Run,
    missing: Sequence[tuple[Artefact, Artefact | Pretrained]],
    ready: Mapping[Path, Artefact | Pretrained],
    *,
    split: SplitName,
    mode: Mode,
) -> None:
    """Take the leases of all that is missing, one inside the other; embed in one pass; publish each.

    Args:
        ready: work folder of what is leased → its network.
    """
    if not missing:
        if ready:
            _embed_split(run, ready, split=split, mode=mode)
        return
    (artefact, network), *rest = missing
    begun = False

    def make(folder: Path) -> None:
        nonlocal begun
        begun = True
        _make_together(run, rest, {**ready, folder: network}, split=split, mode=mode)

    run.store.ensure(artefact, make)
    # another process has made this one while we waited
    if not begun:
        _make_together(run, rest, ready, split=split, mode=mode)


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


def _embed_split(run: Run, networks: Mapping[Path, Artefact | Pretrained], *, split: SplitName, mode: Mode) -> None:
    """Write the embeddings of a split in each network to the network's folder."""
    chosen = run.dataset.train if split == "train" else run.dataset.test
    # stable: within a class the dataset's own order, by which `per_class` takes the first
    labels, indices = torch.sort(chosen.labels, stable=True)
    places = torch.empty_like(indices)
    places[indices] = torch.arange(len(indices))
    with contextlib.ExitStack() as files:
        beside = {"labels": labels, "indices": indices}
        sinks = [
            (_embedder(run, network, mode=mode), files.enter_context(stream_rows(folder / FILE, places, beside=beside)))
            for folder, network in networks.items()
        ]
        with ui.progress(f"embed: {split} images", len(chosen)) as advance:
            for number, (images, _) in enumerate(raw_batches(chosen, device=run.device), start=1):
                for function, add in sinks:
                    add(function(images))
                advance(min(number * BATCH, len(chosen)))


def _choose(run: Run, embedded: EmbeddedReal) -> tuple[Tensor, Tensor]:
    """Return which rows the `real` section asks for, and their labels."""
    section, rows, labels = run.recipe.real, torch.arange(len(embedded.labels)), embedded.labels
    if section.order == "as_released":
        # back in the dataset's own order, which the authors' code cuts
        rows, labels = chunks_as_released(torch.argsort(embedded.indices), run.classes)
    return (rows, labels) if section.per_class is None else _first(run, rows, labels, section.per_class)


def _first(run: Run, rows: Tensor, labels: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    """Return the first `per_class` of each class, and their labels."""
    counts = torch.bincount(labels, minlength=run.classes)
    least = int(counts.argmin())
    check_real_embeddings(run.dataset, run.dataset.classes[least], count=int(counts[least]), wanted=per_class)
    # the position of each row within its class, without a loop over classes
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]
    kept = rank < per_class
    return rows[kept], labels[kept]


def check_real_embeddings(dataset: Dataset, name: str, *, count: int, wanted: int) -> None:
    """Raise where the smallest class has fewer real images than `real.per_class`."""
    if count < wanted:
        raise DirePlugError(
            f"real.per_class: class '{name}' of {dataset.name} has {count} real images, {wanted} were asked for; lower "
            f"it to {count}"
        )


def chunks_as_released(values: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Cut [N, …], in the dataset's own order, into `classes` chunks of ⌊N/C⌋ and label them 0 … C−1; drop the rest.

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
        from sklearn.cluster import KMeans

        fitted = KMeans(k, n_init=1, random_state=SEED).fit(rows.numpy())
        # numbered without gaps: k-means may leave a cluster empty
        _, owner = torch.unique(torch.from_numpy(fitted.labels_).long(), return_inverse=True)
        # recomputed in float32 from the rows, so that weights × centres are the sums of the rows
        centres = rows.new_zeros(int(owner.max()) + 1, rows.shape[1]).index_add_(0, owner, rows)
        centres /= torch.bincount(owner).unsqueeze(1)
    weights = torch.bincount(owner).to(rows.dtype)
    squares = (rows - centres[owner]).square().sum(1)
    return centres, weights, torch.zeros_like(weights).index_add_(0, owner, squares) / weights
