"""What networks see of images: augmented while they learn, plain while they are tested or embed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dire_plug.data.augment import crop_flip, mixup, normalise, resized_crop_flip

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

    from dire_plug.data import Split
    from dire_plug.models.checkpoint import Network

BATCH = 500
"""Images in a batch without gradients."""


def training_view(
    network: Network, *, augmentation: str, padding: int, mix: float = 0.0
) -> Callable[[Tensor, Generator], Tensor]:
    """Return what turns stored images, uint8 or float in [0, 1], into an augmented batch, normalised for `network`.

    Args:
        augmentation: none, crop, crop_flip or resized_crop_flip; done before normalising, so padding is black.
        padding: pixels on each side before cropping.
        mix: α of mixup, with one λ for a batch; 0 mixes nothing.
    """

    def view(images: Tensor, generator: Generator) -> Tensor:
        if augmentation == "resized_crop_flip":
            images = resized_crop_flip(images, generator=generator)
        elif augmentation != "none":
            flip = augmentation == "crop_flip"
            images = crop_flip(images, padding=padding, flip=flip, generator=generator)
        normalised = normalise(images, network.mean, network.std)
        return mixup(normalised, alpha=mix, generator=generator)[0] if mix else normalised

    return view


def plain_batches(split: Split, network: Network, *, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images normalised for `network`, labels) of a split in its own order, on `device`, 500 at a time."""
    import torch

    for indices in torch.split(torch.arange(len(split)), BATCH):
        images = normalise(split.images(indices).to(device), network.mean, network.std)
        yield images, split.labels[indices].to(device)
