"""Compute distances between rows of features, and radii: the distance of each row to its k-th nearest other row.

All pairs get bounds in float32, the few that matter exact distances in float64. For rows x and y, centred and scaled,
‖x‖² + ‖y‖² − 2x·y in float32 is off by less than s(‖x‖² + ‖y‖²). That amount is folded into the norms, so that one
product of matrices gives a lower bound of every squared distance at no cost. A comparison that the bound leaves open is
decided by √Σ(xᵢ − yᵢ)² of the features as they came, in float64. So results are those of float64, and where distances
are equal they compare as equal: the same two rows give the same bits.

Radii are those of the package `prdc`, in float64. Distances are symmetric, so each pair is looked at once: square by
square of the upper triangle, for its rows and for its columns. A few nearest candidates of each row are kept with their
bounds; their exact distances decide.

Sets are held in groups of rows, several classes at a time, and only rows of one group are compared; all rows of a set
are one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.metrics.classes import Classes
from dire_plug.metrics.similarity import check_features, check_labels

_UNIT = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
"""Precision setting of torch → the relative rounding of a factor of a product."""
_CENTRED_ROWS = 1 << 12
"""Rows that are centred at a time."""
_CELLS = {"cpu": 1 << 21}
_OTHER_CELLS = 1 << 26


@dataclass(frozen=True)
class Rows:
    """Features in groups, and what bounds of their distances need.

    A group has as many places as the largest has rows. A place without a row is infinitely far from everything.

    Attributes:
        features: [N, D], as they came, on a device that has float64.
        at: [G, n], int64: the row in each place; any where there is none.
        unit: [G, n, D], centred and scaled, in float32.
        low, width: [G, n]: (1 − s)‖x‖² and 2s‖x‖², in float32; ∞ and 0 without a row.
        scale: [G, 1], float64: `unit` is the centred features times this power of two.
    """

    features: Tensor
    at: Tensor
    unit: Tensor
    low: Tensor
    width: Tensor
    scale: Tensor

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.at.shape[0]

    @property
    def places(self) -> int:
        """The places of one group."""
        return self.at.shape[1]


def prepare(features: Tensor, *others: Tensor) -> tuple[Rows, ...]:
    """Return one group of each of several sets, with the mean and the scale of the first.

    Args:
        features: [N, D], of any floating type.
        others: [M, D] each; they come to the device of the first.
    """
    first = with_float64(features)
    sets = [first, *(one.detach().to(first.device) for one in others)]
    centre = first.mean(0, dtype=_centre_type(sets))
    scale = _scale(torch.stack([end.double().abs() for one in sets for end in one.aminmax()]).amax())
    return tuple(_bound_set(one, centre, scale) for one in sets)


def prepare_groups(features: Tensor, members: Tensor, *others: tuple[Tensor, Tensor]) -> tuple[Rows, ...]:
    """Return some groups of rows of several sets, each group with the mean and the scale of the first set's.

    Args:
        features: [N, D], of any floating type, on a device that has float64.
        members: [G, n], int64: the rows of each group, −1 where there are no more; on the same device.
        others: the same of other sets, with as many groups.
    """
    sets = [(features, members), *others]
    dtype = _centre_type([one for one, _ in sets])
    filled = [(at >= 0).unsqueeze(2) for _, at in sets]
    blocks = [torch.where(there, one[at.clamp(min=0)], 0) for (one, at), there in zip(sets, filled, strict=True)]
    centre = blocks[0].sum(1, keepdim=True, dtype=dtype) / filled[0].sum(1, keepdim=True)
    largest = torch.stack([block.flatten(1).abs().amax(1).double() for block in blocks]).amax(0)
    scale = _scale(largest).unsqueeze(1)
    found = []
    for (one, at), there, block in zip(sets, filled, blocks, strict=True):
        unit = (block - centre).mul_(scale.unsqueeze(2)).float().masked_fill_(~there, 0)
        low, width = _norms(unit)
        found.append(Rows(one, at.clamp(min=0), unit, low.masked_fill_(at < 0, torch.inf), width, scale))
    return tuple(found)


def with_float64(features: Tensor) -> Tensor:
    """Return the features without a graph, on the CPU where their device has no float64 (mps)."""
    features = features.detach()
    return features.cpu() if features.device.type == "mps" else features


def lower_bounds(rows: Rows, part: slice, others: Rows, other_part: slice = slice(None)) -> Tensor:
    """Return lower bounds of the squared distances within each group, [G, n, m], in scaled units.

    Args:
        part, other_part: which places of each group.
    """
    low = others.low[:, other_part].unsqueeze(1)
    product = torch.baddbmm(low, rows.unit[:, part], others.unit[:, other_part].mT, alpha=-2)
    return product.add_(rows.low[:, part].unsqueeze(2))


def exact_distances(rows: Rows, places: Tensor, others: Rows, other_places: Tensor) -> Tensor:
    """Return the distances of pairs of rows, [P] in float64, of the features as they came.

    Args:
        rows, others: two sets.
        places, other_places: [P] each: the places of each pair, counted over all groups.
    """
    found = torch.empty(len(places), dtype=torch.float64, device=rows.features.device)
    step = max(1, cells(found.device) // 8 // rows.features.shape[1])
    at, other_at = rows.at.flatten(), others.at.flatten()
    for start in range(0, len(places), step):
        chunk = slice(start, start + step)
        apart = rows.features[at[places[chunk]]].double().sub_(others.features[other_at[other_places[chunk]]])
        found[chunk] = apart.square_().sum(1).sqrt_()
    return found


def cells(device: torch.device) -> int:
    """Return how many bounds to hold at a time: 8 MiB on the CPU, which its cache can hold, 256 MiB elsewhere."""
    return _CELLS.get(device.type, _OTHER_CELLS)


def _centre_type(sets: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(one.dtype == torch.float64 for one in sets) else torch.float32


def _scale(largest: Tensor) -> Tensor:
    """Return the powers of two that bring the largest features to about 1, so that no square overflows; float64.

    They are float32's, so features below 1e-38 stay small: their bounds say nothing, and exact distances decide.
    """
    return torch.exp2(-torch.frexp(largest).exponent.clamp(min=-126).double())


def _bound_set(features: Tensor, centre: Tensor, scale: Tensor) -> Rows:
    unit = torch.empty(features.shape, dtype=torch.float32, device=features.device)
    for rows, part in zip(torch.split(unit, _CENTRED_ROWS), torch.split(features, _CENTRED_ROWS), strict=True):
        rows.copy_((part - centre).mul_(scale))
    unit = unit.unsqueeze(0)
    at = torch.arange(len(features), device=features.device).unsqueeze(0)
    return Rows(features, at, unit, *_norms(unit), scale.view(1, 1))


def _norms(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return (1 − s)‖x‖² and 2s‖x‖² of rows, [G, n] each."""
    # rounding of the factors, of a sum of D products and of one of D squares, and of the few terms beside them
    share = 2 * _rounding() + (2 * unit.shape[-1] + 64) * 2.0**-24
    norms = torch.linalg.vecdot(unit, unit)
    return norms * (1 - share), norms * (2 * share)


def _rounding() -> float:
    """Return what torch may round a factor by, as it is set now."""
    try:
        return _UNIT[torch.get_float32_matmul_precision()]
    except RuntimeError:  # somebody set it device by device, which torch doesn't tell as one word
        return _UNIT["medium"]


_ROWS = 64
"""Rows that are looked at again at a time, at least."""
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
    check_features((real, "real features"))
    check_neighbours(len(real), nearest_k, "real features")
    check_block(block)
    return radii_of(prepare(real)[0], nearest_k=nearest_k, block=block)[0]


def class_radii(real: Tensor, real_labels: Tensor, *, nearest_k: int = 5) -> Tensor:
    """Return the distance of each row to its k-th nearest other row of its own class, [N] in float64.

    Raises:
        DirePlugError: a class has fewer than k + 1 rows, or a feature isn't finite.
    """
    check_features((real, "real features"))
    check_labels(real_labels, real, "real features")
    return radii_of_classes(with_float64(real), Classes.of(real_labels), nearest_k=nearest_k)


def radii_of_classes(real: Tensor, classes: Classes, *, nearest_k: int) -> Tensor:
    """Return `class_radii` of checked rows, on a device that has float64."""
    for label, count in zip(classes.labels.tolist(), classes.counts.tolist(), strict=True):
        check_neighbours(count, nearest_k, f"real features of class {label}")
    width = real.shape[1]
    # one more, where places without a row leave what they have
    radii = torch.empty(len(real) + 1, dtype=torch.float64, device=real.device)
    for some in classes.blocks(lambda count: count * max(count, width), cells(real.device)):
        members = classes.members(some, real.device)
        (rows,) = prepare_groups(real, members)
        found = radii_of(rows, nearest_k=nearest_k)
        radii[torch.where(members < 0, len(real), members)] = found
    return radii[:-1]


def radii_of(rows: Rows, *, nearest_k: int, block: int | None = None) -> Tensor:
    """Return the radii of prepared rows within their groups, of more than k rows each: [G, n], any without a row."""
    low, at = (one.flatten(0, 1) for one in _candidates(rows, nearest_k + _SPARE, block))
    width, filled = rows.width.flatten(), rows.low.flatten().isfinite()
    high = low + width.unsqueeze(1) + width[at]
    limit = high[:, :nearest_k].amax(1)
    # padded, since with k = 1 there is none nearer, and amax wants a column
    nearer = torch.nn.functional.pad(high[:, : nearest_k - 1], (1, 0), value=-torch.inf).amax(1)
    # no other candidate's bounds reach the k-th one's, so its exact distance is the radius
    alone = (low[:, nearest_k - 1] > nearer) & (low[:, nearest_k] > limit)
    radii = exact_distances(rows, torch.arange(len(at), device=at.device), rows, at[:, nearest_k - 1])
    some = (~alone & filled).nonzero().flatten()
    radii[some] = _kth(rows, some, at[some], low[some], nearest_k)
    # others may be as near as the last candidate; of rows that k others repeat, the radius is 0 whatever these are
    rest = ((low[:, -1] <= limit) & (radii > 0) & filled).nonzero().flatten()
    for part in torch.split(rest, _rows_again(rows)) if len(rest) else ():
        radii[part] = _look_again(rows, part, limit[part], nearest_k)
    return radii.view(rows.groups, rows.places)


def _candidates(rows: Rows, count: int, block: int | None) -> tuple[Tensor, Tensor]:
    """Return the `count` other rows with the least lower bounds of each, ascending, and these: [G, n, count] each.

    Rows are told by their places, counted over all groups. Where a group has fewer others, the rest is infinitely far.
    """
    low = rows.unit.new_full((*rows.low.shape, count), torch.inf)
    at = torch.zeros(low.shape, dtype=torch.int64, device=low.device)
    side = block or max(16, int((cells(low.device) / rows.groups) ** 0.5))
    parts = [slice(start, min(start + side, rows.places)) for start in range(0, rows.places, side)]
    for number, part in enumerate(parts):
        for other in parts[number:]:
            bounds = lower_bounds(rows, part, rows, other)
            # a row isn't its own neighbour
            if other == part:
                bounds.diagonal(dim1=1, dim2=2).fill_(torch.inf)
            else:
                _merge(low[:, other], at[:, other], bounds.mT.contiguous(), part.start)
            _merge(low[:, part], at[:, part], bounds, other.start)
    first = torch.arange(rows.groups, device=at.device).mul_(rows.places)
    return low, at.add_(first.view(-1, 1, 1))


def _merge(low: Tensor, at: Tensor, bounds: Tensor, start: int) -> None:
    """Let the least of `bounds`, of the rows from `start` on, take their places in `low` and `at`."""
    count = low.shape[2]
    values, places = bounds.topk(min(count, bounds.shape[2]), dim=2, largest=False, sorted=False)
    values, order = torch.cat([low, values], 2).topk(count, dim=2, largest=False)
    at.copy_(torch.cat([at, places + start], 2).gather(2, order))
    low.copy_(values)


def _kth(rows: Rows, part: Tensor, at: Tensor, low: Tensor, nearest_k: int) -> Tensor:
    """Return the k-th least exact distance of some rows [n] to their candidates, [n, count], where these are."""
    apart = exact_distances(rows, part.repeat_interleave(at.shape[1], output_size=at.numel()), rows, at.flatten())
    return apart.view(at.shape).masked_fill_(low.isinf(), torch.inf).kthvalue(nearest_k, dim=1).values


def _rows_again(rows: Rows) -> int:
    """Return how many rows to look at again at a time."""
    most = cells(rows.features.device)
    if rows.groups == 1:
        return max(_ROWS, most // rows.places)
    return max(1, most // (rows.places * rows.unit.shape[2]))  # each with a copy of its group


def _look_again(rows: Rows, part: Tensor, limit: Tensor, nearest_k: int) -> Tensor:
    """Return the k-th least exact distance of some rows [n] to all others whose lower bound is within their limit."""
    group, place = part // rows.places, part % rows.places
    if rows.groups == 1:
        bounds = torch.addmm(rows.low, rows.unit[0, place], rows.unit[0].T, alpha=-2)
    else:
        product = torch.bmm(rows.unit[group], rows.unit[group, place].unsqueeze(2)).squeeze(2)
        bounds = rows.low[group] - 2 * product
    bounds += rows.low[group, place].unsqueeze(1)
    bounds.scatter_(1, place.unsqueeze(1), torch.inf)
    near = bounds <= limit.unsqueeze(1)
    own, at = near.nonzero(as_tuple=True)
    counts = near.sum(1)
    within = torch.arange(len(own), device=own.device) - (counts.cumsum(0) - counts)[own]
    apart = torch.full((len(part), int(counts.max())), torch.inf, dtype=torch.float64, device=own.device)
    apart[own, within] = exact_distances(rows, part[own], rows, group[own] * rows.places + at)
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
