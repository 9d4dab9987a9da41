"""EDM's sum of distances between the synthetic and the real rows of each class, with its gradient, in two products.

With the mean of the class's real rows taken off both sides, and each real row extended to [r, ‖r‖², 1],

    D²          = [−2x, 1, ‖x‖²] · [r, ‖r‖², 1]
    W           = 1/D, and 0 where a pair doesn't count or its distance is 0
    gradient    = X ∘ W1 − WR                          both halves stand in W · [r, ‖r‖², 1]
    sum         = Σ W D² = Σ ‖x‖² (W1) − 2 x·(WR) + W‖r‖²

so that the forward pass makes the gradient too, and keeps C×n×D numbers of C×n×m×D.

This D² loses its digits where x and r nearly coincide, as they do when synthesis starts from real images. The nearest
real row of each x is therefore taken by the difference itself; further ones within rounding count as coinciding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dire_plug.api.rows import COINCIDING
from dire_plug.errors import DirePlugError


def sum_distances(rows: Tensor, real: Tensor, *, excluded: Tensor | None, paired: bool) -> Tensor:
    """Return, [C], Σ ‖x − r‖ over the pairs of each class; differentiable once, in `rows`.

    Args:
        rows: [C, n, D], the synthetic rows less the class's real mean.
        real: [C, m, D + 2], from `api.real.extend_real`.
        excluded: [C, n, m], True where a pair holds padding; None where nothing is padded.
        paired: leave out the i-th synthetic row with the i-th real row of its class.
    """
    sums: Tensor = _DistanceSums.apply(rows, real, excluded, paired)
    return sums


class _DistanceSums(torch.autograd.Function):
    """The sums of `sum_distances`; keeps nothing but its own gradient, [C, n, D], and the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, real: Tensor, excluded: Tensor | None, paired: bool) -> Tensor:
        """Return [C]."""
        norms = rows.square().sum(2, keepdim=True)
        squared = torch.bmm(torch.cat([-2 * rows, torch.ones_like(norms), norms], 2), real.transpose(1, 2))
        if excluded is not None:
            squared.masked_fill_(excluded, torch.inf)
        if paired:
            squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest, gradient = _take_nearest(squared, rows, real)
        # infinite, so that their weight 1/D is 0 and they drop out of sum and gradient
        squared.masked_fill_(squared <= COINCIDING * torch.finfo(rows.dtype).eps * norms, torch.inf)
        further, pull = _sum_further(squared, rows, real)
        # nothing is kept where no gradient is wanted
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(rows, pull.add_(gradient))
        return (further + nearest).sum((1, 2))

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the kept gradient."""
        rows, gradient = ctx.saved_tensors
        # under create_graph the kept gradient would look like a constant, and a second derivative be silently wrong
        kept = _Once.apply(rows, gradient) if torch.is_grad_enabled() else gradient
        return kept * outer[:, None, None], None, None, None


def _take_nearest(squared: Tensor, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance of each row to its nearest real one, [C, n, 1], and its gradient; remove these pairs.

    `squared`, [C, n, m], is infinite where a pair doesn't count, and in place also where it is dealt with here.
    """
    least, index = squared.min(2, keepdim=True)
    difference = rows - real[..., :-2].gather(1, index.expand(-1, -1, rows.shape[2]))
    distance = torch.where(least < torch.inf, difference.square().sum(2, keepdim=True).sqrt(), 0)
    squared.scatter_(2, index, torch.inf)
    apart = distance > 0
    return distance, torch.where(apart, difference / torch.where(apart, distance, 1), 0)


def _sum_further(squared: Tensor, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of the pairs that are left, the sums of the distances of each row, [C, n, 1], and their gradient.

    `squared` is overwritten by W.
    """
    weighted = torch.bmm(squared.rsqrt_(), real)
    pulled, squares, total = weighted[..., :-2], weighted[..., -2:-1], weighted[..., -1:]
    gradient = rows * total - pulled
    return (rows * (gradient - pulled)).sum(2, keepdim=True) + squares, gradient


class _Once(torch.autograd.Function):
    """The kept gradient of EDM as a function of the rows, where a graph of it is asked for: it has no derivative."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        """Raise, rather than leave out a part of the second derivative."""
        raise DirePlugError("edm: a second derivative was asked for; it has the first only, so leave edm out there")
