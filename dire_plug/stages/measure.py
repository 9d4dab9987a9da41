"""Measure: the diversity of the condensed images in T, where the term worked, and in I, with real images beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.files import read_json, write_atomically, write_json
from dire_plug.runs.cache import cached
from dire_plug.seeding import derive
from dire_plug.stages.embed import EmbeddedReal, embed, embed_images
from dire_plug.stages.job import Job
from dire_plug.stages.squeeze import Teachers

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.metrics import Neighbourhoods
    from dire_plug.models.pretrained import Pretrained

FORMAT = 2
"""Raised when the same embeddings give other radii or another reference."""
DRAWS = 5
"""Sets of real test images whose mean is the reference."""


def measure(job: Job, networks: Teachers, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the diversity of `images` in both networks.

    Args:
        images: [n, 3, h, w], uint8, or float in [0, 1].
        labels: [n].

    Returns:
        {"T": {"coverage", "class_coverage", "vendi", "class_vendi", "similarity", "density", "precision", "recall",
        "real": {the same of as many real test images per class}}, "I": {…}}. Older runs lack the last three.

    Raises:
        DirePlugError: there are too few real images for the recipe's `nearest_k`.
    """
    result = {}
    for name, network in (("T", networks.teacher), ("I", networks.independent)):
        ui.detail(f"measure: diversity in {name}")
        result[name] = measure_in(job, network, images, labels)
    return result


def measure_training_set(job: Job, networks: Teachers) -> dict[str, Any]:
    """Return the diversity of all training images, as `measure` does of condensed ones.

    Both coverages are None: they would be 1, since each image that is to be covered is there to cover itself. So are
    density, precision and recall, for the same reason.
    """
    from dire_plug.metrics import intra_class_similarity, mean_class_vendi, vendi

    result = {}
    for name, network in (("T", networks.teacher), ("I", networks.independent)):
        real = embed(job, network)
        near = _neighbourhoods(job, real)
        result[name] = {
            "coverage": None,
            "class_coverage": None,
            "vendi": vendi(near.values),
            "class_vendi": mean_class_vendi(near.values, near.labels),
            "similarity": float(intra_class_similarity(near.values, near.labels).nanmean()),
            **dict.fromkeys(("density", "precision", "recall")),
            "real": _reference(job, network, real, near, per_class=job.recipe.ipc),
        }
    return result


def measure_in(job: Job, network: Path | Pretrained, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the diversity of `images` in one network, as `measure` does in T; reads job's data, device, cache and k.

    Where classes hold different numbers of images, the real reference has their mean, rounded down, of each.
    """
    from dire_plug.metrics import diversity

    real = embed(job, network)
    near = _neighbourhoods(job, real)
    found = diversity(near, embed_images(network, images, device=job.device), labels.to(job.device))
    reference = _reference(job, network, real, near, per_class=len(labels) // job.classes)
    return {**found.to_json(), "real": reference}


def _reference(
    job: Job, network: Path | Pretrained, real: EmbeddedReal, near: Neighbourhoods, *, per_class: int
) -> dict[str, Any]:
    """Return what `per_class` real test images score; cached, since it doesn't depend on the condensed ones."""
    from dire_plug.metrics import real_reference

    held_out = embed(job, network, split="test")
    settings = {"ipc": per_class, "draws": DRAWS, "seed": derive(0, "real reference")}

    def make(folder: Path) -> None:
        values, labels = held_out.values.to(job.device), held_out.labels.to(job.device)
        write_json(folder / "reference.json", real_reference(near, values, labels, **settings).to_json())

    embedded = {"real": real.path.parent.name, "held_out": held_out.path.parent.name}
    key = {"format": FORMAT, **embedded, **settings, "nearest_k": near.nearest_k}
    result: dict[str, Any] = read_json(cached(job.cache, kind="reference", key=key, make=make) / "reference.json")
    return result


def _neighbourhoods(job: Job, real: EmbeddedReal) -> Neighbourhoods:
    """Return the real embeddings, on the job's device, with their radii, which are cached."""
    from safetensors.torch import load_file, save

    from dire_plug.metrics import Neighbourhoods

    nearest_k = job.recipe.measure.nearest_k
    values, labels = real.values.to(job.device), real.labels.to(job.device)

    def make(folder: Path) -> None:
        found = Neighbourhoods.of(values, labels, nearest_k=nearest_k)
        radii = {"all": found.radii, "class": found.radii_of_classes}
        content = save({name: tensor.cpu().contiguous() for name, tensor in radii.items()})
        write_atomically(folder / "radii.safetensors", content)

    key = {"format": FORMAT, "embedded": real.path.parent.name, "nearest_k": nearest_k}
    entry = cached(job.cache, kind="radii", key=key, make=make)
    radii = {name: tensor.to(job.device) for name, tensor in load_file(entry / "radii.safetensors").items()}
    return Neighbourhoods(values, labels, nearest_k, radii["all"], radii["class"])
