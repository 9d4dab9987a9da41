"""EDM through a coreset: k centres of the real rows of each class, each with its weight and its variance.

    Σⱼ ‖x − rⱼ‖  ≈  Σ_k w_k · √(‖x − c_k‖² + σ_k²)

c_k are k-means centres, w_k the number of rows of a cluster, σ_k² their mean squared distance from c_k. The paper names
coresets for EDM as future work (reference [15], Har-Peled & Mazumdar, 2004). Without σ² the sum is too small near the
real rows; with it the value is exact where all distances of a cluster are alike. Pairs that the released variant leaves
out, the i-th synthetic with the i-th real row, are taken off exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dire_plug.api.real_embeddings import ClassBlock, CoresetBlock, PreparedReal
from dire_plug.api.rows import Groups, squared_distances


def sum_by_coreset(rows: Tensor, groups: Groups, coreset: CoresetBlock) -> Tensor:
    """Return, [C], the approximate Σ ‖x − r‖ over all pairs of each class; differentiable in `rows`, [N, D]."""
    squared = squared_distances(groups.pad(rows) - coreset.means, coreset.centres) + coreset.variances.unsqueeze(1)
    counted = groups.here.unsqueeze(2) & coreset.present.unsqueeze(1) & (squared > 0)
    return (_root(squared, counted) * coreset.weights.unsqueeze(1)).sum((1, 2))


def sum_of_partners(rows: Tensor, block: ClassBlock, real: PreparedReal) -> Tensor:
    """Return, [C], Σ ‖xᵢ − rᵢ‖ over the i-th synthetic and the i-th real row of each class."""
    partners, paired = real.partners(block)
    squared = (rows - partners).square().sum(1)
    return block.groups.sum_rows(_root(squared, paired & (squared > 0)))


def compare_sums(approximate: Tensor, exact: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """Compare two sums over classes, [C], that were computed from the embeddings `leaf`, [N, D].

    Returns:
        |approximate − exact| / exact, of the sum over classes, and the cosine between the gradients with respect to the
        embeddings; scalars on the device.
    """
    ours, theirs = (torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0] for value in (approximate, exact))
    value = (approximate.sum() - exact.sum()).abs() / exact.sum()
    return value.detach(), torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)


def _root(squared: Tensor, counted: Tensor) -> Tensor:
    """Return square roots where `counted`, else 0 without a gradient."""
    return torch.where(counted, torch.where(counted, squared, 1).sqrt(), 0)
