"""Coverage (Equation 6 of the paper): the share of real images with a synthetic one nearer than their k-th neighbour.

The radius of a real image is its distance to the k-th nearest other real image; it doesn't depend on the synthetic
images, so it can be kept. Values equal those of the package `prdc`.

Global and per-class coverage differ where classes overlap. Both grow with the number of synthetic images: M images from
the distribution of the N real ones would cover about 1 − (N/(N + M))ᵏ, so a value says little without that reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.metrics.distances import prepare, with_float64
from dire_plug.metrics.prdc import check_pair, match_balls
from dire_plug.metrics.radii import check_block, check_radii, class_radii, nearest_radii
from dire_plug.metrics.similarity import check_labels


def coverage(
    real: Tensor, synthetic: Tensor, *, nearest_k: int = 5, radii: Tensor | None = None, block: int | None = None
) -> float:
    """Return the share of real rows that have a synthetic row within their radius, strictly.

    Args:
        real: [N, D].
        synthetic: [M, D].
        nearest_k: k of the radii.
        radii: [N], where `nearest_radii` of the same rows and k is at hand.
        block: as of `nearest_radii`.

    Raises:
        DirePlugError: shapes don't fit, fewer than k + 1 real rows, or a feature isn't finite.
    """
    check_pair(real, synthetic)
    check_block(block)
    if radii is None:
        radii = nearest_radii(real, nearest_k=nearest_k, block=block)
    check_radii(radii, real)
    return float(_covered(real, synthetic, radii, block).double().mean())


def per_class_coverage(
    real: Tensor,
    real_labels: Tensor,
    synthetic: Tensor,
    synthetic_labels: Tensor,
    *,
    nearest_k: int = 5,
    radii: Tensor | None = None,
) -> float:
    """Return the mean over the real classes of the coverage within the class; 0 for a class without synthetic rows.

    Args:
        real, synthetic: [N, D] and [M, D].
        real_labels, synthetic_labels: [N] and [M], int64.
        nearest_k: k of the radii.
        radii: [N], where `class_radii` of the same rows and k is at hand.

    Raises:
        DirePlugError: shapes don't fit, a class has fewer than k + 1 real rows, a synthetic class has none, or a
            feature isn't finite.
    """
    check_pair(real, synthetic)
    check_labels(real_labels, real, "real features")
    check_labels(synthetic_labels, synthetic, "synthetic features")
    radii = class_radii(real, real_labels, nearest_k=nearest_k) if radii is None else radii
    check_radii(radii, real)
    classes = torch.unique(real_labels).tolist()
    if unknown := sorted(set(torch.unique(synthetic_labels).tolist()) - set(classes)):
        raise DirePlugError(
            f"synthetic features: no real features of class {', '.join(map(str, unknown))}; "
            "label both sets by the same classes"
        )
    real, synthetic = with_float64(real), with_float64(synthetic)
    shares = []
    for label in classes:
        own, made = (labels == label for labels in (real_labels.to(real.device), synthetic_labels.to(synthetic.device)))
        covered = _covered(real[own], synthetic[made], radii[own], None) if bool(made.any()) else radii.new_zeros(1)
        shares.append(covered.double().mean())
    return float(torch.stack(shares).mean())


def expected_coverage(real_count: int, synthetic_count: int, nearest_k: int) -> float:
    """Return about what M more real images would score against N: 1 − (N/(N + M))ᵏ.

    A real image stays uncovered when its k nearest among all N + M images are old ones; k ≪ N is assumed.
    """
    return float(1 - (real_count / (real_count + synthetic_count)) ** nearest_k)


def _covered(real: Tensor, synthetic: Tensor, radii: Tensor, block: int | None) -> Tensor:
    rows, made = prepare(real, synthetic)
    return match_balls(rows, made, radii, block=block)[0] > 0
