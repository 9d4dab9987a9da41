"""Augmentations that draw nothing, and a batch with what mixed it."""

from collections.abc import Callable

from torch import Generator, Tensor

from dire_plug.data.augmentation.draws import Augmentation, Mixed


def undrawn(change: Callable[[Tensor], Tensor]) -> Augmentation:
    """Return an augmentation that changes every batch in one way."""
    return Augmentation(lambda *_: (), lambda images, _: change(images))


def mix(by: Augmentation, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Return the mixed images, the partner of each, and the images' own share."""
    drawn: Mixed = by.draw(images.shape, generator)
    return by.apply(images, drawn), drawn.partners, drawn.share
