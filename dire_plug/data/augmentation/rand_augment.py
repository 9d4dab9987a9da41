"""RandAugment (Cubuk et al., 2020) as timm draws it, done by torchvision's operations, on tensors where the images are.

DELT's evaluation of ImageNet-1K hands PIL images to timm's `rand_augment_transform("rand-m6-n2-mstd1.0")`
(evaluation/validation/main.py). For each image and each of n times, one of fifteen operations is drawn, and done with
probability 1/2, at a level m from N(magnitude, std²), cut to 0 … 10:

| operation | at level m |
|---|---|
| autocontrast, equalize, invert | the same at every level |
| rotate | by ±3·m degrees |
| shear along x, y | by ±0.03·m |
| translate along x, y | by ±0.045·m of the width, the height |
| posterize | ⌊0.4·m⌋ bits are kept: less of them at a low level |
| solarize | grey levels from ⌊25.6·m⌋ up are inverted |
| solarize-add | ⌊11·m⌋ is added to grey levels below 128 |
| colour, contrast, brightness, sharpness | 0.1 + 0.18·m; 1 changes nothing |

torchvision's own RandAugment has other operations, is always done, and knows no spread of the level; so only its
operations are taken. They differ from Pillow's, which timm calls, by one grey level, and along the border of what moves
in. timm draws bilinear or bicubic interpolation for what moves; here it is bilinear.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

Operation = Callable[[Tensor, float], Tensor]
"""One image, uint8, [3, H, W], and a level from −10 to 10, whose sign counts where something moves."""
LEVELS = 10.0
"""The greatest level."""
FILL = (124, 116, 104)
"""The colour that moves in: ImageNet's mean, which DELT hands to timm."""


def rand_augment(images: Tensor, *, operations: int, magnitude: float, std: float, generator: Generator) -> Tensor:
    """Change each image by operations of its own.

    Args:
        images: [N, 3, H, W], uint8, or float in [0, 1], which is rounded to grey levels first.
        operations: how many are drawn for an image, with replacement; each is done with probability 1/2.
        magnitude: the mean level, 0 to 10.
        std: of the level.
        generator: of all that is drawn.

    Returns:
        Tensor: uint8, [N, 3, H, W], on the images' device.
    """
    grey = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    shape, device = (len(grey), operations), generator.device
    names = torch.randint(len(OPERATIONS), shape, generator=generator, device=device)
    done, signs = torch.rand(2, *shape, generator=generator, device=device) < 0.5
    levels = (magnitude + std * torch.randn(shape, generator=generator, device=device)).clamp(0, LEVELS)
    levels = torch.where(signs, -levels, levels)
    drawn = zip(names.tolist(), done.tolist(), levels.tolist(), strict=True)
    # One by one: hardly two images get the same operation at the same level.
    return torch.stack([_augment(image, *of_image) for image, of_image in zip(grey, drawn, strict=True)])


def _augment(image: Tensor, names: list[int], done: list[bool], levels: list[float]) -> Tensor:
    for name, is_done, level in zip(names, done, levels, strict=True):
        if is_done:
            image = _OPERATIONS[name](image, level)
    return image


def _share(level: float) -> float:
    return abs(level) / LEVELS


def _move(image: Tensor, *, shear: tuple[float, float] = (0, 0), by: tuple[float, float] = (0, 0)) -> Tensor:
    """Shear about the upper left corner, by degrees along x and y, and translate by pixels to the right and down."""
    moved: Tensor = transforms.affine(
        image,
        angle=0.0,
        translate=[*by],
        scale=1.0,
        shear=[*shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=[*FILL],
        center=[0.0, 0.0],
    )
    return moved


def _rotate(image: Tensor, level: float) -> Tensor:
    turned: Tensor = transforms.rotate(image, 3 * level, interpolation=InterpolationMode.BILINEAR, fill=[*FILL])
    return turned


def _shear(level: float) -> float:
    return math.degrees(math.atan(0.03 * level))


def _solarize(image: Tensor, level: float) -> Tensor:
    return torch.where(image.short() < int(_share(level) * 256), image, 255 - image)  # 256 is no uint8


def _solarize_add(image: Tensor, level: float) -> Tensor:
    return torch.where(image < 128, image + int(_share(level) * 110), image)  # at most 127 + 110


def _enhanced(enhance: Callable[[Tensor, float], Tensor]) -> Operation:
    return lambda image, level: enhance(image, 0.1 + 1.8 * _share(level))


_BY_NAME: dict[str, Operation] = {
    "autocontrast": lambda image, level: transforms.autocontrast(image),
    "equalize": lambda image, level: transforms.equalize(image),
    "invert": lambda image, level: 255 - image,
    "rotate": _rotate,
    "posterize": lambda image, level: transforms.posterize(image, int(_share(level) * 4)),
    "solarize": _solarize,
    "solarize-add": _solarize_add,
    "colour": _enhanced(transforms.adjust_saturation),
    "contrast": _enhanced(transforms.adjust_contrast),
    "brightness": _enhanced(transforms.adjust_brightness),
    "sharpness": _enhanced(transforms.adjust_sharpness),
    "shear-x": lambda image, level: _move(image, shear=(_shear(level), 0)),
    "shear-y": lambda image, level: _move(image, shear=(0, _shear(level))),
    "translate-x": lambda image, level: _move(image, by=(-0.045 * level * image.shape[-1], 0)),
    "translate-y": lambda image, level: _move(image, by=(0, -0.045 * level * image.shape[-2])),
}
_OPERATIONS = tuple(_BY_NAME.values())
OPERATIONS = tuple(_BY_NAME)
"""Their names, in the order of the draw."""
