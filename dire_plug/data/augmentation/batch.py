"""Augmentation in batches, on tensors, where the images are.

The geometry works on uint8 images before they are normalised, so that padding is black as in PIL; that makes crop and
flip bit-equal to PIL's. Random numbers come from a generator of the caller's, usually on the CPU, whatever the device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

Cut = tuple[int, int, int, int]
"""The box that CutMix pastes: top, bottom, left, right; the ends are outside of it."""
ATTEMPTS = 10
"""How many boxes RandomResizedCrop tries before it takes a central one (torchvision's number)."""


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images − mean) / std, float32, [N, C, H, W]; uint8 images are scaled to [0, 1] first."""
    values = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
    return (values - _per_channel(mean, values)) / _per_channel(std, values)


def denormalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images · std + mean, clamped to [0, 1]."""
    return (images * _per_channel(std, images) + _per_channel(mean, images)).clamp(0, 1)


def crop_flip(images: Tensor, *, padding: int, flip: bool, generator: Generator) -> Tensor:
    """Pad with black by `padding`, crop to the old size at random, and flip half of the images.

    Args:
        images: uint8, [N, C, H, W].
        padding: pixels on each side; 0 leaves the place alone.
        flip: whether to flip.
        generator: of the offsets and flips.

    Returns:
        Tensor: uint8, [N, C, H, W], on the images' device.
    """
    count = len(images)
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=generator.device)
    flips = torch.rand(count, generator=generator, device=generator.device) < (0.5 if flip else 0)
    return crop_flip_at(images, tops, lefts, flips, padding)


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


def resized_crop_flip(
    images: Tensor,
    *,
    generator: Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Crop a random box of each image, resize it to the images' size, and flip half of them.

    As torchvision's RandomResizedCrop: the box's area is uniform in `scale`, the logarithm of its ratio in `ratio`.

    Args:
        images: uint8, [N, C, H, W].
        generator: of the boxes and flips.
        scale: least and greatest share of the area.
        ratio: least and greatest width : height.
    """
    boxes = draw_boxes(images, generator=generator, scale=scale, ratio=ratio)
    flips = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return resized_crop_flip_at(images, boxes, flips)


def resized_crop_flip_at(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Crop the given boxes, resize them to the images' size by antialiased bilinear interpolation, flip where told.

    Args:
        images: uint8, [N, C, H, W].
        boxes: int64, [N, 4]: top, left, height, width.
        flips: bool, [N].
    """
    size = list(images.shape[-2:])
    # One by one: each box has its own antialiasing filter, which no batched sampling computes (grid_sample has none).
    resized = torch.stack(
        [
            transforms.resized_crop(image, top, left, height, width, size=size, antialias=True)
            for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True)
        ]
    )
    return torch.where(flips.to(images.device)[:, None, None, None], resized.flip(3), resized)


def draw_boxes(
    images: Tensor, *, generator: Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Draw one box for each image: int64, [N, 4]: top, left, height, width; see `resized_crop_flip`."""
    count, (rows, columns) = len(images), images.shape[-2:]
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


def draw_mix(images: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, float]:
    """Draw a permutation of the batch (int64, [N], on the images' device) and λ."""
    order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
    # torch has no public Beta that takes a generator; numpy's is seeded from ours.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return order, float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0


def mixup(images: Tensor, *, alpha: float, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Mix each image with another one of the batch (Zhang et al., 2018): λ·x + (1 − λ)·x[permutation].

    Args:
        images: float, [N, C, H, W].
        alpha: λ is drawn from Beta(alpha, alpha), once for the batch; 0 mixes nothing.
        generator: of λ and the permutation.

    Returns:
        tuple: the mixed images, the permutation (int64, [N], on the images' device), and λ.
    """
    order, share = draw_mix(images, alpha, generator)
    return mixup_at(images, order, share), order, share


def mixup_at(images: Tensor, order: Tensor, share: float) -> Tensor:
    """Return share·x + (1 − share)·x[order], [N, C, H, W]."""
    return share * images + (1 - share) * images[order]


def cutmix(images: Tensor, *, alpha: float, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Paste a box of another image of the batch into each one (Yun et al., 2019), the same box for the whole batch.

    The box has √(1 − λ) of each side, cut off to an even number of pixels, its centre is uniform, and what would lie
    outside of the image is lost.

    Args:
        images: [N, C, H, W], any dtype.
        alpha: λ is drawn from Beta(alpha, alpha), once for the batch; 0 mixes nothing.
        generator: of λ, the permutation and the box.

    Returns:
        tuple: new images, the permutation (int64, [N], on the images' device), and the share of the image that is kept.
    """
    order, cut, kept = draw_cutmix(images, alpha=alpha, generator=generator)
    return cutmix_at(images, order, cut), order, kept


def draw_cutmix(images: Tensor, *, alpha: float, generator: Generator) -> tuple[Tensor, Cut, float]:
    """Draw a permutation of the batch, the box that is pasted, and the share of the image that stays; see `cutmix`."""
    order, share = draw_mix(images, alpha, generator)
    rows, columns = images.shape[-2:]
    side = math.sqrt(1 - share)
    centres = torch.rand(2, generator=generator, device=generator.device).tolist()
    top, bottom = _span(rows, side, centres[0])
    left, right = _span(columns, side, centres[1])
    return order, (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (rows * columns)


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
    enlarged = transforms.resize(images, [larger, larger], antialias=True)
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
    return torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
