"""The images of each arm side by side: a row a class, as students see them."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from dire_plug.compare.arms import Comparison
from dire_plug.files import make_folder
from dire_plug.stages.images import TENSORS, read_tensors
from dire_plug.stages.real_images import FULL

CLASSES, IMAGES = 10, 10
"""At most so many classes and images of each are drawn."""
INCHES = 3.2
"""Width of one arm's panel."""


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the first seed's images of every arm that was run into a PNG file; sets too large for one file aren't.

    Neither is the arm `full`, which has no images of its own.
    """
    arms = [arm for arm in comparison.runs if arm not in comparison.same and arm != FULL]
    if not arms or not all((comparison.runs[arm][0].folder.path / TENSORS).is_file() for arm in arms):
        return
    figure = Figure(figsize=(INCHES * len(arms), INCHES + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, arm in zip(figure.subplots(1, len(arms), squeeze=False)[0], arms, strict=True):
        axes.imshow(_grid(comparison.runs[arm][0].folder.path).permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(arm)
        axes.set_axis_off()
    make_folder(path.parent)
    figure.savefig(path, dpi=120)


def _grid(folder: Path) -> Tensor:
    """Return the images of a run as one, [3, H, W] in [0, 1], a row a class."""
    images, labels = read_tensors(folder)
    rows = [images[labels == label][:IMAGES] for label in torch.unique(labels)[:CLASSES]]
    grid: Tensor = make_grid(torch.cat(rows), nrow=len(rows[0]), padding=1, pad_value=1.0)
    return grid
