"""The mathematics of DiRe: cosine diversity (CD), cosine and Euclidean distribution matching (CDM, EDM).

x̂, r̂ are the normalised embeddings of one class, n synthetic (x) and m real (r), s = Σx̂ᵢ, u = Σr̂ⱼ, d = ‖x − r‖:

            paper, sums (Equations 1–5)   released, means
    CD      ‖s‖²                          Σ_{i≠j} |x̂ᵢ·x̂ⱼ| / n²
    CDM     1 − s·u                       1 − (s·u − Σ_{i<min(n,m)} x̂ᵢ·r̂ᵢ) / nm
    EDM     Σ dᵢⱼ                         (Σ dᵢⱼ − Σ_{i<min(n,m)} dᵢᵢ) / nm

Equations 1 and 3 as printed count the diagonal of CD: a constant n, without gradient. `released` follows DiversityLoss
in SRe2L/CIFAR100/utils_regularized.py of the authors' release, which zeroes the diagonal of the rectangular
synthetic × real matrices as well: the i-th synthetic row of a class (in the order of the batch) and its i-th real row
(as stored) are no pair. CDM's absolute value never acts (1 − cos ≥ 0). Nor does CD's where embeddings are ≥ 0, and the
sum then is ‖s‖² − Σ‖x̂ᵢ‖²; only at the kink, two rows without a common dimension, does this have the derivative from the
non-negative side where |·| has torch's 0. Weights don't carry over between the variants: sums and means differ by n²
and nm.

A row of zeros has cosine 0 with everything, with zero gradient; a pair at distance 0 adds nothing to a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from dire_plug.api.memory_bank import MemoryBank
from dire_plug.api.real_embeddings import ClassBlock, PreparedReal, prepare_real
from dire_plug.api.rows import Groups, unit_rows
from dire_plug.errors import DirePlugError, nearest
from dire_plug.regularizers.coreset import compare_sums, sum_by_coreset, sum_of_partners
from dire_plug.regularizers.distance import sum_distances
from dire_plug.types import RealEmbeddings

VARIANTS = ("released", "paper")
REDUCTIONS = ("sum", "mean")
COMPONENTS = ("cd", "cdm", "edm")
MULTIPLIERS = {"released": 0.1, "paper": 1.0}
"""The default factor of the whole term; Algorithm 1 has none."""


def diversity_loss(
    embeddings: Tensor,
    labels: Tensor,
    real: RealEmbeddings | PreparedReal,
    *,
    variant: Literal["released", "paper"] = "released",
    r_c: float = 1.0,
    r_e: float = 0.01,
    r_e_relative: bool = False,
    multiplier: float | None = None,
    reduction: Literal["sum", "mean"] = "sum",
    components: Sequence[str] = COMPONENTS,
    nonnegative: bool = False,
    bank: MemoryBank | None = None,
    bank_weight: float = 2.0,
    record: Callable[[str, Tensor], None] | None = None,
) -> Tensor:
    """Return multiplier · Σ_c [r_c · (CD + CDM) + r_e · EDM] over the classes of `labels`, a differentiable scalar.

    With a bank of B finished images b of the class, CD also counts the pairs between the batch and the bank:

        CD = (Σ_{i≠j} |x̂ᵢ·x̂ⱼ| + w · Σ_{i,b} |x̂ᵢ·b̂|) / n(n + B)        released; paper's mean, its diagonal included
        CD = ‖s‖² + w · Σ_{i,b} x̂ᵢ·b̂                                      paper's sum

    A finished image no longer moves, so such a pair is seen from one side only and w = `bank_weight` = 2: then the
    gradient of every image, relative to those of CDM and EDM, is the one that it has in one batch of n + B images.

    Args:
        embeddings: [N, D]; computed with in the dtype of `real`. Differentiable once.
        labels: [N], int64, in any order.
        real: embeddings of real images; classes that `labels` lacks are ignored. Prepare them once for many calls.
        r_e_relative: EDM counts in units of the mean norm of all of `real`, of classes that `labels` lacks too: scaling
            both sides' embeddings changes nothing then.
        multiplier: the factor of the whole term; None takes 0.1 (released) or 1 (paper).
        reduction: for the variant `paper`: sums as printed, or means over the n², nm and nm pairs.
        components: which of cd, cdm and edm are summed (Table 14).
        nonnegative: promises that no embedding has a negative value; saves the n×n matrix of CD.
        bank: finished images, whose embeddings take part in CD without gradient.
        record: called with each component and its share of the term, weights included, detached.

    Raises:
        DirePlugError: shapes don't fit, a class has no real embedding, a name is unknown, or r_e has no unit.
    """
    _check_names(variant, reduction, components)
    prepared = real if isinstance(real, PreparedReal) else prepare_real(real)
    _check_shapes(embeddings, labels, prepared)
    if r_e_relative:
        r_e = _scale_relative(r_e, prepared.mean_norm)
    # a zero that still hangs on the graph: upstream calls backward on the sum
    if not len(labels):
        return embeddings.sum()
    released = variant == "released"
    means = released or reduction == "mean"
    # under autocast the products would be half precision, and the distances noise
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = embeddings.to(prepared.values.dtype)
        by_coreset = prepared.coreset is not None
        block = prepared.block(labels, paired=released, distances="edm" in components and not by_coreset)
        unit, counts = unit_rows(rows), block.groups.counts
        pairs = counts * block.real_counts if means else 1
        parts: dict[str, Tensor] = {}
        if "cd" in components:
            cosines, others = _cosines_within(unit, block.groups, absolute=released, nonnegative=nonnegative), counts
            if bank is not None and len(bank):
                held, held_counts = bank.directions(block.groups, like=unit)
                cosines = cosines + bank_weight * _cosines_with(held, unit, block.groups, absolute=released)
                others = counts + held_counts
            parts["cd"] = r_c * (cosines / (counts * others if means else 1)).sum()
        if "cdm" in components:
            cosines = block.groups.sum_rows((unit * block.targets).sum(1))
            parts["cdm"] = r_c * (1 - cosines / pairs).sum()
        if "edm" in components:
            sums = _distances_by_coreset(rows, block, prepared) if by_coreset else _distances(rows, block)
            parts["edm"] = r_e * (sums / pairs).sum()
    factor = MULTIPLIERS[variant] if multiplier is None else multiplier
    if record is not None:
        for name, part in parts.items():
            record(name, part.detach() * factor)
    return sum(parts.values(), start=rows.new_zeros(())) * factor


def _cosines_within(unit: Tensor, groups: Groups, *, absolute: bool, nonnegative: bool) -> Tensor:
    """Sum, [C], the cosines between the rows of each class: as they are, or absolute and without the diagonal."""
    # without the absolute value ‖s‖² − Σ‖x̂‖² does without the n×n matrix
    if absolute and not nonnegative:
        padded = groups.pad(unit)
        cosines = torch.bmm(padded, padded.transpose(1, 2)).abs()
        return cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)
    sums = groups.sum_rows(unit).square().sum(1)
    return sums - groups.sum_rows(unit.square().sum(1)) if absolute else sums


def _cosines_with(held: Tensor, unit: Tensor, groups: Groups, *, absolute: bool) -> Tensor:
    """Sum, [C], the (absolute) cosines between the rows of each class and the bank's, `held`, [C, B, D]."""
    cosines = torch.bmm(groups.pad(unit), held.transpose(1, 2))
    return (cosines.abs() if absolute else cosines).sum((1, 2))


def _distances(rows: Tensor, block: ClassBlock) -> Tensor:
    """Sum, [C], the distances between the synthetic and the real rows of each class; `block` holds the real ones."""
    assert block.real is not None
    centred = block.groups.pad(rows) - block.means.unsqueeze(1)
    return sum_distances(centred, block.real, excluded=block.excluded, paired=block.paired)


def _distances_by_coreset(rows: Tensor, block: ClassBlock, real: PreparedReal) -> Tensor:
    """Sum, [C], the distances as `_distances` does, through the coreset."""
    assert block.coreset is not None
    sums = sum_by_coreset(rows, block.groups, block.coreset)
    return sums - sum_of_partners(rows, block, real) if block.paired else sums


def compare_coreset(embeddings: Tensor, labels: Tensor, real: PreparedReal, *, paired: bool) -> tuple[Tensor, Tensor]:
    """Compare EDM through the coreset with the exact one at these embeddings, [N, D] with labels [N].

    Returns:
        The relative error of the value, and the cosine between the two gradients.
    """
    with torch.enable_grad(), torch.autocast(embeddings.device.type, enabled=False):
        leaf = embeddings.detach().to(real.values.dtype).requires_grad_()
        block = real.block(labels, paired=paired, distances=True)
        return compare_sums(_distances_by_coreset(leaf, block, real), _distances(leaf, block), leaf)


def _scale_relative(r_e: float, mean_norm: float) -> float:
    if not 0 < mean_norm < math.inf:
        raise DirePlugError(
            f"r_e_relative: the mean norm of the real embeddings is {mean_norm}, which is no unit for r_e; "
            "embed the real images again, or leave r_e_relative off"
        )
    return r_e / mean_norm


def _check_names(variant: str, reduction: str, components: Sequence[str]) -> None:
    given = (("variant", variant, VARIANTS), ("reduction", reduction, REDUCTIONS))
    for field, name, names in (*given, *(("components", name, COMPONENTS) for name in components)):
        if name not in names:
            raise DirePlugError(f"{field}: '{name}' is none of {', '.join(names)}{nearest(name, names)}")
    if not components:
        raise DirePlugError("components: none is named; name at least one of cd, cdm, edm")


def _check_shapes(embeddings: Tensor, labels: Tensor, real: PreparedReal) -> None:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise DirePlugError(
            f"embeddings {list(embeddings.shape)} and labels {list(labels.shape)} don't fit; [N, D] and [N] are needed"
        )
    if embeddings.shape[1] != real.values.shape[1]:
        raise DirePlugError(
            f"embeddings have {embeddings.shape[1]} values, the real ones {real.values.shape[1]}; "
            "both must be of one network"
        )
    if embeddings.device != real.values.device:
        raise DirePlugError(
            f"embeddings are on {embeddings.device}, the real ones on {real.values.device}; move the real ones there"
        )
