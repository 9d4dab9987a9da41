"""Measure: compute the diversity of the condensed images in T, where the term worked, and in I, beside real images."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from dire_plug import ui
from dire_plug.files import read_json, write_atomically, write_json
from dire_plug.metrics import (
    Neighbourhoods,
    diversity,
    intra_class_similarity,
    mean_class_vendi,
    real_reference,
    vendi,
)
from dire_plug.models.pretrained import Pretrained
from dire_plug.recipe.check import FULL
from dire_plug.seeding import derive
from dire_plug.stages.artefacts import DRAWS, Networks, embeddings_of, name_measured, name_radii, name_reference
from dire_plug.stages.embed import EmbeddedReal, embed_images, ensure_embeddings, make_all_embeddings
from dire_plug.stages.images import ImageSet
from dire_plug.store.runs import Run
from dire_plug.types.artefact import Artefact

DIVERSITY = "diversity.json"


def measure(run: Run, networks: Networks, images: ImageSet) -> dict[str, Any]:
    """Return the diversity of a run's images in both networks, each measured where the store lacks it.

    Returns:
        {"T": {"coverage", "class_coverage", "vendi", "class_vendi", "similarity", "density", "precision", "recall",
        "real": {the same of as many real test images per class}}, "I": {…}}. Of the arm `full` both coverages, density,
        precision and recall are None: each image would cover itself.

    Raises:
        DirePlugError: there are too few real images for the recipe's `nearest_k`.
    """
    spaces = {"T": networks.teacher, "I": networks.independent}
    unmeasured = [one for one in spaces.values() if run.store.find(name_measured(run, one, images.source)) is None]
    # what both need is made in one pass; a report draws the images among the real ones, whatever was measured before
    absent = [one for one in spaces.values() if not run.store.has(embeddings_of(run, one))]
    make_all_embeddings(run, [*unmeasured, *absent])
    make_all_embeddings(run, unmeasured, split="test")
    result = {}
    for name, network in spaces.items():
        ui.detail(f"measure: diversity in {name}")
        result[name] = measure_in(run, network, images)
    return result


def measure_in(run: Run, network: Artefact | Pretrained, images: ImageSet) -> dict[str, Any]:
    """Return the diversity of a set in one network, as `measure` does in T.

    Where classes hold different numbers of images, the real reference has their mean, rounded down, of each.
    """

    def make(folder: Path) -> None:
        real = ensure_embeddings(run, network)
        near = _neighbourhoods(run, real)
        # the condensed set is the real one, so coverage and its like would be trivial
        if images.source.digest == FULL:
            found, per_class = _diversity_of_all(near), run.recipe.ipc
        else:
            embedded = embed_images(run, network, images.images)
            found = diversity(near, embedded, images.labels).to_json()
            per_class = len(images.labels) // run.classes
        reference = _reference(run, network, real, near, per_class=per_class)
        write_json(folder / DIVERSITY, {**found, "real": reference})

    artefact = name_measured(run, network, images.source)
    result: dict[str, Any] = read_json(run.store.ensure(artefact, make) / DIVERSITY)
    return result


def measure_real(run: Run, network: Artefact, *, per_class: int) -> None:
    """Make what the sets of a dataset share in one network: the radii of the real images, and the real reference.

    Args:
        per_class: images of a class in the sets.

    Raises:
        DirePlugError: there are too few real images for the recipe's `nearest_k`.
    """
    real = ensure_embeddings(run, network)
    _reference(run, network, real, _neighbourhoods(run, real), per_class=per_class)


def _diversity_of_all(near: Neighbourhoods) -> dict[str, Any]:
    """Return the diversity of all training images; None for what means nothing there."""
    return {
        "coverage": None,
        "class_coverage": None,
        "vendi": vendi(near.values),
        "class_vendi": mean_class_vendi(near.values, near.labels),
        "similarity": float(intra_class_similarity(near.values, near.labels).nanmean()),
        **dict.fromkeys(("density", "precision", "recall")),
    }


def _reference(
    run: Run, network: Artefact | Pretrained, real: EmbeddedReal, near: Neighbourhoods, *, per_class: int
) -> dict[str, Any]:
    """Return what `per_class` real test images score; it doesn't depend on the condensed ones."""
    held_out = ensure_embeddings(run, network, split="test")

    def make(folder: Path) -> None:
        values = held_out.values.to(run.device)
        settings = {"ipc": per_class, "draws": DRAWS, "seed": derive(0, "real reference")}
        write_json(folder / "reference.json", real_reference(near, values, held_out.labels, **settings).to_json())

    artefact = name_reference(run, real.artefact, held_out.artefact, per_class=per_class)
    result: dict[str, Any] = read_json(run.store.ensure(artefact, make) / "reference.json")
    return result


def _neighbourhoods(run: Run, real: EmbeddedReal) -> Neighbourhoods:
    """Return the real embeddings, on the run's device, with their radii, which are kept in the store; labels stay."""
    nearest_k = run.recipe.measure.nearest_k
    values, labels = real.values.to(run.device), real.labels

    def make(folder: Path) -> None:
        found = Neighbourhoods.of(values, labels, nearest_k=nearest_k)
        radii: dict[str, Tensor] = {"all": found.radii, "class": found.radii_of_classes}
        content = save({name: tensor.cpu().contiguous() for name, tensor in radii.items()})
        write_atomically(folder / "radii.safetensors", content)

    entry = run.store.ensure(name_radii(run, real.artefact), make)
    kept = {name: tensor.to(run.device) for name, tensor in load_file(entry / "radii.safetensors").items()}
    return Neighbourhoods(values, labels, nearest_k, kept["all"], kept["class"])
