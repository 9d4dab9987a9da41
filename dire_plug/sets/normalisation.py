"""Convert stored images to pixels, from the space that their numbers are in.

Files of images are pixels. Tensors that a loop saved are often what its network saw: normalised (MTT, DM), or whitened
(MTT with `--zca`). Such values have no bounds; as pixels they are cut off at 0 and 1.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dire_plug.data.augmentation.batch import normalise
from dire_plug.data.augmentation.zca import fit
from dire_plug.data.dataset import STATISTICS, Dataset, Triple
from dire_plug.errors import DirePlugError, nearest

SLACK = 1e-4
"""How far rounding errors may leave [0, 1]."""


@dataclass(frozen=True)
class Space:
    """The space of an image's numbers, with mean and std where it is normalised."""

    kind: Literal["pixels", "normalised", "zca"]
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)


def read_space(kind: str | None, normalised_by: str | None) -> Space | None:
    """Return the space that a user names; None where none is named, so that only pixels fit.

    Args:
        normalised_by: a dataset of `STATISTICS`, or six numbers by comma: means, then standard deviations.

    Raises:
        DirePlugError: the two contradict each other, one is missing, or the numbers can't be used.
    """
    if normalised_by is None:
        if kind == "normalised":
            raise DirePlugError(
                "--space normalised: by what? Add --normalised-by with a dataset "
                f"({', '.join(STATISTICS)}) or with three means and three standard deviations by comma"
            )
        return None if kind is None else Space("zca" if kind == "zca" else "pixels")
    if kind not in (None, "normalised"):
        raise DirePlugError(f"--normalised-by contradicts --space {kind}; leave one of them out")
    if normalised_by in STATISTICS:
        return Space("normalised", *STATISTICS[normalised_by])
    return _read_numbers(normalised_by)


def _read_numbers(text: str) -> Space:
    try:
        m1, m2, m3, s1, s2, s3 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DirePlugError(
            f"--normalised-by {text}: neither a dataset whose statistics are known{nearest(text, STATISTICS)} "
            f"({', '.join(STATISTICS)}) nor six numbers by comma: three means, three standard deviations"
        ) from error
    if min(s1, s2, s3) <= 0:
        raise DirePlugError(f"--normalised-by {text}: a standard deviation must be greater than 0")
    return Space("normalised", (m1, m2, m3), (s1, s2, s3))


def to_pixels(images: Tensor, space: Space, dataset: Dataset) -> tuple[Tensor, float]:
    """Return float images of `space` as pixels in [0, 1], [n, 3, h, w], and the share of values that were cut off.

    Args:
        dataset: whose training images the whitening is fitted on, where the space is `zca`.
    """
    pixels = images
    if space.kind == "normalised":
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (space.mean, space.std))
        pixels = images * std + mean
    elif space.kind == "zca":
        train = dataset.train.images().cpu()
        pixels = fit(normalise(train, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))).invert(images)
    # measured before clipping, for the note
    outside = (pixels < -SLACK) | (pixels > 1 + SLACK)
    return pixels.clamp(0, 1), float(outside.double().mean())


def are_pixels(images: Tensor) -> bool:
    """Return whether float images lie in [0, 1]."""
    return float(images.min()) >= -SLACK and float(images.max()) <= 1 + SLACK
