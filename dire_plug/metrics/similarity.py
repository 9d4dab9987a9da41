"""Compute intra-class cosine similarity and the Vendi score; check and normalise features for all metrics.

With x̂ the n normalised rows of one class and s = Σx̂, the mean over the n(n − 1) ordered pairs of different images is
(‖s‖² − Σ‖x̂‖²) / (n(n − 1)), exactly. A mean that includes a zeroed diagonal would be low by (n − 1)/n.

The Vendi score (Friedman and Dieng 2023), here under the cosine kernel, is the effective number of different images:
exp of the Shannon entropy of the eigenvalues of K/n, K = X̂X̂ᵀ. The d×d matrix X̂ᵀX̂/n has the same eigenvalues but for
zeros, which add nothing: the smaller of the two is taken. Equal to the package `vendi-score`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.metrics.classes import Classes

ROWS = 1 << 12
"""Rows in float64 at a time."""


def intra_class_similarity(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cosine similarity between different images of each class, [C] in float64, classes ascending.

    NaN for a class of one image, which has no pair. A row of zeros has cosine 0 with everything.

    Args:
        features: [N, D].
        labels: [N], int64, in any order.

    Raises:
        DirePlugError: shapes don't fit, or a feature isn't finite.
    """
    check_features((features, "features"))
    check_labels(labels, features, "features")
    return similarity_of(features, Classes.of(labels))


def similarity_of(features: Tensor, classes: Classes) -> Tensor:
    """Return `intra_class_similarity` of checked features."""
    device = unit_rows(features[:1]).device
    owner = classes.owner.to(device, non_blocking=True)
    counts = classes.counts.to(device, non_blocking=True)
    sums = torch.zeros(len(counts), features.shape[1], dtype=torch.float64, device=device)
    own = sums.new_zeros(len(counts))
    for rows, owners in zip(torch.split(features, ROWS), torch.split(owner, ROWS), strict=True):
        unit = unit_rows(rows)
        sums.index_add_(0, owners, unit)
        # the diagonal, taken off below; it is 1 for each row, and 0 for a row of zeros
        own.index_add_(0, owners, torch.linalg.vecdot(unit, unit))
    pairs = (counts * (counts - 1)).to(sums.dtype)
    return torch.where(pairs > 0, (sums.square().sum(1) - own) / pairs.clamp(min=1), torch.nan)


def unit_rows(features: Tensor) -> Tensor:
    """Return the rows of [N, D] at length 1, in float64 (on the CPU where the device has none); zeros stay zeros."""
    features = features.detach()
    rows = features.to("cpu" if features.device.type == "mps" else features.device, torch.float64)
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)


def check_features(*named: tuple[Tensor, str]) -> None:
    """Raise for features that are no [N, D] of finite numbers, N and D ≥ 1; the host waits once for all of them.

    Args:
        named: features, and what they are.

    Raises:
        DirePlugError: naming what they are.
    """
    for features, what in named:
        if features.ndim != 2 or not features.numel():
            raise DirePlugError(
                f"{what}: their shape is {list(features.shape)}; [N, D] with at least one row is needed"
            )
        if not features.is_floating_point():
            raise DirePlugError(f"{what}: they are {features.dtype}; floating point is needed")
    device = named[0][0].device
    bad = [(~(rows.amin(1).isfinite() & rows.amax(1).isfinite())).sum() for rows, _ in named]
    for (features, what), count in zip(named, torch.stack([one.to(device) for one in bad]).tolist(), strict=True):
        if count:
            raise DirePlugError(
                f"{what}: {count} of {len(features)} rows hold NaN or infinity; "
                "look at the images and the network that they come from"
            )


def check_labels(labels: Tensor, features: Tensor, what: str) -> None:
    """Raise for labels that aren't one integer for each row of `features`.

    Raises:
        DirePlugError: naming `what` they label.
    """
    if labels.shape != features.shape[:1] or labels.is_floating_point():
        raise DirePlugError(
            f"{what}: labels of shape {list(labels.shape)} and type {labels.dtype} don't fit {len(features)} rows; "
            "one integer for each is needed"
        )


def check_widths(one: Tensor, other: Tensor, what: tuple[str, str]) -> None:
    """Raise for features of different widths.

    Raises:
        DirePlugError: naming `what` both are.
    """
    if one.shape[1] != other.shape[1]:
        raise DirePlugError(
            f"{what[0]} have {one.shape[1]} dimensions, {what[1]} {other.shape[1]}; embed both with one network"
        )


_PRODUCT_ROWS = 1 << 14
"""Rows in float64 at a time."""
_BLOCK = {"cpu": 1 << 21}
_OTHER_BLOCK = 1 << 26
"""Numbers in float64 of the rows of the classes that are decomposed at once: 16 MiB on the CPU, 512 MiB elsewhere."""


def vendi(features: Tensor) -> float:
    """Return the Vendi score, between 1 and the smaller of N and D; computed in float64.

    A row of zeros has cosine 0 with everything, itself included, as in `vendi-score`.

    Args:
        features: [N, D].

    Raises:
        DirePlugError: the shape doesn't fit, or a feature isn't finite.
    """
    check_features((features, "features"))
    return float(vendi_of(features))


def vendi_of(features: Tensor) -> Tensor:
    """Return the Vendi score of checked features, [] in float64."""
    count, width = features.shape
    # X̂X̂ᵀ and X̂ᵀX̂ have the same nonzero eigenvalues; the smaller one is decomposed
    if count <= width:
        unit = unit_rows(features)
        kernel = unit @ unit.T
    else:
        kernel = _sum_products(features)
    return _effective_number(kernel / count)


def _effective_number(kernels: Tensor) -> Tensor:
    """Return exp of the entropy of the eigenvalues of matrices, [..., n, n]: [...]."""
    # rounding makes zeros slightly negative, where the logarithm is NaN
    weights = torch.linalg.eigvalsh(kernels).clamp_(min=0)
    numbers: Tensor = torch.special.entr(weights).sum(-1).exp()
    return numbers


def _sum_products(features: Tensor) -> Tensor:
    """Return X̂ᵀX̂, [D, D] in float64, without a float64 copy of all rows."""
    total: Tensor | None = None
    for start in range(0, len(features), _PRODUCT_ROWS):
        unit = unit_rows(features[start : start + _PRODUCT_ROWS])
        product = unit.T @ unit
        total = product if total is None else product + total
    assert total is not None
    return total


def mean_class_vendi(features: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the Vendi score within the class; 1 where a class has one image.

    Args:
        features: [N, D].
        labels: [N], int64.

    Raises:
        DirePlugError: shapes don't fit, or a feature isn't finite.
    """
    check_features((features, "features"))
    check_labels(labels, features, "features")
    return float(class_vendi_of(features, Classes.of(labels)).mean())


def class_vendi_of(features: Tensor, classes: Classes) -> Tensor:
    """Return the Vendi score of each class of checked features, [C] in float64.

    A block of classes is decomposed at once; rows of zeros fill it, whose eigenvalues are 0 and add nothing.
    """
    width = features.shape[1]
    device = unit_rows(features[:1]).device
    scores = torch.empty(len(classes.labels), dtype=torch.float64, device=device)
    most = _BLOCK.get(device.type, _OTHER_BLOCK)
    for some in classes.blocks(lambda count: (count + min(count, width)) * width, most):
        members = classes.members(some, features.device)
        at = some.to(device, non_blocking=True)
        # the rows of one class alone may be too many for float64 at once
        if len(some) == 1:
            scores[at] = vendi_of(features[members[0]])
            continue
        unit = unit_rows(features[members.clamp(min=0).flatten()]).view(*members.shape, width)
        unit.masked_fill_((members < 0).unsqueeze(2).to(device), 0)
        counts = classes.counts[some].to(device, non_blocking=True).view(-1, 1, 1)
        kernels = unit @ unit.mT if unit.shape[1] <= width else unit.mT @ unit
        scores[at] = _effective_number(kernels / counts)
    return scores
