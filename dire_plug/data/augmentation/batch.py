"""Augmentation in batches, on tensors, where the images are.

The geometry works on uint8 images before they are normalised, so that padding is black as in PIL; that makes crop and
flip bit-equal to PIL's. Random numbers come from a generator of the caller's, usually on the CPU, whatever the device;
they are drawn apart from what they do to images (see `draws`).
"""

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from dire_plug.data.augmentation.draws import NO_CUT, Augmentation, Crops, Cut, Mixed, Shape

ATTEMPTS = 10
"""How many boxes RandomResizedCrop tries before it takes a central one (torchvision's number)."""
RATIO = (3 / 4, 4 / 3)
"""Of the sides of a resized crop, least and greatest width : height (torchvision's numbers)."""
RESIZED_AT_ONCE = 256
"""Images whose crops an accelerator resizes in one product; it bounds the memory of the filters."""


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images − mean) / std, float32, [N, C, H, W]; uint8 images are scaled to [0, 1] first."""
    values = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
    return (values - _per_channel(mean, values)) / _per_channel(std, values)


def denormalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images · std + mean, clamped to [0, 1]."""
    return (images * _per_channel(std, images) + _per_channel(mean, images)).clamp(0, 1)


def crop_flip(*, padding: int, flip: bool) -> Augmentation:
    """Pad with black by `padding`, crop to the old size at random, and flip half of the images.

    It draws `Crops` for images of any dtype, [N, C, H, W]; with a padding of 0 they stay in place.
    """

    def draw(shape: Shape, generator: Generator) -> Crops:
        count, device = shape[0], generator.device
        corners = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=device)
        flips = torch.rand(count, generator=generator, device=device) < (0.5 if flip else 0)
        sides = torch.tensor([*shape[-2:]], device=device).expand(count, 2)
        return Crops(torch.cat([corners.T, sides], dim=1), flips)

    def apply(images: Tensor, drawn: Crops) -> Tensor:
        return crop_flip_at(images, drawn.boxes[:, 0], drawn.boxes[:, 1], drawn.flips, padding)

    return Augmentation(draw, apply)


def no_crop() -> Augmentation:
    """Take images as they are; draw nothing at random."""

    def draw(shape: Shape, generator: Generator) -> Crops:
        box = torch.tensor([0, 0, *shape[-2:]])
        return Crops(box.expand(shape[0], 4), torch.zeros(shape[0], dtype=torch.bool))

    return Augmentation(draw, lambda images, _: images)


def crop_flip_at(images: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad with black, crop to the old size at the given offsets into the padded image, and flip where told.

    Args:
        images: [N, C, H, W], any dtype.
        tops, lefts: int64, [N], 0 to 2·padding.
        flips: bool, [N].
        padding: pixels on each side.
    """
    height, width = images.shape[-2:]
    device = images.device
    padded = F.pad(images, (padding, padding, padding, padding))
    across = torch.arange(width, device=device).expand(len(images), -1)
    # a flipped image reads the same columns from the right, so that one gather crops and flips
    columns = torch.where(flips.to(device)[:, None], across.flip(1), across) + lefts.to(device)[:, None]
    rows = torch.arange(height, device=device) + tops.to(device)[:, None]
    places = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).flatten(1)
    taken = padded.flatten(2).gather(2, places[:, None, :].expand(-1, images.shape[1], -1))
    return taken.reshape(images.shape)


def resized_crop_flip(*, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = RATIO) -> Augmentation:
    """Crop a random box of each image, resize it to the images' size, and flip half of them.

    As torchvision's RandomResizedCrop: the box's area is uniform in `scale`, the logarithm of its ratio in `ratio`. It
    draws `Crops` for images, uint8, or float in [0, 1], [N, C, H, W].

    Args:
        scale: least and greatest share of the area.
        ratio: least and greatest width : height.
    """

    def draw(shape: Shape, generator: Generator) -> Crops:
        boxes = draw_boxes(shape, generator=generator, scale=scale, ratio=ratio)
        return Crops(boxes, torch.rand(shape[0], generator=generator, device=generator.device) < 0.5)

    return Augmentation(draw, lambda images, drawn: resized_crop_flip_at(images, *drawn))


def resized_crop_flip_at(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Crop the given boxes, resize them to the images' size by antialiased bilinear interpolation, flip where told.

    On the CPU that is torchvision's function image by image, which has a faster path of its own for uint8; elsewhere
    two products of matrices for the batch, equal to torchvision's path in floats, rounded where images are uint8.

    Args:
        images: uint8 or float, [N, C, H, W].
        boxes: int64, [N, 4]: top, left, height, width.
        flips: bool, [N].
    """
    if images.device.type == "cpu":
        from torchvision.transforms.v2 import functional

        size = list(images.shape[-2:])
        # one by one: each box has its own antialiasing filter, which no batched sampling computes
        resized = torch.stack(
            [
                functional.resized_crop(image, top, left, height, width, size=size, antialias=True)
                for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True)
            ]
        )
    else:
        parts = zip(torch.split(images, RESIZED_AT_ONCE), torch.split(boxes, RESIZED_AT_ONCE), strict=True)
        resized = torch.cat([resize_boxes(part, of_part) for part, of_part in parts])
    return torch.where(flips.to(images.device)[:, None, None, None], resized.flip(3), resized)


def resize_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """Resize a box of each image to the images' size, as filters of its rows and columns: down · image · across.

    Args:
        images: uint8 or float, [N, C, H, W].
        boxes: int64, [N, 4]: top, left, height, width; on the images' device.

    Returns:
        Tensor: of the images' dtype and shape; uint8 values are rounded.
    """
    rows, columns = images.shape[-2:]
    top, left, height, width = boxes.unbind(1)
    # bfloat16 wouldn't hold 256 grey levels
    with torch.autocast(images.device.type, enabled=False):
        down = _antialias(top, height, rows)[:, None]
        across = _antialias(left, width, columns)[:, None].transpose(2, 3)
        resized = down @ (images.float() @ across)
    return resized.round_().clamp_(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else resized.to(images.dtype)


def _antialias(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Return how `size` places are made of the `size` pixels of a side, float32, [N, size, size].

    For the stretch of pixels from `first` on, [N]: the triangular filter of `torch.nn.functional.interpolate`, whose
    support grows with the stretch; pixels outside of it count nothing.
    """
    places = torch.arange(size, device=first.device)
    scale = length.float()[:, None, None] / size
    support = scale.clamp_min(1)
    centre = (places[None, :, None] + 0.5) * scale
    low = (centre - support + 0.5).int().clamp_min(0)
    high = torch.minimum((centre + support + 0.5).int(), length[:, None, None].int())
    at = places[None, None, :] - first[:, None, None]
    weights = (1 - ((at - centre + 0.5) / support).abs()).clamp_min(0)
    weights = weights.masked_fill((at < low) | (at >= high), 0)
    return weights / weights.sum(2, keepdim=True)


def draw_boxes(shape: Shape, *, generator: Generator, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Draw one box for each image: int64, [N, 4]: top, left, height, width; see `resized_crop_flip`."""
    count, (rows, columns) = shape[0], shape[-2:]
    areas, ratios, down, right = torch.rand(4, count, ATTEMPTS, generator=generator, device=generator.device).double()
    area = rows * columns * (scale[0] + (scale[1] - scale[0]) * areas)
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratios)
    widths, heights = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (widths > 0) & (widths <= columns) & (heights > 0) & (heights <= rows)
    tops, lefts = (down * (rows - heights + 1)).floor(), (right * (columns - widths + 1)).floor()
    first = fits.to(torch.uint8).argmax(1)  # of the first attempt that fits; torch has no argmax of bools
    boxes = torch.stack([tops, lefts, heights, widths], 2)[torch.arange(count, device=fits.device), first].long()
    central = torch.tensor(_central_box(rows, columns, ratio), device=boxes.device)
    return torch.where(fits.any(1)[:, None], boxes, central)


def unmixed() -> Augmentation:
    """Mix nothing and draw nothing at random."""

    def draw(shape: Shape, generator: Generator) -> Mixed:
        return Mixed(torch.arange(shape[0]), 1.0, NO_CUT)

    return Augmentation(draw, lambda images, _: images)


def mixup(alpha: float) -> Augmentation:
    """Mix each image with another one of the batch (Zhang et al., 2018): λ·x + (1 − λ)·x[permutation].

    It draws `Mixed` for float images, [N, C, H, W]; λ comes from Beta(alpha, alpha), once for the batch; 0 mixes
    nothing.
    """

    def draw(shape: Shape, generator: Generator) -> Mixed:
        return Mixed(*_draw_mix(shape[0], alpha, generator), NO_CUT)

    return Augmentation(draw, lambda images, drawn: mixup_at(images, drawn.partners, drawn.share))


def mixup_at(images: Tensor, order: Tensor, share: float) -> Tensor:
    """Return share·x + (1 − share)·x[order], [N, C, H, W]."""
    return share * images + (1 - share) * images[order]


def cutmix(alpha: float) -> Augmentation:
    """Paste a box of another image of the batch into each one (Yun et al., 2019), the same box for the whole batch.

    The box has √(1 − λ) of each side, cut off to an even number of pixels, its centre is uniform, and what would lie
    outside of the image is lost. It draws `Mixed` for images of any dtype, [N, C, H, W], whose share is that of the
    image that is kept; λ comes from Beta(alpha, alpha), once for the batch; 0 mixes nothing.
    """
    return Augmentation(
        partial(_draw_cutmix, alpha=alpha), lambda images, drawn: cutmix_at(images, drawn.partners, drawn.cut)
    )


def _draw_mix(count: int, alpha: float, generator: Generator) -> tuple[Tensor, float]:
    """Draw a permutation of the batch, int64, [N], and λ."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    # torch has no public Beta that takes a generator; numpy's is seeded from ours.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return order, float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0


def _draw_cutmix(shape: Shape, generator: Generator, *, alpha: float) -> Mixed:
    order, share = _draw_mix(shape[0], alpha, generator)
    rows, columns = shape[-2:]
    side = math.sqrt(1 - share)
    centres = torch.rand(2, generator=generator, device=generator.device).tolist()
    top, bottom = _span(rows, side, centres[0])
    left, right = _span(columns, side, centres[1])
    return Mixed(order, 1 - (bottom - top) * (right - left) / (rows * columns), (top, bottom, left, right))


def cutmix_at(images: Tensor, order: Tensor, cut: Cut) -> Tensor:
    """Return new images with the box of x[order] in each x, [N, C, H, W]."""
    top, bottom, left, right = cut
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed


def enlarge_and_crop(images: Tensor) -> Tensor:
    """Enlarge images to 8 · (size // 7) pixels, antialiased, and crop the centre to the old size.

    It is what RDED and DELT do to test images of any size; at 32 pixels and below it changes nothing.

    Args:
        images: uint8, [N, C, H, W], H = W.
    """
    size = images.shape[-1]
    larger = size // 7 * 8
    if larger <= size:
        return images
    from torchvision.transforms.v2 import functional

    enlarged = functional.resize(images, [larger, larger], antialias=True)
    first = round((larger - size) / 2)  # as torchvision's CenterCrop
    return torch.as_tensor(enlarged)[:, :, first : first + size, first : first + size]


def _span(length: int, side: float, centre: float) -> tuple[int, int]:
    """Return where a box of share `side` around `centre`, in [0, 1), begins and ends."""
    half = int(length * side) // 2
    middle = int(length * centre)
    return max(middle - half, 0), min(middle + half, length)


def _central_box(rows: int, columns: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return the largest central box whose ratio is allowed."""
    width, height = columns, rows
    if columns / rows < ratio[0]:
        height = round(columns / ratio[0])
    elif columns / rows > ratio[1]:
        width = round(rows * ratio[1])
    return (rows - height) // 2, (columns - width) // 2, height, width


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    return constant(tuple(values), images.dtype, images.device)[:, None, None]


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor, [n], which is kept: made anew for a batch, it makes the host wait for the device."""
    with torch.inference_mode(False):  # else a later caller couldn't differentiate
        return torch.tensor(values, dtype=dtype, device=device)
