"""Transform images for networks: augmented and mixed for training, only normalised for tests and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from dire_plug.data import Split
from dire_plug.data.augmentation.batch import (
    crop_flip,
    cutmix,
    enlarge_and_crop,
    mixup,
    no_crop,
    normalise,
    resized_crop_flip,
    unmixed,
)
from dire_plug.data.augmentation.draws import Augmentation, Shape, upload
from dire_plug.models.checkpoint import Network
from dire_plug.training.students import EvalTransform

BATCH = 500
"""Images in a batch without gradients."""
LEAST_SCALE = 0.08
"""The least share of an image's area that `resized_crop_flip` takes (torchvision's number)."""


def train_transform(
    network: Network,
    *,
    augmentation: str,
    padding: int,
    least_scale: float = LEAST_SCALE,
    before: Augmentation | None = None,
) -> Augmentation:
    """Return what makes an augmented batch, normalised for `network`, of stored images, uint8 or float in [0, 1].

    Args:
        augmentation: none, crop, crop_flip or resized_crop_flip; done before normalising, so padding is black.
        padding: pixels on each side before cropping.
        least_scale: the least share of the area of a resized crop.
        before: a change of the stored images that comes first; None: none does.
    """
    crop = cropping(augmentation, padding=padding, least_scale=least_scale)

    def draw(shape: Shape, generator: Generator) -> tuple[object, object]:
        return None if before is None else before.draw(shape, generator), crop.draw(shape, generator)

    def apply(images: Tensor, drawn: tuple[object, object]) -> Tensor:
        changed = images if before is None else before.apply(images, drawn[0])
        return normalise(crop.apply(changed, drawn[1]), network.mean, network.std)

    return Augmentation(draw, apply)


def cropping(augmentation: str, *, padding: int, least_scale: float = LEAST_SCALE) -> Augmentation:
    """Return the crop of `train_transform`, which draws `Crops`, of images that aren't normalised yet."""
    if augmentation == "resized_crop_flip":
        return resized_crop_flip(scale=(least_scale, 1.0))
    if augmentation == "none":
        return no_crop()
    return crop_flip(padding=padding, flip=augmentation == "crop_flip")


def mixing(*, mixup_alpha: float = 0, cutmix_alpha: float = 0) -> Augmentation:
    """Return what mixes an augmented batch; it draws `Mixed`. A batch has one λ; 0 mixes nothing."""
    # at most one of the two isn't 0
    if cutmix_alpha:
        return cutmix(cutmix_alpha)
    return mixup(mixup_alpha) if mixup_alpha else unmixed()


def eval_transform(network: Network) -> EvalTransform:
    """Return the transform that only normalises images, uint8 or float in [0, 1], for `network`."""
    return partial(normalise, mean=network.mean, std=network.std)


def plain_batches(
    split: Split, network: Network, *, device: torch.device, enlarge: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images normalised for `network`, labels) of a split in its own order, on `device`, 500 at a time.

    Args:
        enlarge: whether images are enlarged by 8/7 before, and cropped.
    """
    transform = eval_transform(network)
    for images, labels in raw_batches(split, device=device):
        yield transform(enlarge_and_crop(images) if enlarge else images), labels


def raw_batches(split: Split, *, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images as they are, uint8, labels) of a split in its own order, on `device`, 500 at a time."""
    # by index: a split may decode files, and holds no tensor of all images
    for indices in torch.split(torch.arange(len(split)), BATCH):
        yield upload(split.images(indices), device), upload(split.labels[indices], device)
