"""Distances between rows of features: bounds in float32 for all pairs, exact ones in float64 for the few that matter.

For rows x and y, centred and scaled, ‖x‖² + ‖y‖² − 2x·y in float32 is off by less than s(‖x‖² + ‖y‖²). That amount
is folded into the norms, so that one product of matrices gives a lower bound of every squared distance at no cost. A
comparison that the bound leaves open is decided by √Σ(xᵢ − yᵢ)² of the features as they came, in float64. So results
are those of float64, and where distances are equal they compare as equal: the same two rows give the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_UNIT = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
"""Precision setting of torch → the relative rounding of a factor of a product."""
_ROWS = 1 << 12
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
    for rows, part in zip(torch.split(unit, _ROWS), torch.split(features, _ROWS), strict=True):
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
