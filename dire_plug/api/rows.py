"""Normalise rows of embeddings, group them by class, pad the classes to equal numbers."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

COINCIDING = 16
"""D² up to this many rounding errors of ‖x‖² is rounding: it counts as 0."""


@dataclass(frozen=True, eq=False)
class Groups:
    """How the N rows of a batch fall into C classes of at most n rows.

    Attributes:
        classes: [C], ascending.
        counts: [C], the number of rows of each class.
        owner: [N], the index of the class of each row.
        rank: [N], how many earlier rows are of the same class.
        width: n.
        host_classes, host_counts: `classes` and `counts` on the CPU.
    """

    classes: Tensor
    counts: Tensor
    owner: Tensor
    rank: Tensor
    width: int
    host_classes: Tensor
    host_counts: Tensor

    @property
    def here(self) -> Tensor:
        """Whether a place of the padded rows holds one, [C, n]."""
        return torch.arange(self.width, device=self.counts.device) < self.counts.unsqueeze(1)

    def sum_rows(self, rows: Tensor) -> Tensor:
        """Sum [N, …] within classes to [C, …]."""
        return rows.new_zeros(len(self.classes), *rows.shape[1:]).index_add(0, self.owner, rows)

    def pad(self, rows: Tensor) -> Tensor:
        """Arrange [N, D] as [C, n, D], padded with zeros."""
        shape = (len(self.classes), self.width, rows.shape[1])
        flat = rows.new_zeros(shape[0] * shape[1], shape[2])
        return flat.index_copy(0, self.owner * self.width + self.rank, rows).view(shape)


_ON_HOST: MutableMapping[Tensor, tuple[int, Tensor]] = WeakIdKeyDictionary()
"""Labels on a device → (the version of their content, a copy on the CPU)."""


def labels_on_host(labels: Tensor) -> Tensor:
    """Return `labels`, [N], on the CPU: themselves where they are there, else a copy that is made once.

    How rows fall into classes decides shapes, which the host has to know. Reading labels back in every step would make
    it wait for the device.
    """
    if labels.device.type == "cpu":
        return labels
    # by version too: a script may write into its tensor
    if labels not in _ON_HOST or _ON_HOST[labels][0] != labels._version:
        tell_labels(labels, labels.detach().cpu())
    return _ON_HOST[labels][1]


def tell_labels(labels: Tensor, host: Tensor) -> Tensor:
    """Tell `labels_on_host` the values of labels that the host knew before the device; return `labels`."""
    if labels.device.type != "cpu":
        _ON_HOST[labels] = (labels._version, host)
    return labels


def upload(host: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor of the CPU on `device`, without waiting for what the device still has to do."""
    # Apple's devices would read the memory after it was freed
    return host if device.type == "cpu" else host.to(device, non_blocking=device.type != "mps")


def group_rows(labels: Tensor) -> Groups:
    """Group rows by their `labels`, [N], N ≥ 1, in any order."""
    classes, owner, counts = torch.unique(labels_on_host(labels), return_inverse=True, return_counts=True)
    device, rank = labels.device, _rank_rows(owner, counts)
    return Groups(
        upload(classes, device),
        upload(counts, device),
        upload(owner, device),
        upload(rank, device),
        width=int(counts.max()),
        host_classes=classes,
        host_counts=counts,
    )


def _rank_rows(owner: Tensor, counts: Tensor) -> Tensor:
    # stable: the i-th row of a class in the batch stays its i-th, which decides the partners
    order = owner.argsort(stable=True)
    first = (counts.cumsum(0) - counts)[owner[order]]
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=owner.device) - first)


def index_runs(starts: Tensor, counts: Tensor, *, rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where the rows of each class stand in a table of `rows` rows that is sorted by class.

    Args:
        starts, counts: [C], the first row of each class and the number of its rows.
        width: m, the largest count, which the host has to know.

    Returns:
        [C, m] indices, valid ones also in the padding, and [C, m], False in the padding.
    """
    steps = torch.arange(width, device=starts.device)
    index = (starts.unsqueeze(1) + steps).clamp_(max=rows - 1)
    return index, steps < counts.unsqueeze(1)


def unit_rows(rows: Tensor) -> Tensor:
    """Return the rows of [N, D] at length 1; a row of zeros stays as it is, with zero gradient."""
    # two `where`s: dividing by 0 in the branch not taken would still put NaN into the gradient
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    positive = norms > 0
    return torch.where(positive, rows / torch.where(positive, norms, 1), 0)


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return, [C, n, m], the squared distances between [C, n, D] and [C, m, D], by one product; at least 0."""
    norms = first.square().sum(2, keepdim=True), second.square().sum(2, keepdim=True)
    # cancellation may make this slightly negative, and the square root of that is NaN
    return (norms[0] + norms[1].transpose(1, 2) - 2 * torch.bmm(first, second.transpose(1, 2))).clamp_min(0)
