"""The Vendi score (Friedman and Dieng 2023) under the cosine kernel: the effective number of different images.

exp of the Shannon entropy of the eigenvalues of K/n, K = X̂X̂ᵀ. The d×d matrix X̂ᵀX̂/n has the same eigenvalues but for
zeros, which add nothing: the smaller of the two is taken. Equal to the package `vendi-score`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dire_plug.metrics.similarity import check_features, check_labels, unit_rows

_ROWS = 1 << 14
"""Rows in float64 at a time."""


def vendi(features: Tensor) -> float:
    """Return the Vendi score, between 1 and the smaller of N and D; computed in float64.

    A row of zeros has cosine 0 with everything, itself included, as in `vendi-score`.

    Args:
        features: [N, D].

    Raises:
        DirePlugError: the shape doesn't fit, or a feature isn't finite.
    """
    check_features(features, "features")
    count, width = features.shape
    # X̂X̂ᵀ and X̂ᵀX̂ have the same nonzero eigenvalues; the smaller one is decomposed
    if count <= width:
        unit = unit_rows(features)
        kernel = unit @ unit.T
    else:
        kernel = _sum_products(features)
    # rounding makes zeros slightly negative, where the logarithm is NaN
    weights = torch.linalg.eigvalsh(kernel / count).clamp_(min=0)
    return float(torch.special.entr(weights).sum().exp())


def _sum_products(features: Tensor) -> Tensor:
    """Return X̂ᵀX̂, [D, D] in float64, without a float64 copy of all rows."""
    total = torch.zeros(())
    for start in range(0, len(features), _ROWS):
        unit = unit_rows(features[start : start + _ROWS])
        total = unit.T @ unit + total.to(unit)
    return total


def mean_class_vendi(features: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the Vendi score within the class; 1 where a class has one image.

    Args:
        features: [N, D].
        labels: [N], int64.

    Raises:
        DirePlugError: shapes don't fit, or a feature isn't finite.
    """
    check_features(features, "features")
    check_labels(labels, features, "features")
    scores = [vendi(features[labels == label]) for label in torch.unique(labels).tolist()]
    return sum(scores) / len(scores)
