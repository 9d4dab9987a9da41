"""DSA, differentiable siamese augmentation (Zhao & Bilen, 2021), as MTT and DM use it while they evaluate.

One of the operations is drawn for each batch, and its parameters for each image (they are shared only while images are
synthesized, which upstream's own code does). The ranges are those of MTT's `ParamDiffAug` (utils.py): brightness 1,
saturation 2, contrast .5, shift 1/8, cut-out 1/2, scale 1.2, rotation 15°. Images are in the space that networks see,
normalised or whitened, so what is padded or cut out is 0 there. Nothing here blocks gradients.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from dire_plug.data.augmentation.batch import crop_flip_at

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
SHIFT, CUTOUT = 0.125, 0.5
SCALE, DEGREES = 1.2, 15.0


def dsa(images: Tensor, *, operations: str, generator: Generator) -> Tensor:
    """Apply one operation, drawn for the batch, with parameters drawn for each image.

    Args:
        images: float, [N, 3, H, W], H = W.
        operations: names joined by `_`, or `none`.
        generator: of the operation and its parameters, on any device.
    """
    if operations == "none":
        return images
    names = operations.split("_")
    choice = int(torch.randint(len(names), (), generator=generator, device=generator.device))
    return OPERATIONS[names[choice]](images, generator)


def colour(images: Tensor, generator: Generator) -> Tensor:
    """Change brightness by ±½, then saturation by a factor in [0, 2), then contrast by one in [½, 1½)."""
    brightness, saturation, contrast = (_uniform(images, generator) for _ in range(3))
    lighter = images + (brightness - 0.5) * BRIGHTNESS
    grey = lighter.mean(dim=1, keepdim=True)
    tinted = grey + (lighter - grey) * saturation * SATURATION
    mean = tinted.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (tinted - mean) * (contrast + CONTRAST)


def shift(images: Tensor, generator: Generator) -> Tensor:
    """Move each image by up to an eighth of its size in both directions; 0 comes in."""
    reach = int(images.shape[-1] * SHIFT + 0.5)  # half up, as upstream; `round` goes to the even number
    tops, lefts = torch.randint(0, 2 * reach + 1, (2, len(images)), generator=generator, device=generator.device)
    return crop_flip_at(images, tops, lefts, torch.zeros(len(images), dtype=torch.bool), reach)


def cut_out(images: Tensor, generator: Generator) -> Tensor:
    """Put 0 into a square of half of the size around a point of each image; it may reach over the border."""
    rows, columns = (
        _outside(length, len(images), generator).to(images.device) for length in (images.shape[-2], images.shape[-1])
    )
    return images * (rows[:, None, :, None] | columns[:, None, None, :])  # cut is what is inside in both


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Flip half of the images, left to right."""
    return torch.where(_uniform(images, generator) < 0.5, images.flip(3), images)


def scale(images: Tensor, generator: Generator) -> Tensor:
    """Stretch height and width of each image by factors of their own between 1/1.2 and 1.2."""
    width, height = (1 / SCALE + (SCALE - 1 / SCALE) * _uniform(images, generator).flatten() for _ in range(2))
    zero = torch.zeros_like(width)
    return _sample(images, [width, zero, zero, height])


def rotate(images: Tensor, generator: Generator) -> Tensor:
    """Turn each image by up to 15° either way."""
    angle = (2 * _uniform(images, generator).flatten() - 1) * math.radians(DEGREES)
    return _sample(images, [angle.cos(), -angle.sin(), angle.sin(), angle.cos()])


OPERATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "color": colour,
    "crop": shift,
    "cutout": cut_out,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}
"""By upstream's names, in its order."""


def _uniform(images: Tensor, generator: Generator) -> Tensor:
    """Draw one number in [0, 1) for each image: [N, 1, 1, 1]."""
    drawn = torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device)
    return drawn.to(images.device, images.dtype)


def _outside(length: int, count: int, generator: Generator) -> Tensor:
    """Draw a stretch of half of `length` for each image; return which places lie outside of it: bool, [count, length].

    Its centre may be any place, and for an even stretch the end as well.
    """
    size = int(length * CUTOUT + 0.5)
    centres = torch.randint(0, length + 1 - size % 2, (count, 1), generator=generator, device=generator.device)
    begins = centres - size // 2
    places = torch.arange(length, device=generator.device)
    return (places < begins) | (places >= begins + size)


def _sample(images: Tensor, matrix: list[Tensor]) -> Tensor:
    """Sample each image through its 2×2 matrix about the centre, bilinearly; outside of the image is 0."""
    linear = torch.stack(matrix, dim=1).reshape(-1, 2, 2)
    # in both calls: torch's default, False, would sample other places
    grid = F.affine_grid(F.pad(linear, (0, 1)), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)
