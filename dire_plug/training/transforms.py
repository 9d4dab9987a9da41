"""Transform images for networks: augmented and mixed for training, only normalised for tests and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from dire_plug.data import Split
from dire_plug.data.augmentation.batch import crop_flip, cutmix, enlarge_and_crop, mixup, normalise, resized_crop_flip
from dire_plug.data.augmentation.rand_augment import rand_augment
from dire_plug.data.reading import read_batches
from dire_plug.models.checkpoint import Network
from dire_plug.training.students import EvalTransform, Mix, TrainTransform, unmixed

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
    before: TrainTransform | None = None,
) -> TrainTransform:
    """Return what makes an augmented batch, normalised for `network`, of stored images, uint8 or float in [0, 1].

    Args:
        augmentation: none, crop, crop_flip or resized_crop_flip; done before normalising, so padding is black.
        padding: pixels on each side before cropping.
        least_scale: the least share of the area of a resized crop.
        before: a transform of the stored images that comes first; None: none does.
    """

    def transform(images: Tensor, generator: Generator) -> Tensor:
        if before is not None:
            images = before(images, generator)
        # pixels are cropped before they are normalised, so padding is black
        if augmentation == "resized_crop_flip":
            images = resized_crop_flip(images, generator=generator, scale=(least_scale, 1.0))
        elif augmentation != "none":
            flip = augmentation == "crop_flip"
            images = crop_flip(images, padding=padding, flip=flip, generator=generator)
        return normalise(images, network.mean, network.std)

    return transform


def rand_augment_transform(*, operations: int, magnitude: float, std: float) -> TrainTransform:
    """Return RandAugment of stored images: see `data.augmentation.rand_augment`."""
    return lambda images, generator: rand_augment(
        images, operations=operations, magnitude=magnitude, std=std, generator=generator
    )


def mixing(*, mixup_alpha: float = 0, cutmix_alpha: float = 0) -> Mix:
    """Return what mixes an augmented batch: see `students.Mix`. A batch has one λ; 0 mixes nothing."""
    # at most one of the two isn't 0
    if cutmix_alpha:
        return lambda images, generator: cutmix(images, alpha=cutmix_alpha, generator=generator)
    if mixup_alpha:
        return lambda images, generator: mixup(images, alpha=mixup_alpha, generator=generator)
    return unmixed


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
    yield from read_batches(split, torch.split(torch.arange(len(split)), BATCH), device=device)
