"""Subsample training images, class-balanced, and resize them."""

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError


def first_of_each_class(labels: Tensor, *, limit: int | None, classes: int) -> Tensor:
    """Return the indices of the first `limit / classes` images of each class, in the dataset's order.

    Args:
        labels: [N], int64.
        limit: the number of images in all; None keeps every one.
        classes: the number of classes.

    Returns:
        Tensor: ascending indices, int64.

    Raises:
        DirePlugError: `limit` is no multiple of the number of classes, or a class has too few images.
    """
    if limit is None:
        return torch.arange(len(labels))
    per_class = images_per_class(limit, classes)
    counts = torch.bincount(labels, minlength=classes)
    if counts.min() < per_class:
        label = int(counts.argmin())
        raise DirePlugError(
            f"limit: {limit} asks for {per_class} images of each class, but class {label} has {int(counts[label])}; "
            f"use at most {int(counts.min()) * classes}"
        )
    # stable, so that the chosen images are the first of each class in the dataset's order
    order = torch.argsort(labels, stable=True)
    starts = counts.cumsum(0) - counts
    chosen = order[(starts[:, None] + torch.arange(per_class)).flatten()]
    return chosen.sort().values


def images_per_class(limit: int, classes: int) -> int:
    """Return limit / classes; refuse a limit that the classes can't share equally."""
    if limit < classes or limit % classes:
        lower, upper = limit // classes * classes, (limit // classes + 1) * classes
        better = str(upper) if lower == 0 else f"{lower} or {upper}"
        raise DirePlugError(f"limit: {limit} images can't be shared equally by {classes} classes; use {better}")
    return limit // classes


def resize(pixels: Tensor, size: int | None) -> Tensor:
    """Resize uint8 images, [N, c, h, w], to `size` × `size`, bilinear with antialiasing; None keeps them."""
    if size is None or tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    # most images stay as they are, and torchvision takes seconds
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(pixels, [size, size], antialias=True)
    return resized
