"""DSA, differentiable siamese augmentation (Zhao & Bilen, 2021), as MTT and DM use it while they evaluate.

One of the operations is drawn for each batch, and its parameters for each image (they are shared only while images are
synthesized, which upstream's own code does). The ranges are those of MTT's `ParamDiffAug` (utils.py): brightness 1,
saturation 2, contrast .5, shift 1/8, cut-out 1/2, scale 1.2, rotation 15°. Images are in the space that networks see,
normalised or whitened, so what is padded or cut out is 0 there. Nothing here blocks gradients.
"""

import math
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from dire_plug.data.augmentation.batch import crop_flip_at
from dire_plug.data.augmentation.draws import Augmentation, Shape

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
SHIFT, CUTOUT = 0.125, 0.5
SCALE, DEGREES = 1.2, 15.0


def dsa(operations: str) -> Augmentation:
    """Apply one operation, drawn for the batch, with parameters drawn for each image, to float images, [N, 3, H, W].

    Args:
        operations: names joined by `_`, or `none`.
    """
    if operations == "none":
        return Augmentation(lambda *_: (), lambda images, _: images)
    names = operations.split("_")

    def draw(shape: Shape, generator: Generator) -> tuple[str, Tensor]:
        choice = int(torch.randint(len(names), (), generator=generator, device=generator.device))
        parameters: Tensor = OPERATIONS[names[choice]].draw(shape, generator)
        return names[choice], parameters

    return Augmentation(draw, lambda images, drawn: OPERATIONS[drawn[0]].apply(images, drawn[1]))


def _draw_uniform(shape: Shape, generator: Generator, *, numbers: int = 1) -> Tensor:
    """Draw numbers in [0, 1) for each image, one after the other for the batch: [numbers, N, 1, 1, 1]."""
    size = (shape[0], 1, 1, 1)
    return torch.stack([torch.rand(size, generator=generator, device=generator.device) for _ in range(numbers)])


def _colour(images: Tensor, drawn: Tensor) -> Tensor:
    brightness, saturation, contrast = drawn.to(images.dtype)
    lighter = images + (brightness - 0.5) * BRIGHTNESS
    grey = lighter.mean(dim=1, keepdim=True)
    tinted: Tensor = grey + (lighter - grey) * saturation * SATURATION
    mean = tinted.mean(dim=(1, 2, 3), keepdim=True)
    changed: Tensor = mean + (tinted - mean) * (contrast + CONTRAST)
    return changed


def _reach(shape: Shape) -> int:
    return int(shape[-1] * SHIFT + 0.5)  # half up, as upstream; `round` goes to the even number


def _draw_shift(shape: Shape, generator: Generator) -> Tensor:
    return torch.randint(0, 2 * _reach(shape) + 1, (2, shape[0]), generator=generator, device=generator.device)


def _shift(images: Tensor, corners: Tensor) -> Tensor:
    still = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    tops, lefts = corners
    return crop_flip_at(images, tops, lefts, still, _reach(images.shape))


def _draw_cut(shape: Shape, generator: Generator) -> Tensor:
    """Draw where the stretch of rows, and that of columns, begins that is cut out of each image: int64, [2, N, 1].

    A stretch has half of the side; its centre may be any place, and for an even stretch the end as well.
    """
    begins = []
    for length in shape[-2:]:
        size = int(length * CUTOUT + 0.5)
        device = generator.device
        centres = torch.randint(0, length + 1 - size % 2, (shape[0], 1), generator=generator, device=device)
        begins.append(centres - size // 2)
    return torch.stack(begins)


def _cut_out(images: Tensor, begins: Tensor) -> Tensor:
    rows, columns = (_outside(length, begin) for length, begin in zip(images.shape[-2:], begins, strict=True))
    return images * (rows[:, None, :, None] | columns[:, None, None, :])  # cut is what is inside in both


def _outside(length: int, begins: Tensor) -> Tensor:
    """Return which places lie outside of the stretch that begins there, [N, 1]: bool, [N, length]."""
    places = torch.arange(length, device=begins.device)
    return (places < begins) | (places >= begins + int(length * CUTOUT + 0.5))


def _flip(images: Tensor, drawn: Tensor) -> Tensor:
    return torch.where(drawn[0].to(images.dtype) < 0.5, images.flip(3), images)


def _scale(images: Tensor, drawn: Tensor) -> Tensor:
    width, height = (1 / SCALE + (SCALE - 1 / SCALE) * one.flatten() for one in drawn.to(images.dtype))
    zero = torch.zeros_like(width)
    return _sample(images, [width, zero, zero, height])


def _rotate(images: Tensor, drawn: Tensor) -> Tensor:
    angle = (2 * drawn[0].to(images.dtype).flatten() - 1) * math.radians(DEGREES)
    return _sample(images, [angle.cos(), -angle.sin(), angle.sin(), angle.cos()])


def _sample(images: Tensor, matrix: list[Tensor]) -> Tensor:
    """Sample each image through its 2×2 matrix about the centre, bilinearly; outside of the image is 0."""
    linear = torch.stack(matrix, dim=1).reshape(-1, 2, 2)
    # in both calls: torch's default, False, would sample other places
    grid = F.affine_grid(F.pad(linear, (0, 1)), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


colour = Augmentation(partial(_draw_uniform, numbers=3), _colour)
"""Change brightness by ±½, then saturation by a factor in [0, 2), then contrast by one in [½, 1½)."""
shift = Augmentation(_draw_shift, _shift)
"""Move each image by up to an eighth of its size in both directions; 0 comes in."""
cut_out = Augmentation(_draw_cut, _cut_out)
"""Put 0 into a square of half of the size around a point of each image; it may reach over the border."""
flip = Augmentation(_draw_uniform, _flip)
"""Flip half of the images, left to right."""
scale = Augmentation(partial(_draw_uniform, numbers=2), _scale)
"""Stretch height and width of each image by factors of their own between 1/1.2 and 1.2."""
rotate = Augmentation(_draw_uniform, _rotate)
"""Turn each image by up to 15° either way."""

OPERATIONS = {"color": colour, "crop": shift, "cutout": cut_out, "flip": flip, "scale": scale, "rotate": rotate}
"""By upstream's names, in its order."""
