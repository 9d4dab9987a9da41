"""The coreset of real embeddings that stands for all of them in EDM: k-means centres of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SEED = 0
"""Fixed: runs of all seeds and arms see the same centres."""


def choose_centres(values: Tensor, labels: Tensor, k: int) -> dict[str, Tensor]:
    """Return k-means centres of each class; all rows where a class has no more than `k` different ones.

    Args:
        values: [M, D], sorted by class.
        labels: [M], int64, ascending.
        k: centres of a class.

    Returns:
        {"centres": [K, D], "labels": [K], ascending, "weights": [K], rows of a cluster, "variances": [K], their mean
        squared distance from its centre}, as `types.Coreset` has them.
    """
    import torch

    classes, counts = torch.unique_consecutive(labels, return_counts=True)
    found = [_cluster(rows, k) for rows in torch.split(values, counts.tolist())]
    kept = torch.tensor([len(centres) for centres, _, _ in found])
    names = ("centres", "weights", "variances")
    parts = {name: torch.cat([one[place] for one in found]) for place, name in enumerate(names)}
    return {**parts, "labels": classes.repeat_interleave(kept)}


def _cluster(rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centres, weights and variances of the rows of one class, [m, D]."""
    import torch
    from sklearn.cluster import KMeans

    different = len(torch.unique(rows, dim=0)) if len(rows) > k else len(rows)
    if min(len(rows), different) <= k:
        centres, owner = torch.unique(rows, dim=0, return_inverse=True)
    else:
        fitted = KMeans(k, n_init=1, random_state=SEED).fit(rows.numpy())
        _, owner = torch.unique(torch.from_numpy(fitted.labels_).long(), return_inverse=True)
        centres = rows.new_zeros(int(owner.max()) + 1, rows.shape[1]).index_add_(0, owner, rows)
        centres /= torch.bincount(owner).unsqueeze(1)
    weights = torch.bincount(owner).to(rows.dtype)
    squares = (rows - centres[owner]).square().sum(1)
    return centres, weights, torch.zeros_like(weights).index_add_(0, owner, squares) / weights
