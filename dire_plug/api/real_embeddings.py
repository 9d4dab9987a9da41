"""Prepare real embeddings: sums and means of each class once for a network, their rows once for each batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from dire_plug.api.rows import Groups, group_rows, index_runs, labels_on_host, unit_rows, upload
from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.types import Coreset, RealEmbeddings

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
        coreset: the centres of these classes; None where the real embeddings have none.
    """

    groups: Groups
    places: Tensor
    real_counts: Tensor
    targets: Tensor
    means: Tensor
    real: Tensor | None
    excluded: Tensor | None
    paired: bool
    coreset: CoresetBlock | None


@dataclass(frozen=True, eq=False)
class CoresetBlock:
    """The centres of the C classes of a batch, at most k each, less the mean of each class's centres.

    Attributes:
        centres: [C, k, D].
        means: [C, 1, D], what was taken off.
        variances, weights: [C, k], of the centres.
        present: [C, k], False in the padding.
    """

    centres: Tensor
    means: Tensor
    variances: Tensor
    weights: Tensor
    present: Tensor


class PreparedReal:
    """Real embeddings of one network with the sums and means of each class, and the block of the last batch.

    Attributes:
        values: [M, D], as given.
        classes: [K], ascending; the classes that have embeddings.
        coreset: as given.
    """

    def __init__(self, real: RealEmbeddings) -> None:
        labels = labels_on_host(real.labels)
        _check_real(real, labels)
        self.values = real.values.detach()
        device = self.values.device
        # the labels ascend, so consecutive runs are the classes, and no sort is needed
        self._host_classes, owner, self._host_counts = torch.unique_consecutive(
            labels, return_inverse=True, return_counts=True
        )
        self.classes, self._counts = upload(self._host_classes, device), upload(self._host_counts, device)
        self._starts = self._counts.cumsum(0) - self._counts
        self._directions = self.values.new_zeros(len(self.classes), self.values.shape[1])
        # rows are summed in chunks: normalised copies of a million rows would not fit beside them
        self._means = torch.zeros_like(self._directions)
        owner = upload(owner, device)
        for rows, classes in zip(torch.split(self.values, CHUNK), torch.split(owner, CHUNK), strict=True):
            self._directions.index_add_(0, classes, unit_rows(rows))
            self._means.index_add_(0, classes, rows)
        self._means /= self._counts.unsqueeze(1)
        self.coreset = real.coreset
        self._block: ClassBlock | None = None
        self._block_labels = (labels, -1, labels)  # as given, the version of its content, a copy on the host

    @cached_property
    def nonnegative(self) -> bool:
        """Whether no value is negative; the first use waits for the device."""
        return bool((self.values >= 0).all())

    @cached_property
    def mean_norm(self) -> float:
        """The mean of the M norms, the unit of a relative r_e; the first use waits for the device."""
        parts = torch.split(self.values, CHUNK)
        return sum(len(rows) * float(torch.linalg.vector_norm(rows, dim=1).mean()) for rows in parts) / len(self.values)

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
            self._block_labels = (labels, labels._version, labels_on_host(labels).clone())
        return block

    def _are_block_labels(self, labels: Tensor) -> bool:
        given, version, copy = self._block_labels
        # values are compared only where it isn't the same tensor, unwritten since
        return (labels is given and labels._version == version) or torch.equal(labels_on_host(labels), copy)

    def _arrange(self, labels: Tensor, *, paired: bool, distances: bool) -> ClassBlock:
        groups = group_rows(labels)
        host = self._find(groups)
        found, counts_here = upload(host, self.values.device), self._host_counts[host]
        counts, means = self._counts[found], self._means[found]
        targets = self._directions[found][groups.owner]
        if paired:
            # the release zeroes the diagonal of the rectangular similarity matrix; taking the partner off is the same
            targets = targets - self._partners(groups, found)
        real = excluded = None
        if distances:
            width = int(counts_here.max())
            index, present = index_runs(self._starts[found], counts, rows=len(self.values), width=width)
            real = extend_real(self.values, index, present, means=means)
            # without padding every step saves a masked copy
            if bool((groups.host_counts < groups.width).any()) or bool((counts_here < width).any()):
                excluded = ~(groups.here.unsqueeze(2) & present.unsqueeze(1))
        coreset = None if self.coreset is None else _arrange_coreset(self.coreset, groups)
        return ClassBlock(groups, found, counts, targets, means, real, excluded, paired, coreset)

    @cached_property
    def spreads(self) -> Tensor:
        """The mean distance of the rows of each class to their mean, [K]."""
        return torch.stack([torch.linalg.vector_norm(rows - rows.mean(0), dim=1).mean() for rows in self._by_class()])

    @cached_property
    def pair_distances(self) -> Tensor:
        """The mean distance between two different rows of each class, [K]; 0 where it has one row."""
        return torch.stack([_mean_distance(rows - rows.mean(0)) for rows in self._by_class()])

    def _by_class(self) -> tuple[Tensor, ...]:
        return torch.split(self.values, self._host_counts.tolist())

    def _find(self, groups: Groups) -> Tensor:
        """Return, [C] on the CPU, which of the prepared classes these are."""
        found, missing = _find_classes(self._host_classes, groups.host_classes)
        if missing:
            raise DirePlugError(
                f"labels: no real embeddings of class {', '.join(map(str, missing))}; "
                "embed real images of every class that is synthesized"
            )
        return found

    def _partners(self, groups: Groups, found: Tensor) -> Tensor:
        """Return, [N, D], the direction of the real row at each row's own place in its class; 0 where there is none."""
        rows, paired = self._partner_rows(groups, found)
        return torch.where(paired.unsqueeze(1), unit_rows(rows), 0)

    def partners(self, block: ClassBlock) -> tuple[Tensor, Tensor]:
        """Return the real row at each row's own place in its class, [N, D], and whether there is one, [N]."""
        return self._partner_rows(block.groups, block.places)

    def _partner_rows(self, groups: Groups, found: Tensor) -> tuple[Tensor, Tensor]:
        own = found[groups.owner]
        # the clamp only guards the gather; rows past a class's end are masked by the second result
        rows = self.values[(self._starts[own] + groups.rank).clamp_(max=len(self.values) - 1)]
        return rows, groups.rank < self._counts[own]


def _arrange_coreset(coreset: Coreset, groups: Groups) -> CoresetBlock:
    """Return the centres of the classes of a batch.

    Raises:
        DirePlugError: a class has no centre.
    """
    known, counts = torch.unique_consecutive(labels_on_host(coreset.labels), return_counts=True)
    found, missing = _find_classes(known, groups.host_classes)
    if missing:
        raise DirePlugError(f"real.coreset: no centre of class {', '.join(map(str, missing))}")
    starts, here, width = (counts.cumsum(0) - counts)[found], counts[found], int(counts[found].max())
    device = coreset.centres.device
    index, present = index_runs(upload(starts, device), upload(here, device), rows=len(coreset.labels), width=width)
    means = (coreset.centres[index] * present.unsqueeze(2)).sum(1, keepdim=True) / present.sum(1)[:, None, None]
    # centred on the class for the digits, as in the exact sum
    return CoresetBlock(
        coreset.centres[index] - means, means, coreset.variances[index], coreset.weights[index], present
    )


def _find_classes(known: Tensor, classes: Tensor) -> tuple[Tensor, list[int]]:
    """Return which of the `known` classes, ascending, `classes` are, and those that aren't known; on the CPU."""
    # clamped, so that an unknown class beyond the last one can be compared below instead of raising IndexError
    found = torch.searchsorted(known, classes).clamp_(max=len(known) - 1)
    return found, classes[known[found] != classes].tolist()


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


def _check_real(real: RealEmbeddings, labels: Tensor) -> None:
    values = real.values
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(values):
        raise DirePlugError(
            f"real embeddings {list(values.shape)} and labels {list(labels.shape)} don't fit; "
            "[M, D] and [M] are needed, M ≥ 1"
        )
    if not values.is_floating_point():
        raise DirePlugError(f"real embeddings are {values.dtype}; floating point is needed")
    if bool((labels[1:] < labels[:-1]).any()):
        raise DirePlugError("real embeddings: the labels don't ascend; sort the rows by class, stably")
