"""Coverage (Equation 6 of the paper): the share of real images with a synthetic one nearer than their k-th neighbour.

The radius of a real image is its distance to the k-th nearest other real image; it doesn't depend on the synthetic
images, so it can be kept. Values equal those of the package `prdc`; distances are taken on centred features.

Global and per-class coverage differ where classes overlap. Both grow with the number of synthetic images: M images from
the distribution of the N real ones would cover about 1 − (N/(N + M))ᵏ, so a value says little without that reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dire_plug.errors import DirePlugError
from dire_plug.metrics.similarity import check_features, check_labels, check_widths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_CELLS = 1 << 24
"""Distances held at a time: 64 MiB in float32."""


def nearest_radii(real: Tensor, *, nearest_k: int = 5, block: int | None = None) -> Tensor:
    """Return the distance of each real row to its k-th nearest other real row, [N].

    Memory beyond the features and a centred copy: two blocks of `block` × N distances.

    Args:
        real: [N, D], on any device.
        nearest_k: k ≥ 1.
        block: rows at a time; None takes as many as hold 2²⁴ distances, and at least 16.

    Raises:
        DirePlugError: fewer than k + 1 rows, or a feature isn't finite.
    """
    check_features(real, "real features")
    _check_neighbours(len(real), nearest_k, "real features")
    rows = _centre(real, real)
    radii = rows.new_empty(len(rows))
    for start, squared in _squared_distances(rows, rows, block):
        stop = start + len(squared)
        squared[:, start:stop].fill_diagonal_(torch.inf)
        radii[start:stop] = squared.kthvalue(nearest_k, dim=1).values.sqrt()
    return radii


def coverage(
    real: Tensor, synthetic: Tensor, *, nearest_k: int = 5, radii: Tensor | None = None, block: int | None = None
) -> float:
    """Return the share of real rows that have a synthetic row within their radius, strictly.

    Args:
        real: [N, D].
        synthetic: [M, D].
        nearest_k: k of the radii.
        radii: [N], where `nearest_radii` of the same rows, k and dtype is at hand.
        block: as of `nearest_radii`.

    Raises:
        DirePlugError: shapes don't fit, fewer than k + 1 real rows, or a feature isn't finite.
    """
    check_features(real, "real features")
    check_features(synthetic, "synthetic features")
    check_widths(real, synthetic, ("real features", "synthetic features"))
    if radii is None:
        radii = nearest_radii(real, nearest_k=nearest_k, block=block)
    _check_radii(radii, real)
    return float(_covered(real, synthetic, radii, block).double().mean())


def class_radii(real: Tensor, real_labels: Tensor, *, nearest_k: int = 5) -> Tensor:
    """Return the distance of each real row to its k-th nearest other real row of its own class, [N].

    Raises:
        DirePlugError: a class has fewer than k + 1 rows, or a feature isn't finite.
    """
    check_features(real, "real features")
    check_labels(real_labels, real, "real features")
    radii = real.new_empty(len(real))
    for label in torch.unique(real_labels).tolist():
        own = real_labels == label
        _check_neighbours(int(own.sum()), nearest_k, f"real features of class {label}")
        radii[own] = nearest_radii(real[own], nearest_k=nearest_k)
    return radii


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
        radii: [N], where `class_radii` of the same rows, k and dtype is at hand.

    Raises:
        DirePlugError: shapes don't fit, a class has fewer than k + 1 real rows, a synthetic class has none, or a
            feature isn't finite.
    """
    check_features(real, "real features")
    check_labels(real_labels, real, "real features")
    check_features(synthetic, "synthetic features")
    check_labels(synthetic_labels, synthetic, "synthetic features")
    check_widths(real, synthetic, ("real features", "synthetic features"))
    radii = class_radii(real, real_labels, nearest_k=nearest_k) if radii is None else radii
    _check_radii(radii, real)
    classes = torch.unique(real_labels).tolist()
    if unknown := sorted(set(torch.unique(synthetic_labels).tolist()) - set(classes)):
        raise DirePlugError(
            f"synthetic features: no real features of class {', '.join(map(str, unknown))}; "
            "label both sets by the same classes"
        )
    shares = []
    for label in classes:
        own, made = real_labels == label, synthetic_labels == label
        covered = _covered(real[own], synthetic[made], radii[own], None) if bool(made.any()) else radii.new_zeros(1)
        shares.append(covered.double().mean())
    return float(torch.stack(shares).mean())


def expected_coverage(real_count: int, synthetic_count: int, nearest_k: int) -> float:
    """Return about what M more real images would score against N: 1 − (N/(N + M))ᵏ.

    A real image stays uncovered when its k nearest among all N + M images are old ones; k ≪ N is assumed.
    """
    return float(1 - (real_count / (real_count + synthetic_count)) ** nearest_k)


def _covered(real: Tensor, synthetic: Tensor, radii: Tensor, block: int | None) -> Tensor:
    rows, made = _centre(real, real), _centre(synthetic, real)
    least = rows.new_empty(len(rows))
    for start, squared in _squared_distances(rows, made, block):
        least[start : start + len(squared)] = squared.amin(1).sqrt()
    return least < radii.to(least)


def _squared_distances(rows: Tensor, others: Tensor, block: int | None) -> Iterator[tuple[int, Tensor]]:
    """Yield, block by block of rows, its start and its squared distances to all others, [block, M]."""
    if block is not None and block < 1:
        raise DirePlugError(f"block: {block} rows at a time; at least 1 is needed")
    step = block or max(16, _CELLS // len(others))
    norms = others.square().sum(1)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        squared = torch.addmm(norms.unsqueeze(0), part, others.T, alpha=-2)
        yield start, squared.add_(part.square().sum(1, keepdim=True)).clamp_(min=0)


def _centre(rows: Tensor, real: Tensor) -> Tensor:
    """Return rows less the mean of the real ones, in at least float32: squared distances then keep their digits."""
    dtype = torch.promote_types(real.dtype, torch.float32)
    return rows.detach().to(real.device, dtype) - real.detach().to(dtype).mean(0)


def _check_radii(radii: Tensor, real: Tensor) -> None:
    if radii.shape != real.shape[:1]:
        raise DirePlugError(
            f"radii: {list(radii.shape)} of them for {len(real)} real rows; compute them from these rows"
        )


def _check_neighbours(count: int, nearest_k: int, what: str) -> None:
    if nearest_k < 1:
        raise DirePlugError(f"nearest_k: {nearest_k}; at least 1 is needed")
    if count < nearest_k + 1:
        raise DirePlugError(
            f"{what}: {count} rows are too few for nearest_k {nearest_k}; "
            f"give at least {nearest_k + 1}, or lower nearest_k"
        )
