"""Compute coverage (Equation 6 of the paper), and with it density, precision and recall.

Coverage is the share of real images with a synthetic one nearer than their k-th neighbour. The radius of a real image
is its distance to the k-th nearest other real image; it doesn't depend on the synthetic images, so it can be kept.
Values equal those of the package `prdc`.

Global and per-class coverage differ where classes overlap. Both grow with the number of synthetic images: M images from
the distribution of the N real ones would cover about 1 − (N/(N + M))ᵏ, so a value says little without that reference.

Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) come from one pass over all
pairs. Each real row has a ball, and so has each synthetic one: its radius is the distance to the k-th nearest other row
of its own set. Inside is strictly inside, as in the package `prdc`, whose float64 values these equal; where real and
synthetic rows are the same, so that distances and radii are equal, its rounding decides and ours says: not inside.

| | share of | that |
|---|---|---|
| precision | synthetic rows | lie in some real ball |
| recall | real rows | lie in some synthetic ball |
| coverage | real rows | have a synthetic row in their ball |

Density is the mean number of real balls that hold a synthetic row, in units of k; it can exceed 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.metrics.distances import (
    Rows,
    cells,
    check_block,
    check_neighbours,
    check_radii,
    class_radii,
    exact_distances,
    lower_bounds,
    nearest_radii,
    prepare,
    radii_of,
    with_float64,
)
from dire_plug.metrics.similarity import check_features, check_labels, check_widths

_GROUP = 64
"""Bounds of which the least is compared first."""


@dataclass(frozen=True)
class Prdc:
    """The four metrics of one set of synthetic rows; recall is NaN where they are k or fewer and so have no radius."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc_metrics(
    real: Tensor, synthetic: Tensor, *, nearest_k: int = 5, radii: Tensor | None = None, block: int | None = None
) -> Prdc:
    """Return precision, recall, density and coverage.

    Memory beyond the features and a centred copy in float32: a few times 8 MiB of bounds on the CPU, 256 MiB elsewhere.

    Args:
        real: [N, D].
        synthetic: [M, D].
        nearest_k: k of the radii.
        radii: [N], where `nearest_radii` of the same rows and k is at hand.
        block: real rows at a time; None takes what the device's memory is quickest with.

    Raises:
        DirePlugError: shapes don't fit, fewer than k + 1 real rows, or a feature isn't finite.
    """
    check_pair(real, synthetic)
    check_block(block)
    rows, made = prepare(real, synthetic)
    if radii is None:
        check_neighbours(len(real), nearest_k, "real features")
        radii = radii_of(rows, nearest_k=nearest_k, block=block)
    check_radii(radii, real)
    # with k or fewer synthetic rows there is no k-th neighbour, and recall isn't defined
    own = radii_of(made, nearest_k=nearest_k, block=block) if len(made) > nearest_k else None
    held, precise, recalled = match_balls(rows, made, radii, made_radii=own, block=block)
    return Prdc(
        precision=float(precise.double().mean()),
        recall=math.nan if recalled is None else float(recalled.double().mean()),
        density=float(held.sum()) / (nearest_k * len(made)),
        coverage=float((held > 0).double().mean()),
    )


def match_balls(
    rows: Rows, made: Rows, radii: Tensor, *, made_radii: Tensor | None = None, block: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Find which synthetic rows lie in which real balls, and if `made_radii` are given, the reverse.

    Args:
        rows, made: real and synthetic rows, prepared together.
        radii, made_radii: [N] and [M].
        block: real rows at a time.

    Returns:
        [N], int64: how many synthetic rows each real ball holds; [M], bool: whether a synthetic row lies in some real
        ball; [N], bool: whether a real row lies in some synthetic ball, None without `made_radii`.
    """
    radii = radii.to(made.features.device, torch.float64)  # as the exact distances that they are compared with
    held = torch.zeros(len(rows), dtype=torch.int64, device=radii.device)
    precise = torch.zeros(len(made), dtype=torch.bool, device=radii.device)
    recalled = torch.zeros(len(rows), dtype=torch.bool, device=radii.device)
    step = block or max(16, cells(radii.device) // len(made))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        low = lower_bounds(rows, part, made)
        one, other = _in_real_balls(rows, made, radii, part, low)
        held[part] = torch.bincount(one - start, minlength=len(low))
        precise[other] = True
        if made_radii is not None:
            recalled[part] = _in_made_balls(rows, made, made_radii, part, low)
    return held, precise, None if made_radii is None else recalled


def check_pair(real: Tensor, synthetic: Tensor) -> None:
    """Raise for features that can't be compared."""
    check_features(real, "real features")
    check_features(synthetic, "synthetic features")
    check_widths(real, synthetic, ("real features", "synthetic features"))


def _in_real_balls(rows: Rows, made: Rows, radii: Tensor, part: slice, low: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of a real row of `part` and a synthetic row in its ball."""
    limits = _limits(rows, radii[part])
    one, other = _pairs_within(low, limits)
    high = low[one, other] + rows.width[part][one] + made.width[other]
    inside = high < limits[one]  # surely, by the upper bound; exact distances decide the others
    one = one + part.start
    open_ = (~inside).nonzero().flatten()
    inside[open_] = exact_distances(rows, one[open_], made, other[open_]) < radii[one[open_]]
    return one[inside], other[inside]


def _in_made_balls(rows: Rows, made: Rows, made_radii: Tensor, part: slice, low: Tensor) -> Tensor:
    """Return whether each real row of `part` lies in some synthetic ball, [n]; `low` is used up."""
    beyond = low.sub_(_limits(made, made_radii))
    # from cheap to dear: one bound a row, one a pair, exact distances where both leave it open
    least, width = beyond.amin(1), rows.width[part]
    inside = least + made.width.amax() + width < 0
    some = ((least <= 0) & ~inside).nonzero().flatten()
    near = beyond[some]
    inside[some] = (near + made.width).amin(1) + width[some] < 0
    one, other = ((near <= 0) & ~inside[some].unsqueeze(1)).nonzero(as_tuple=True)
    own = some[one]
    within = exact_distances(rows, own + part.start, made, other) < made_radii[other]
    inside[own[within]] = True
    return inside


def _pairs_within(low: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places in `low` [n, M] within the limit of their row; mostly few, so groups are looked at first."""
    whole = low.shape[1] // _GROUP * _GROUP
    groups = low[:, :whole].reshape(len(low), whole // _GROUP, _GROUP)
    one, group = (groups.amin(2) <= limits.unsqueeze(1)).nonzero(as_tuple=True)
    own, place = (groups[one, group] <= limits[one].unsqueeze(1)).nonzero(as_tuple=True)
    last, column = (low[:, whole:] <= limits.unsqueeze(1)).nonzero(as_tuple=True)
    return torch.cat([one[own], last]), torch.cat([group[own] * _GROUP + place, column + whole])


def _limits(rows: Rows, radii: Tensor) -> Tensor:
    """Return radii as bounds are: squared, in scaled units, float32."""
    return (radii * rows.scale).square().float()


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
    return float(torch.stack(shares).mean())  # one wait for the device, not one a class


def expected_coverage(real_count: int, synthetic_count: int, nearest_k: int) -> float:
    """Return about what M more real images would score against N: 1 − (N/(N + M))ᵏ.

    A real image stays uncovered when its k nearest among all N + M images are old ones; k ≪ N is assumed.
    """
    return float(1 - (real_count / (real_count + synthetic_count)) ** nearest_k)


def _covered(real: Tensor, synthetic: Tensor, radii: Tensor, block: int | None) -> Tensor:
    rows, made = prepare(real, synthetic)
    return match_balls(rows, made, radii, block=block)[0] > 0
