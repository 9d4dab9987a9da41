"""Compute all diversity metrics of one set of condensed images, and those of as many real images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from dire_plug.errors import DirePlugError
from dire_plug.metrics.classes import Classes
from dire_plug.metrics.coverage import check_pair, class_coverage_of, made_classes, prdc_of
from dire_plug.metrics.distances import check_radii, class_radii, nearest_radii, with_float64
from dire_plug.metrics.similarity import check_features, check_labels, class_vendi_of, similarity_of, vendi_of


@dataclass(frozen=True)
class Diversity:
    """The metrics of one set of images in the embeddings of one network.

    Attributes:
        coverage: share of all real images covered.
        class_coverage: mean over classes of the coverage within the class.
        vendi: of all images.
        class_vendi: mean over classes of the score within the class.
        similarity: mean over classes of the cosine between different images of the class; NaN at one image per class.
        density: how many real images' neighbourhoods hold a condensed image, in units of k, on average.
        precision: share of condensed images in the neighbourhood of some real one.
        recall: share of real images in the neighbourhood of some condensed one; NaN at k condensed images or fewer.
    """

    coverage: float
    class_coverage: float
    vendi: float
    class_vendi: float
    similarity: float
    density: float
    precision: float
    recall: float

    def to_json(self) -> dict[str, Any]:
        """Return the values by name; a value that isn't defined is None."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class RealReference(Diversity):
    """The metrics of held-out real images: means over draws.

    Attributes:
        draws: the number of draws.
        images: images in one draw.
        images_per_class: the fewest images drawn of a class; below ipc where held-out images ran short.
    """

    draws: int
    images: int
    images_per_class: int


@dataclass(frozen=True)
class Neighbourhoods:
    """Embeddings of the real images that coverage counts, each with its neighbourhoods.

    Attributes:
        values: [N, D].
        labels: [N], int64.
        nearest_k: k of the neighbourhoods.
        radii: [N], `nearest_radii` of the values: among all.
        radii_of_classes: [N], their `class_radii`: within the class.
    """

    values: Tensor
    labels: Tensor
    nearest_k: int
    radii: Tensor
    radii_of_classes: Tensor

    @classmethod
    def of(cls, values: Tensor, labels: Tensor, *, nearest_k: int = 5) -> Neighbourhoods:
        """Compute the radii.

        Raises:
            DirePlugError: shapes don't fit, there are too few real images, or a feature isn't finite.
        """
        near = nearest_radii(values, nearest_k=nearest_k), class_radii(values, labels, nearest_k=nearest_k)
        return cls(values, labels, nearest_k, *near)

    @cached_property
    def classes(self) -> Classes:
        """The rows of each class."""
        return Classes.of(self.labels)


def diversity(real: Neighbourhoods, synthetic: Tensor, synthetic_labels: Tensor) -> Diversity:
    """Return all metrics of the synthetic images.

    Args:
        synthetic: embeddings, [M, D].
        synthetic_labels: [M], int64.

    Raises:
        DirePlugError: shapes don't fit, or a feature isn't finite.
    """
    check_pair(real.values, synthetic)
    check_labels(synthetic_labels, synthetic, "synthetic features")
    check_radii(real.radii, real.values)
    check_radii(real.radii_of_classes, real.values)
    values, made = with_float64(real.values), with_float64(synthetic)
    # each of the real classes, and those alone that have a synthetic row
    classes, own = made_classes(real.classes, synthetic_labels), Classes.of(synthetic_labels)
    found = [
        *prdc_of(values, made, nearest_k=real.nearest_k, radii=real.radii),
        class_coverage_of(values, real.classes, made, classes, radii=real.radii_of_classes).mean(),
        vendi_of(made),
        class_vendi_of(made, own).mean(),
        similarity_of(made, own).nanmean(),  # a class of one image has no pair
    ]
    # at once, so that the host waits once
    precision, recall, density, coverage, class_coverage, vendi, class_vendi, similarity = torch.stack(found).tolist()
    return Diversity(
        coverage=coverage,
        class_coverage=class_coverage,
        vendi=vendi,
        class_vendi=class_vendi,
        similarity=similarity,
        density=density,
        precision=precision,
        recall=recall,
    )


def real_reference(
    real: Neighbourhoods, held_out: Tensor, labels: Tensor, *, ipc: int, seed: int, draws: int = 5
) -> RealReference:
    """Return what `ipc` held-out real images per class score: means over random draws without replacement.

    A class with fewer held-out images gives all that it has; the result says how many that were.

    Args:
        held_out: embeddings of other real images, [H, D].
        labels: theirs, [H], int64.
        ipc: images drawn per class.
        seed: of the draws.
        draws: the number of draws.

    Raises:
        DirePlugError: ipc or draws is below 1, a class has no held-out image, or as in `diversity`.
    """
    if ipc < 1 or draws < 1:
        raise DirePlugError(f"real reference: {draws} draws of {ipc} images per class; both must be at least 1")
    check_features((held_out, "held-out features"))
    check_labels(labels, held_out, "held-out features")
    labels = labels.cpu()
    known = Classes.of(labels).labels
    if missing := real.classes.labels[~torch.isin(real.classes.labels, known)].tolist():
        raise DirePlugError(f"held-out features: none of class {', '.join(map(str, missing))}; hold images of each out")
    # on the CPU, so that every device draws the same images
    generator = torch.Generator().manual_seed(seed)
    drawn = [_draw(labels, ipc, generator) for _ in range(draws)]
    scores = [diversity(real, held_out[rows.to(held_out.device, non_blocking=True)], labels[rows]) for rows in drawn]
    means = {f.name: math.fsum(getattr(score, f.name) for score in scores) / draws for f in fields(Diversity)}
    last = drawn[-1]  # every draw has as many of each class
    fewest = int(Classes.of(labels[last]).counts.min())
    return RealReference(**means, draws=draws, images=len(last), images_per_class=fewest)


def _draw(labels: Tensor, ipc: int, generator: Generator) -> Tensor:
    """Return the rows of at most `ipc` random images of each class, by class; on the CPU."""
    shuffled = torch.randperm(len(labels), generator=generator)
    classes = Classes.of(labels[shuffled])
    chosen = (classes.ranks() < ipc).nonzero().flatten()
    return shuffled[chosen[torch.argsort(classes.owner[chosen], stable=True)]]
