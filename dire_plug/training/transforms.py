"""What networks see of images: augmented and mixed while they learn, plain while they are tested or embed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from dire_plug.data import Split
from dire_plug.data.augmentation.batch import crop_flip, cutmix, enlarge_and_crop, mixup, normalise, resized_crop_flip
from dire_plug.data.augmentation.rand_augment import rand_augment
from dire_plug.models.checkpoint import Network
from dire_plug.training.students import unmixed

BATCH = 500
"""Images in a batch without gradients."""
LEAST_SCALE = 0.08
"""The least share of an image's area that `resized_crop_flip` takes (torchvision's number)."""


def training_view(
    network: Network,
    *,
    augmentation: str,
    padding: int,
    least_scale: float = LEAST_SCALE,
    before: Callable[[Tensor, Generator], Tensor] | None = None,
) -> Callable[[Tensor, Generator], Tensor]:
    """Return what turns stored images, uint8 or float in [0, 1], into an augmented batch, normalised for `network`.

    Args:
        augmentation: none, crop, crop_flip or resized_crop_flip; done before normalising, so padding is black.
        padding: pixels on each side before cropping.
        least_scale: the least share of the area of a resized crop.
        before: what is done to stored images before all that; None does nothing.
    """

    def view(images: Tensor, generator: Generator) -> Tensor:
        if before is not None:
            images = before(images, generator)
        if augmentation == "resized_crop_flip":
            images = resized_crop_flip(images, generator=generator, scale=(least_scale, 1.0))
        elif augmentation != "none":
            flip = augmentation == "crop_flip"
            images = crop_flip(images, padding=padding, flip=flip, generator=generator)
        return normalise(images, network.mean, network.std)

    return view


def rand_augmenting(*, operations: int, magnitude: float, std: float) -> Callable[[Tensor, Generator], Tensor]:
    """Return what changes stored images by RandAugment: see `data.rand_augment.rand_augment`."""
    return lambda images, generator: rand_augment(
        images, operations=operations, magnitude=magnitude, std=std, generator=generator
    )


def mixing(
    *, mixup_alpha: float = 0, cutmix_alpha: float = 0
) -> Callable[[Tensor, Generator], tuple[Tensor, Tensor, float]]:
    """Return what mixes an augmented batch: see `protocols.students.Mix`. One λ serves a batch; 0 mixes nothing."""
    if cutmix_alpha:
        return lambda images, generator: cutmix(images, alpha=cutmix_alpha, generator=generator)
    if mixup_alpha:
        return lambda images, generator: mixup(images, alpha=mixup_alpha, generator=generator)
    return unmixed


def plain_view(network: Network) -> Callable[[Tensor], Tensor]:
    """Return what only normalises images, uint8 or float in [0, 1], for `network`."""
    return partial(normalise, mean=network.mean, std=network.std)


def plain_batches(
    split: Split, network: Network, *, device: torch.device, enlarge: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images normalised for `network`, labels) of a split in its own order, on `device`, 500 at a time.

    Args:
        enlarge: whether images are enlarged by 8/7 before, and cropped.
    """
    view = plain_view(network)
    for images, labels in raw_batches(split, device=device):
        yield view(enlarge_and_crop(images) if enlarge else images), labels


def raw_batches(split: Split, *, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images as they are, uint8, labels) of a split in its own order, on `device`, 500 at a time."""
    for indices in torch.split(torch.arange(len(split)), BATCH):
        yield split.images(indices).to(device), split.labels[indices].to(device)
