"""Compute distances between rows of features, and radii: the distance of each row to its k-th nearest other row.

All pairs get bounds in float32, the few that matter exact distances in float64. For rows x and y, centred and scaled,
‖x‖² + ‖y‖² − 2x·y in float32 is off by less than s(‖x‖² + ‖y‖²). That amount is folded into the norms, so that one
product of matrices gives a lower bound of every squared distance at no cost. A comparison that the bound leaves open is
decided by √Σ(xᵢ − yᵢ)² of the features as they came, in float64. So results are those of float64, and where distances
are equal they compare as equal: the same two rows give the same bits.

Radii are those of the package `prdc`, in float64. Distances are symmetric, so each pair is looked at once: square by
square of the upper triangle, for its rows and for its columns. A few nearest candidates of each row are kept with their
bounds; their exact distances decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.metrics.similarity import check_features, check_labels

_UNIT = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
"""Precision setting of torch → the relative rounding of a factor of a product."""
_CENTRED_ROWS = 1 << 12
"""Rows that are centred at a time."""
_CELLS = {"cpu": 1 << 21}
_OTHER_CELLS = 1 << 26


@dataclass(frozen=True)
class Rows:
    """Features and what bounds of their distances need.

    Attributes:
        features: [N, D], as they came, on a device that has float64.
        unit: [N, D], centred and scaled, in float32.
        low, width: [N]: (1 − s)‖x‖² and 2s‖x‖², in float32.
        scale: `unit` is the centred features times this power of two.
    """

    features: Tensor
    unit: Tensor
    low: Tensor
    width: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.features)


def prepare(features: Tensor, *others: Tensor) -> tuple[Rows, ...]:
    """Return rows of one or several sets, with the mean and the scale of the first.

    Args:
        features: [N, D], of any floating type.
        others: [M, D] each; they come to the device of the first.
    """
    first = with_float64(features)
    sets = [first, *(one.detach().to(first.device) for one in others)]
    dtype = torch.float64 if any(one.dtype == torch.float64 for one in sets) else torch.float32
    centre = first.mean(0, dtype=dtype)
    scale = _scale(max(abs(float(end)) for one in sets for end in one.aminmax()))
    return tuple(_bound(one, centre, scale) for one in sets)


def with_float64(features: Tensor) -> Tensor:
    """Return the features without a graph, on the CPU where their device has no float64 (mps)."""
    features = features.detach()
    return features.cpu() if features.device.type == "mps" else features


def lower_bounds(rows: Rows, part: slice | Tensor, others: Rows, other_part: slice = slice(None)) -> Tensor:
    """Return lower bounds of the squared distances of some rows to some others, [n, m], in scaled units."""
    product = torch.addmm(others.low[other_part], rows.unit[part], others.unit[other_part].T, alpha=-2)
    return product.add_(rows.low[part].unsqueeze(1))


def exact_distances(rows: Rows, at: Tensor, others: Rows, other_at: Tensor) -> Tensor:
    """Return the distances of pairs of rows, [P] in float64, of the features as they came.

    Args:
        rows, others: two sets.
        at, other_at: [P] each: the rows of each pair.
    """
    found = torch.empty(len(at), dtype=torch.float64, device=rows.features.device)
    step = max(1, cells(found.device) // 8 // rows.features.shape[1])
    for start in range(0, len(at), step):
        chunk = slice(start, start + step)
        apart = rows.features[at[chunk]].double().sub_(others.features[other_at[chunk]])
        found[chunk] = apart.square_().sum(1).sqrt_()
    return found


def cells(device: torch.device) -> int:
    """Return how many bounds to hold at a time: 8 MiB on the CPU, which its cache can hold, 256 MiB elsewhere."""
    return _CELLS.get(device.type, _OTHER_CELLS)


def _scale(largest: float) -> float:
    """Return the power of two that brings the largest feature to about 1, so that no square overflows.

    It is one of float32's, so features below 1e-38 stay small: their bounds say nothing, and exact distances decide.
    """
    return math.ldexp(1.0, min(-math.frexp(largest)[1], 126)) if largest else 1.0


def _bound(features: Tensor, centre: Tensor, scale: float) -> Rows:
    unit = torch.empty(features.shape, dtype=torch.float32, device=features.device)
    for rows, part in zip(torch.split(unit, _CENTRED_ROWS), torch.split(features, _CENTRED_ROWS), strict=True):
        rows.copy_((part - centre).mul_(scale))
    # rounding of the factors, of a sum of D products and of one of D squares, and of the few terms beside them
    share = 2 * _rounding() + (2 * unit.shape[1] + 64) * 2.0**-24
    norms = torch.linalg.vecdot(unit, unit)
    return Rows(features, unit, norms * (1 - share), norms * (2 * share), scale)


def _rounding() -> float:
    """Return what torch may round a factor by, as it is set now."""
    try:
        return _UNIT[torch.get_float32_matmul_precision()]
    except RuntimeError:  # somebody set it device by device, which torch doesn't tell as one word
        return _UNIT["medium"]


_ROWS = 64
"""Rows that are looked at again at a time."""
_SPARE = 3
"""Candidates kept beyond k: so many may lie as near as the k-th, up to rounding, before a row is looked at again."""


def nearest_radii(real: Tensor, *, nearest_k: int = 5, block: int | None = None) -> Tensor:
    """Return the distance of each row to its k-th nearest other row, [N] in float64.

    Memory beyond the features and a centred copy in float32: two squares of `block` × `block` bounds, and k + 3
    candidates a row. A row whose k-th neighbour has many others at nearly its distance takes longer.

    Args:
        real: [N, D], on any device; the result is on it, too (for mps on the CPU).
        nearest_k: k ≥ 1.
        block: rows at a time; None takes what the device's memory is quickest with.

    Raises:
        DirePlugError: fewer than k + 1 rows, or a feature isn't finite.
    """
    check_features(real, "real features")
    check_neighbours(len(real), nearest_k, "real features")
    check_block(block)
    return radii_of(prepare(real)[0], nearest_k=nearest_k, block=block)


def class_radii(real: Tensor, real_labels: Tensor, *, nearest_k: int = 5) -> Tensor:
    """Return the distance of each row to its k-th nearest other row of its own class, [N] in float64.

    Raises:
        DirePlugError: a class has fewer than k + 1 rows, or a feature isn't finite.
    """
    check_features(real, "real features")
    check_labels(real_labels, real, "real features")
    real = with_float64(real)
    owners, radii = [], []
    for label in torch.unique(real_labels).tolist():
        own = (real_labels == label).nonzero().flatten().to(real.device)
        check_neighbours(len(own), nearest_k, f"real features of class {label}")
        owners.append(own)
        radii.append(nearest_radii(real[own], nearest_k=nearest_k))
    together = torch.cat(radii)
    return torch.empty_like(together).index_copy_(0, torch.cat(owners), together)


def radii_of(rows: Rows, *, nearest_k: int, block: int | None = None) -> Tensor:
    """Return the radii of prepared rows, of which there are more than k: what `nearest_radii` computes."""
    low, at = _candidates(rows, nearest_k + _SPARE, block)
    high = low + rows.width.unsqueeze(1) + rows.width[at]
    limit = high[:, :nearest_k].amax(1)
    # padded, since with k = 1 there is none nearer, and amax wants a column
    nearer = torch.nn.functional.pad(high[:, : nearest_k - 1], (1, 0), value=-torch.inf).amax(1)
    # no other candidate's bounds reach the k-th one's, so its exact distance is the radius
    alone = (low[:, nearest_k - 1] > nearer) & (low[:, nearest_k] > limit)
    radii = exact_distances(rows, torch.arange(len(rows), device=at.device), rows, at[:, nearest_k - 1])
    some = (~alone).nonzero().flatten()
    radii[some] = _kth(rows, some, at[some], low[some], nearest_k)
    # others may be as near as the last candidate; of rows that k others repeat, the radius is 0 whatever these are
    rest = ((low[:, -1] <= limit) & (radii > 0)).nonzero().flatten()
    for part in torch.split(rest, _ROWS) if len(rest) else ():
        radii[part] = _look_again(rows, part, limit[part], nearest_k)
    return radii


def _candidates(rows: Rows, count: int, block: int | None) -> tuple[Tensor, Tensor]:
    """Return `count` other rows with the least lower bounds, ascending, and these: [N, count] each.

    Where there are fewer others, the rest is infinitely far.
    """
    low = rows.unit.new_full((len(rows), count), torch.inf)
    at = torch.zeros(low.shape, dtype=torch.int64, device=low.device)
    side = block or max(16, int(cells(low.device) ** 0.5))
    parts = [slice(start, min(start + side, len(rows))) for start in range(0, len(rows), side)]
    for number, part in enumerate(parts):
        for other in parts[number:]:
            bounds = lower_bounds(rows, part, rows, other)
            # a row isn't its own neighbour
            if other == part:
                bounds.fill_diagonal_(torch.inf)
            else:
                _merge(low[other], at[other], bounds.T.contiguous(), part.start)
            _merge(low[part], at[part], bounds, other.start)
    return low, at


def _merge(low: Tensor, at: Tensor, bounds: Tensor, start: int) -> None:
    """Let the least of `bounds`, of the rows from `start` on, take their places in `low` and `at`."""
    count = low.shape[1]
    values, places = bounds.topk(min(count, bounds.shape[1]), dim=1, largest=False, sorted=False)
    values, order = torch.cat([low, values], 1).topk(count, dim=1, largest=False)
    at.copy_(torch.cat([at, places + start], 1).gather(1, order))
    low.copy_(values)


def _kth(rows: Rows, part: Tensor, at: Tensor, low: Tensor, nearest_k: int) -> Tensor:
    """Return the k-th least exact distance of some rows [n] to their candidates, [n, count], where these are."""
    apart = exact_distances(rows, part.repeat_interleave(at.shape[1]), rows, at.flatten()).view(at.shape)
    return apart.masked_fill_(low.isinf(), torch.inf).kthvalue(nearest_k, dim=1).values


def _look_again(rows: Rows, part: Tensor, limit: Tensor, nearest_k: int) -> Tensor:
    """Return the k-th least exact distance of some rows [n] to all others whose lower bound is within their limit."""
    bounds = lower_bounds(rows, part, rows)
    bounds.scatter_(1, part.unsqueeze(1), torch.inf)
    near = bounds <= limit.unsqueeze(1)
    own, at = near.nonzero(as_tuple=True)
    counts = near.sum(1)
    place = torch.arange(len(own), device=own.device) - (counts.cumsum(0) - counts)[own]
    apart = torch.full((len(part), int(counts.max())), torch.inf, dtype=torch.float64, device=own.device)
    apart[own, place] = exact_distances(rows, part[own], rows, at)
    return apart.kthvalue(nearest_k, dim=1).values


def check_radii(radii: Tensor, real: Tensor) -> None:
    """Raise for radii that aren't one for each row of `real`."""
    if radii.shape != real.shape[:1]:
        raise DirePlugError(
            f"radii: {list(radii.shape)} of them for {len(real)} real rows; compute them from these rows"
        )


def check_neighbours(count: int, nearest_k: int, what: str) -> None:
    """Raise for a k below 1, and fewer rows than have a k-th neighbour each."""
    if nearest_k < 1:
        raise DirePlugError(f"nearest_k: {nearest_k}; at least 1 is needed")
    if count < nearest_k + 1:
        raise DirePlugError(
            f"{what}: {count} rows are too few for nearest_k {nearest_k}; "
            f"give at least {nearest_k + 1}, or lower nearest_k"
        )


def check_block(block: int | None) -> None:
    """Raise for blocks without a row."""
    if block is not None and block < 1:
        raise DirePlugError(f"block: {block} rows at a time; at least 1 is needed")
