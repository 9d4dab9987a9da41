"""What terms over pairs of embeddings work on: the rows of each class, synthetic and real, padded to equal numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dire_plug.errors import DirePlugError
from dire_plug.regularizers.distance import COINCIDING
from dire_plug.regularizers.rows import squared_distances

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.regularizers.real import PreparedReal


@dataclass(frozen=True, eq=False)
class ClassRows:
    """The C classes of a batch, at most n synthetic and m real rows each, less the mean of the class's real rows.

    Attributes:
        made: [C, n, D], synthetic rows with their graph; zeros in the padding.
        here: [C, n], False in the padding.
        real: [C, m, D]; zeros in the padding.
        real_here: [C, m], False in the padding.
        means: [C, 1, D], what was taken off.
        places: [C], where in the per-class values of the prepared real rows these classes stand.
    """

    made: Tensor
    here: Tensor
    real: Tensor
    real_here: Tensor
    means: Tensor
    places: Tensor

    @property
    def made_whole(self) -> Tensor:
        """The synthetic rows as the network gives them, [C, n, D]; zeros in the padding."""
        return self.made + self.means * self.here.unsqueeze(2)

    @property
    def real_whole(self) -> Tensor:
        """The real rows likewise, [C, m, D]."""
        return self.real + self.means * self.real_here.unsqueeze(2)

    @property
    def counts(self) -> Tensor:
        """The number of synthetic rows of each class, [C]."""
        return self.here.sum(1)

    @property
    def real_counts(self) -> Tensor:
        """The number of real rows of each class, [C]."""
        return self.real_here.sum(1)


def arrange(embeddings: Tensor, labels: Tensor, real: PreparedReal) -> ClassRows:
    """Arrange embeddings [N, D] with labels [N] by class beside the real rows; differentiable in `embeddings`.

    Raises:
        DirePlugError: a class has no real embedding, or the widths differ.
    """
    if embeddings.shape[1] != real.values.shape[1]:
        raise DirePlugError(
            f"embeddings have {embeddings.shape[1]} values, the real ones {real.values.shape[1]}; "
            "take those of one network"
        )
    block = real.block(labels, paired=False, distances=True)
    assert block.real is not None
    groups, means = block.groups, block.means.unsqueeze(1)
    here = groups.here
    made = (groups.pad(embeddings.to(real.values.dtype)) - means) * here.unsqueeze(2)
    return ClassRows(made, here, block.real[..., :-2], block.real[..., -1] > 0, means, real.places(groups.classes))


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Return, [C, n, m], the distances between [C, n, D] and [C, m, D]; a pair that coincides has no gradient."""
    squared = squared_distances(first, second)
    apart = squared > COINCIDING * torch.finfo(first.dtype).eps * first.detach().square().sum(2, keepdim=True)
    return torch.where(apart, squared.where(apart, 1).sqrt(), 0)


def off_diagonal(here: Tensor) -> Tensor:
    """Return, [C, n, n], whether a place holds two different rows, none of them padding."""
    both = here.unsqueeze(2) & here.unsqueeze(1)
    return both & ~torch.eye(here.shape[1], dtype=torch.bool, device=here.device)
