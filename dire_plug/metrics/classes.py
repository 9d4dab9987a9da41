"""Sort rows by class, and put several classes at a time into padded blocks, so that no metric loops over classes.

Labels are grouped on the host: they come from files, and the host would wait for a device that groups them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Classes:
    """The rows of each class, on the CPU.

    Attributes:
        labels: [C], ascending.
        counts: [C]: rows of each; 0 where only another set has the class.
        owner: [N]: which class each row belongs to, 0 … C − 1.
    """

    labels: Tensor
    counts: Tensor
    owner: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> Classes:
        """Group labels, [N], in any order; for labels on a device, the host waits once."""
        found, owner, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
        return cls(found, counts, owner)

    def among(self, labels: Tensor) -> Classes:
        """Return the same rows with all classes of `labels`, [C] ascending, which hold those that are here."""
        places = torch.searchsorted(labels, self.labels)
        counts = torch.zeros_like(labels, dtype=torch.int64).index_copy_(0, places, self.counts)
        return Classes(labels, counts, places[self.owner])

    def blocks(self, cost: Callable[[int], int], most: int) -> Iterator[Tensor]:
        """Yield all classes, those of like size together: where in `labels` they stand, [G].

        Args:
            cost: rows of the largest class of a block → numbers that one class takes in it.
            most: numbers that a block may hold; one class is a block in any case.
        """
        order = torch.argsort(self.counts, descending=True, stable=True)
        start = 0
        while start < len(order):
            each = max(1, most // cost(max(1, int(self.counts[order[start]]))))
            yield order[start : start + each]
            start += each

    def members(self, some: Tensor, device: torch.device) -> Tensor:
        """Return the rows of some classes on `device`, [G, rows of the largest], in their order; −1 fills."""
        counts = self.counts[some]
        within = torch.arange(max(1, int(counts.max())))
        rows = self._order[(self._starts[some].unsqueeze(1) + within).clamp_(max=len(self._order) - 1)]
        return torch.where(within < counts.unsqueeze(1), rows, -1).to(device, non_blocking=True)

    def ranks(self) -> Tensor:
        """Return how many rows of its class stand before each row, [N]."""
        within = torch.arange(len(self._order)) - self._starts.repeat_interleave(self.counts)
        return torch.empty_like(within).index_copy_(0, self._order, within)

    @cached_property
    def _order(self) -> Tensor:
        return torch.argsort(self.owner, stable=True)

    @cached_property
    def _starts(self) -> Tensor:
        return self.counts.cumsum(0) - self.counts
