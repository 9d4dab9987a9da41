"""Prepare real embeddings: sums and means of each class once for a network, their rows once for each batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from dire_plug.api.rows import Groups, group_rows, index_runs, unit_rows
from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.types import RealEmbeddings

CHUNK = 1 << 16
"""Real rows normalised at a time: bounds the memory of `prepare_real`."""


def prepare_real(real: RealEmbeddings) -> PreparedReal:
    """Compute once what terms need of the real embeddings of a network.

    Raises:
        DirePlugError: shapes don't fit, there is no row, or the labels don't ascend.
    """
    return PreparedReal(real)


@dataclass(frozen=True, eq=False)
class ClassBlock:
    """The C classes of a batch beside at most m real rows each.

    Attributes:
        groups: how the N rows of the batch fall into the classes.
        places: [C], where in what `PreparedReal` holds per class these classes stand.
        real_counts: [C], the number of real rows of each class.
        targets: [N, D], the sum of the real directions that CDM compares each row with.
        means: [C, D], means of the real rows.
        real: [C, m, D + 2], the real rows as `extend_real` makes them; None without EDM.
        excluded: [C, n, m], True where a pair holds padding; None where nothing is padded, and without EDM.
        paired: whether the i-th synthetic and the i-th real row of a class are no pair.
    """

    groups: Groups
    places: Tensor
    real_counts: Tensor
    targets: Tensor
    means: Tensor
    real: Tensor | None
    excluded: Tensor | None
    paired: bool


class PreparedReal:
    """Real embeddings of one network with the sums and means of each class, and the block of the last batch.

    Attributes:
        values: [M, D], as given.
        classes: [K], ascending; the classes that have embeddings.
        nonnegative: whether no value is negative.
        mean_norm: the mean of the M norms, the unit of a relative r_e.
        coreset: as given.
    """

    def __init__(self, real: RealEmbeddings) -> None:
        _check_real(real)
        self.values = real.values.detach()
        # the labels ascend, so consecutive runs are the classes, and no sort is needed
        self.classes, owner, self._counts = torch.unique_consecutive(
            real.labels, return_inverse=True, return_counts=True
        )
        self._starts = self._counts.cumsum(0) - self._counts
        self._directions = self.values.new_zeros(len(self.classes), self.values.shape[1])
        # rows are summed in chunks: normalised copies of a million rows would not fit beside them
        self._means = torch.zeros_like(self._directions)
        norms = 0.0
        for rows, classes in zip(torch.split(self.values, CHUNK), torch.split(owner, CHUNK), strict=True):
            self._directions.index_add_(0, classes, unit_rows(rows))
            self._means.index_add_(0, classes, rows)
            norms += len(rows) * float(torch.linalg.vector_norm(rows, dim=1).mean())
        self._means /= self._counts.unsqueeze(1)
        self.nonnegative = bool((self.values >= 0).all())
        self.mean_norm = norms / len(self.values)
        self.coreset = real.coreset
        self._block: ClassBlock | None = None
        self._block_labels = (real.labels, real.labels, -1)  # as given, a copy, the version of its content

    def block(self, labels: Tensor, *, paired: bool, distances: bool) -> ClassBlock:
        """Return the arrangement of a batch with these labels; it is kept until the labels change.

        Args:
            labels: [N].
            paired: leave out the i-th synthetic row with the i-th real row of its class, as the release does.
            distances: also hold the centred real rows that EDM needs.

        Raises:
            DirePlugError: a class has no real embedding.
        """
        block = self._block
        if (
            block is None
            or (block.paired, block.real is not None) != (paired, distances)
            or not self._are_block_labels(labels)
        ):
            block = self._block = self._arrange(labels, paired=paired, distances=distances)
            self._block_labels = (labels, labels.clone(), labels._version)
        return block

    def _are_block_labels(self, labels: Tensor) -> bool:
        given, copy, version = self._block_labels
        # values are compared only where it isn't the same tensor, unwritten since: that waits for the GPU
        return (labels is given and labels._version == version) or torch.equal(labels, copy)

    def _arrange(self, labels: Tensor, *, paired: bool, distances: bool) -> ClassBlock:
        groups = group_rows(labels)
        found = self._find(groups.classes)
        counts, means = self._counts[found], self._means[found]
        targets = self._directions[found][groups.owner]
        if paired:
            # the release zeroes the diagonal of the rectangular similarity matrix; taking the partner off is the same
            targets = targets - self._partners(groups, found)
        real = excluded = None
        if distances:
            index, present = index_runs(self._starts[found], counts, rows=len(self.values))
            real = extend_real(self.values, index, present, means=means)
            excluded = _exclude_padding(groups, present)
        return ClassBlock(groups, found, counts, targets, means, real, excluded, paired)

    @cached_property
    def spreads(self) -> Tensor:
        """The mean distance of the rows of each class to their mean, [K]."""
        return torch.stack([torch.linalg.vector_norm(rows - rows.mean(0), dim=1).mean() for rows in self._by_class()])

    @cached_property
    def pair_distances(self) -> Tensor:
        """The mean distance between two different rows of each class, [K]; 0 where it has one row."""
        return torch.stack([_mean_distance(rows - rows.mean(0)) for rows in self._by_class()])

    def _by_class(self) -> tuple[Tensor, ...]:
        return torch.split(self.values, self._counts.tolist())

    def _find(self, classes: Tensor) -> Tensor:
        """Return, [C], which of the prepared classes these are."""
        # clamped, so that an unknown class beyond the last one can be compared below instead of raising IndexError
        found = torch.searchsorted(self.classes, classes).clamp_(max=len(self.classes) - 1)
        missing = classes[self.classes[found] != classes]
        if len(missing):
            raise DirePlugError(
                f"labels: no real embeddings of class {', '.join(map(str, missing.tolist()))}; "
                "embed real images of every class that is synthesized"
            )
        return found

    def _partners(self, groups: Groups, found: Tensor) -> Tensor:
        """Return, [N, D], the direction of the real row at each row's own place in its class; 0 where there is none."""
        rows, paired = self._partner_rows(groups, found)
        return torch.where(paired.unsqueeze(1), unit_rows(rows), 0)

    def partners(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """Return the real row at each row's own place in its class, [N, D], and whether there is one, [N]."""
        return self._partner_rows(groups, self._find(groups.classes))

    def _partner_rows(self, groups: Groups, found: Tensor) -> tuple[Tensor, Tensor]:
        own = found[groups.owner]
        # the clamp only guards the gather; rows past a class's end are masked by the second result
        rows = self.values[(self._starts[own] + groups.rank).clamp_(max=len(self.values) - 1)]
        return rows, groups.rank < self._counts[own]


def extend_real(values: Tensor, index: Tensor, present: Tensor, *, means: Tensor) -> Tensor:
    """Return, [C, m, D + 2], the real rows r of each class less its mean, ‖r‖² and 1; zeros in the padding.

    Args:
        values: [M, D], all real rows.
        index: [C, m], which of them are the rows of each class.
        present: [C, m], False in the padding.
        means: [C, D].
    """
    extended = values.new_empty(*index.shape, values.shape[1] + 2)
    rows = extended[..., :-2]
    # written into its place: a concatenation would hold the real rows twice
    torch.sub(values[index], means.unsqueeze(1), out=rows)
    torch.linalg.vector_norm(rows, dim=2, out=extended[..., -2]).square_()
    extended[..., -1] = 1
    return extended.masked_fill_(~present.unsqueeze(2), 0)


def _mean_distance(rows: Tensor) -> Tensor:
    """Return the mean distance between two different rows of [m, D], a scalar; 0 where there is one."""
    # parts of rows keep the block of distances at about 16 million values
    sums = [torch.cdist(part, rows).sum() for part in torch.split(rows, max(1, (CHUNK << 8) // len(rows)))]
    return torch.stack(sums).sum() / max(1, len(rows) * (len(rows) - 1))


def _exclude_padding(groups: Groups, present: Tensor) -> Tensor | None:
    """Return, [C, n, m], True where the row or the real row is padding; None where nothing is padded."""
    filled = groups.here
    # one wait for the device, once per batch's labels; without padding every step saves a masked copy
    if bool(filled.all()) and bool(present.all()):
        return None
    return ~(filled.unsqueeze(2) & present.unsqueeze(1))


def _check_real(real: RealEmbeddings) -> None:
    values, labels = real.values, real.labels
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(values):
        raise DirePlugError(
            f"real embeddings {list(values.shape)} and labels {list(labels.shape)} don't fit; "
            "[M, D] and [M] are needed, M ≥ 1"
        )
    if not values.is_floating_point():
        raise DirePlugError(f"real embeddings are {values.dtype}; floating point is needed")
    if bool((labels[1:] < labels[:-1]).any()):
        raise DirePlugError("real embeddings: the labels don't ascend; sort the rows by class, stably")
