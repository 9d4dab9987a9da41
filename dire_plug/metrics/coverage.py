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
from dire_plug.metrics.classes import Classes
from dire_plug.metrics.distances import (
    Rows,
    cells,
    check_block,
    check_neighbours,
    check_radii,
    exact_distances,
    lower_bounds,
    nearest_radii,
    prepare,
    prepare_groups,
    radii_of,
    radii_of_classes,
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
    if radii is None:
        check_neighbours(len(real), nearest_k, "real features")
    else:
        check_radii(radii, real)
    return Prdc(*prdc_of(real, synthetic, nearest_k=nearest_k, radii=radii, block=block).tolist())


def prdc_of(
    real: Tensor, synthetic: Tensor, *, nearest_k: int, radii: Tensor | None = None, block: int | None = None
) -> Tensor:
    """Return precision, recall, density and coverage of checked rows, [4] in float64; arguments as `prdc_metrics`."""
    rows, made = prepare(real, synthetic)
    radii = radii_of(rows, nearest_k=nearest_k, block=block)[0] if radii is None else radii
    # with k or fewer synthetic rows there is no k-th neighbour, and recall isn't defined
    own = radii_of(made, nearest_k=nearest_k, block=block) if len(synthetic) > nearest_k else None
    held, precise, recalled = match_balls(rows, made, radii.unsqueeze(0), made_radii=own, block=block)
    shares = [
        precise.double().mean(),
        held.new_full((), math.nan, dtype=torch.float64) if recalled is None else recalled.double().mean(),
        held.sum().double() / (nearest_k * len(synthetic)),
        (held > 0).double().mean(),
    ]
    return torch.stack(shares)


def match_balls(
    rows: Rows, made: Rows, radii: Tensor, *, made_radii: Tensor | None = None, block: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Find which synthetic rows lie in which real balls of their group, and if `made_radii` are given, the reverse.

    Args:
        rows, made: n real and m synthetic rows of each of G groups, prepared together.
        radii, made_radii: [G, n] and [G, m].
        block: real rows of each group at a time.

    Returns:
        [G, n], int64: how many synthetic rows each real ball holds; [G, m], bool: whether a synthetic row lies in some
        real ball; [G, n], bool: whether a real row lies in some synthetic ball, None without `made_radii`.
    """
    radii = radii.to(made.features.device, torch.float64)  # as the exact distances that they are compared with
    held = torch.zeros(rows.at.shape, dtype=torch.int64, device=radii.device)
    precise = torch.zeros(made.at.shape, dtype=torch.int64, device=radii.device)
    recalled = torch.zeros(rows.at.shape, dtype=torch.bool, device=radii.device)
    step = block or max(16, cells(radii.device) // (made.groups * made.places))
    for start in range(0, rows.places, step):
        part = slice(start, min(start + step, rows.places))
        low = lower_bounds(rows, part, made)
        one, other, inside = _in_real_balls(rows, made, radii, part, low)
        held.view(-1).index_add_(0, one, inside)
        precise.view(-1).index_add_(0, other, inside)
        if made_radii is not None:
            recalled[:, part] = _in_made_balls(rows, made, made_radii, part, low)
    return held, precise > 0, None if made_radii is None else recalled


def check_pair(real: Tensor, synthetic: Tensor) -> None:
    """Raise for features that can't be compared."""
    check_features((real, "real features"), (synthetic, "synthetic features"))
    check_widths(real, synthetic, ("real features", "synthetic features"))


def _in_real_balls(rows: Rows, made: Rows, radii: Tensor, part: slice, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return pairs of a real place of `part` and a synthetic one, and 1 where it lies in the ball, else 0.

    Pairs that the bounds rule out are left out.
    """
    own, column = _pairs_within(low.flatten(0, 1), _limits(rows, radii)[:, part].flatten())
    count = low.shape[1]
    group = own // count
    one, other = group * rows.places + part.start + own % count, group * made.places + column
    high = low.flatten(0, 1)[own, column] + rows.width.flatten()[one] + made.width.flatten()[other]
    inside = high < _limits(rows, radii).flatten()[one]  # surely, by the upper bound; exact distances decide the others
    open_ = (~inside).nonzero().flatten()
    inside[open_] = exact_distances(rows, one[open_], made, other[open_]) < radii.flatten()[one[open_]]
    return one, other, inside.long()


def _in_made_balls(rows: Rows, made: Rows, made_radii: Tensor, part: slice, low: Tensor) -> Tensor:
    """Return whether each real row of `part` lies in some synthetic ball, [G, n]; `low` is used up."""
    beyond = low.sub_(_limits(made, made_radii).unsqueeze(1))
    count = low.shape[1]
    # from cheap to dear: one bound a row, one a pair, exact distances where both leave it open
    least, width = beyond.amin(2), rows.width[:, part].flatten()
    inside = (least.flatten() + width + made.width.amax(1).repeat_interleave(count, output_size=len(width))) < 0
    some = ((least.flatten() <= 0) & ~inside).nonzero().flatten()
    near = beyond.flatten(0, 1)[some]
    inside[some] = (near + made.width[some // count]).amin(1) + width[some] < 0
    one, column = ((near <= 0) & ~inside[some].unsqueeze(1)).nonzero(as_tuple=True)
    own = some[one]
    group = own // count
    other = group * made.places + column
    within = exact_distances(rows, group * rows.places + part.start + own % count, made, other)
    found = torch.zeros_like(inside, dtype=torch.int64).index_add_(
        0, own, (within < made_radii.flatten()[other]).long()
    )
    return (inside | (found > 0)).view(low.shape[:2])


def _pairs_within(low: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places in `low` [n, M] within the limit of their row; mostly few, so groups are looked at first."""
    if low.shape[1] <= _GROUP:
        one, column = (low <= limits.unsqueeze(1)).nonzero(as_tuple=True)
        return one, column
    whole = low.shape[1] // _GROUP * _GROUP
    least = [low[:, :whole].reshape(len(low), -1, _GROUP).amin(2)]
    if whole < low.shape[1]:
        least.append(low[:, whole:].amin(1, keepdim=True))
    one, group = (torch.cat(least, 1) <= limits.unsqueeze(1)).nonzero(as_tuple=True)
    columns = group.unsqueeze(1) * _GROUP + torch.arange(_GROUP, device=low.device)
    near = low[one.unsqueeze(1), columns.clamp(max=low.shape[1] - 1)] <= limits[one].unsqueeze(1)
    own, place = (near & (columns < low.shape[1])).nonzero(as_tuple=True)
    return one[own], columns[own, place]


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
    rows, made = prepare(real, synthetic)
    held, _, _ = match_balls(rows, made, radii.unsqueeze(0), block=block)
    return float((held > 0).double().mean())


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
    real, synthetic = with_float64(real), with_float64(synthetic)
    classes = Classes.of(real_labels)
    radii = radii_of_classes(real, classes, nearest_k=nearest_k) if radii is None else radii
    check_radii(radii, real)
    made = made_classes(classes, synthetic_labels)
    return float(class_coverage_of(real, classes, synthetic, made, radii=radii).mean())


def made_classes(classes: Classes, labels: Tensor) -> Classes:
    """Return the synthetic rows of each real class.

    Raises:
        DirePlugError: a synthetic class has no real rows.
    """
    made = Classes.of(labels)
    if unknown := made.labels[~torch.isin(made.labels, classes.labels)].tolist():
        raise DirePlugError(
            f"synthetic features: no real features of class {', '.join(map(str, unknown))}; "
            "label both sets by the same classes"
        )
    return made.among(classes.labels)


def class_coverage_of(real: Tensor, classes: Classes, synthetic: Tensor, made: Classes, *, radii: Tensor) -> Tensor:
    """Return the coverage within each class of checked rows, [C] in float64, on a device that has float64.

    Args:
        classes, made: of the real and of the synthetic rows, with the same labels.
        radii: [N], of the real rows.
    """
    width, columns = real.shape[1], max(1, int(made.counts.max()))
    shares = torch.empty(len(classes.labels), dtype=torch.float64, device=real.device)
    # the numbers of a block: the bounds, or the rows of both sets
    for some in classes.blocks(lambda count: max(count * columns, (count + columns) * width), cells(real.device)):
        members = classes.members(some, real.device)
        rows, others = prepare_groups(real, members, (synthetic, made.members(some, synthetic.device)))
        held, _, _ = match_balls(rows, others, radii[rows.at])
        counts = classes.counts[some].to(real.device, non_blocking=True)
        shares[some.to(real.device, non_blocking=True)] = (held > 0).double().sum(1) / counts
    return shares


def expected_coverage(real_count: int, synthetic_count: int, nearest_k: int) -> float:
    """Return about what M more real images would score against N: 1 − (N/(N + M))ᵏ.

    A real image stays uncovered when its k nearest among all N + M images are old ones; k ≪ N is assumed.
    """
    return float(1 - (real_count / (real_count + synthetic_count)) ** nearest_k)
