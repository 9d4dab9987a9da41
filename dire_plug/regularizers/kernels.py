"""Kernels between the rows of each class: cosine, and the radial basis function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dire_plug.regularizers.rows import squared_distances, unit_rows

if TYPE_CHECKING:
    from torch import Tensor


def cosine_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return, [C, n, m], the cosines between [C, n, D] and [C, m, D]; 0 with a row of zeros."""
    units = [unit_rows(rows.flatten(0, 1)).view_as(rows) for rows in (first, second)]
    return torch.bmm(units[0], units[1].transpose(1, 2))


def rbf_kernel(first: Tensor, second: Tensor, *, width: Tensor) -> Tensor:
    """Return, [C, n, m], exp(−‖e − x‖² / 2w²) with the width w of each class, [C]; 1 stands for a width of 0."""
    scale = 2 * torch.where(width > 0, width, 1).square()
    return (-squared_distances(first, second) / scale[:, None, None]).exp()
