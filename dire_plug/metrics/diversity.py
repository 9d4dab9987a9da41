"""All diversity metrics of one set of condensed images, and what as many real images would score."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from dire_plug.errors import DirePlugError
from dire_plug.metrics.coverage import per_class_coverage
from dire_plug.metrics.prdc import prdc_metrics
from dire_plug.metrics.radii import class_radii, nearest_radii
from dire_plug.metrics.similarity import check_features, check_labels, intra_class_similarity
from dire_plug.metrics.vendi import mean_class_vendi, vendi

if TYPE_CHECKING:
    from torch import Generator, Tensor


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
    """What real images that the metrics don't take as reference score: means over draws.

    Attributes:
        draws: the number of draws.
        images: images in one draw.
        images_per_class: the fewest images drawn of a class; below ipc where held-out images ran short.
    """

    draws: int
    images: int
    images_per_class: int


def diversity(
    real: Tensor,
    real_labels: Tensor,
    synthetic: Tensor,
    synthetic_labels: Tensor,
    *,
    nearest_k: int = 5,
    radii: Tensor | None = None,
    radii_of_classes: Tensor | None = None,
) -> Diversity:
    """Return all metrics of the synthetic images.

    Args:
        real, synthetic: embeddings, [N, D] and [M, D].
        real_labels, synthetic_labels: [N] and [M], int64.
        nearest_k: k of the neighbourhoods.
        radii: [N], `nearest_radii(real)` where it is at hand.
        radii_of_classes: [N], `class_radii(real, real_labels)` likewise.

    Raises:
        DirePlugError: shapes don't fit, there are too few real images, or a feature isn't finite.
    """
    similarity = intra_class_similarity(synthetic, synthetic_labels)
    found = prdc_metrics(real, synthetic, nearest_k=nearest_k, radii=radii)
    return Diversity(
        coverage=found.coverage,
        class_coverage=per_class_coverage(
            real, real_labels, synthetic, synthetic_labels, nearest_k=nearest_k, radii=radii_of_classes
        ),
        vendi=vendi(synthetic),
        class_vendi=mean_class_vendi(synthetic, synthetic_labels),
        similarity=float(similarity.nanmean()),
        density=found.density,
        precision=found.precision,
        recall=found.recall,
    )


def real_reference(
    real: Tensor,
    real_labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    *,
    ipc: int,
    nearest_k: int = 5,
    draws: int = 5,
    seed: int,
    radii: Tensor | None = None,
) -> RealReference:
    """Return what `ipc` held-out real images per class score: means over random draws without replacement.

    A class with fewer held-out images gives all that it has; the result says how many that were.

    Args:
        real, held_out: embeddings of the images that coverage counts, and of others: [N, D] and [H, D].
        real_labels, held_out_labels: [N] and [H], int64.
        ipc: images drawn per class.
        nearest_k: k of the neighbourhoods.
        draws: the number of draws.
        seed: of the draws.
        radii: [N], `nearest_radii(real)` where it is at hand.

    Raises:
        DirePlugError: ipc or draws is below 1, a class has no held-out image, or as in `diversity`.
    """
    if ipc < 1 or draws < 1:
        raise DirePlugError(f"real reference: {draws} draws of {ipc} images per class; both must be at least 1")
    check_features(held_out, "held-out features")
    check_labels(held_out_labels, held_out, "held-out features")
    if missing := sorted(set(real_labels.tolist()) - set(held_out_labels.tolist())):
        raise DirePlugError(f"held-out features: none of class {', '.join(map(str, missing))}; hold images of each out")
    radii = nearest_radii(real, nearest_k=nearest_k) if radii is None else radii
    own_radii = class_radii(real, real_labels, nearest_k=nearest_k)
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(draws):
        rows = _draw(held_out_labels, ipc, generator)
        labels = held_out_labels[rows]
        scores.append(
            diversity(
                real,
                real_labels,
                held_out[rows],
                labels,
                nearest_k=nearest_k,
                radii=radii,
                radii_of_classes=own_radii,
            )
        )
    means = {f.name: math.fsum(getattr(score, f.name) for score in scores) / draws for f in fields(Diversity)}
    fewest = int(torch.unique(labels, return_counts=True)[1].min())
    return RealReference(**means, draws=draws, images=len(rows), images_per_class=fewest)


def _draw(labels: Tensor, ipc: int, generator: Generator) -> Tensor:
    """Return the rows of at most `ipc` random images of each class."""
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    return torch.cat([shuffled[labels[shuffled] == label][:ipc] for label in torch.unique(labels).tolist()])
