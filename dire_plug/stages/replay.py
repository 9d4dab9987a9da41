"""What is drawn for a batch that students see, and the batch that it makes: stored, it makes the same bits again.

The draws and the images are those of `views.training_view` and `views.mixing`. Imports torch: import it late.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dire_plug.data.augment import (
    Cut,
    crop_flip_at,
    cutmix_at,
    draw_boxes,
    draw_cutmix,
    draw_mix,
    mixup_at,
    normalise,
    resized_crop_flip_at,
)
from dire_plug.stages.views import LEAST_SCALE

RATIO = (3 / 4, 4 / 3)
"""Of the sides of a resized crop (torchvision's numbers)."""
NO_CUT: Cut = (0, 0, 0, 0)


@dataclass(frozen=True)
class Geometry:
    """How images are shown.

    Attributes:
        augmentation: none, crop, crop_flip or resized_crop_flip.
        padding: pixels on each side before cropping.
        mixup, cutmix: the alpha of each; at most one isn't 0.
        mean, std: the normalisation.
    """

    augmentation: str
    padding: int
    mixup: float
    cutmix: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn for one batch of n images; tensors are on the CPU.

    Attributes:
        indices: which images of the set, [n], int64.
        boxes: [n, 4], int64: top, left, height, width of the crop; in the padded image where padding comes before.
        flips: [n], bool.
        partners: the place in the batch of the image that is mixed in, [n], int64.
        share: the image's own share; λ of mixup.
        cut: the box that CutMix pastes.
    """

    indices: Tensor
    boxes: Tensor
    flips: Tensor
    partners: Tensor
    share: float
    cut: Cut


def draw(images: Tensor, indices: Tensor, *, geometry: Geometry, generator: Generator) -> Drawn:
    """Draw crops, flips and mixing for one batch.

    Args:
        images: the whole set, [N, 3, H, W].
        indices: those of the batch, [n], int64, on the CPU.
        geometry: how images are shown.
        generator: on the CPU.
    """
    batch = images[:1].cpu().expand(len(indices), -1, -1, -1)  # only its shape is asked
    boxes, flips = _draw_crops(batch, geometry, generator)
    partners, share, cut = torch.arange(len(indices)), 1.0, NO_CUT
    if geometry.cutmix:
        partners, cut, share = draw_cutmix(batch, alpha=geometry.cutmix, generator=generator)
    elif geometry.mixup:
        partners, share = draw_mix(batch, geometry.mixup, generator)
    return Drawn(indices, boxes, flips, partners, share, cut)


def rebuild(images: Tensor, drawn: Drawn, *, geometry: Geometry, device: torch.device) -> Tensor:
    """Return the batch as networks see it, float, [n, 3, H, W], on `device`.

    Args:
        images: the whole set, uint8, or float in [0, 1], [N, 3, H, W], on any device.
        drawn: what `draw` gave.
        geometry: the one that was drawn with.
        device: where the batch is made.
    """
    batch = images[drawn.indices.to(images.device)].to(device)
    seen = normalise(_crop(batch, drawn, geometry), geometry.mean, geometry.std)
    partners = drawn.partners.to(device)
    if geometry.cutmix:
        return cutmix_at(seen, partners, drawn.cut)
    return mixup_at(seen, partners, drawn.share) if geometry.mixup else seen


def _draw_crops(batch: Tensor, geometry: Geometry, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw (boxes, flips) in the order of `augment.resized_crop_flip` and `augment.crop_flip`."""
    count, (height, width) = len(batch), batch.shape[-2:]
    if geometry.augmentation == "resized_crop_flip":
        boxes = draw_boxes(batch, generator=generator, scale=(LEAST_SCALE, 1.0), ratio=RATIO)
        return boxes, torch.rand(count, generator=generator) < 0.5
    corners = torch.zeros(2, count, dtype=torch.int64)
    flips = torch.zeros(count, dtype=torch.bool)
    if geometry.augmentation != "none":
        corners = torch.randint(0, 2 * geometry.padding + 1, (2, count), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if geometry.augmentation == "crop_flip" else 0)
    sides = torch.tensor([height, width]).expand(count, 2)
    return torch.cat([corners.T, sides], dim=1), flips


def _crop(batch: Tensor, drawn: Drawn, geometry: Geometry) -> Tensor:
    if geometry.augmentation == "none":
        return batch
    if geometry.augmentation == "resized_crop_flip":
        return resized_crop_flip_at(batch, drawn.boxes, drawn.flips)
    tops, lefts = drawn.boxes[:, 0], drawn.boxes[:, 1]
    return crop_flip_at(batch, tops, lefts, drawn.flips, geometry.padding)
