"""RandAugment (Cubuk et al., 2020) as timm draws it, on tensors where the images are.

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

On the CPU torchvision changes image after image. Elsewhere that would be some launches and a wait for each image: there
all images of a batch that get the same operation are changed together, within one grey level of torchvision's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from dire_plug.data.augmentation.batch import constant
from dire_plug.data.augmentation.draws import Augmentation, Shape

Operation = Callable[[Tensor, float], Tensor]
"""One image, uint8, [3, H, W], and a level from −10 to 10, whose sign counts where something moves."""
LEVELS = 10.0
"""The greatest level."""
FILL = (124, 116, 104)
"""The colour that moves in: ImageNet's mean, which DELT hands to timm."""


def rand_augment(*, operations: int, magnitude: float, std: float) -> Augmentation:
    """Change each image by operations of its own.

    Images are [N, 3, H, W], uint8, or float in [0, 1], which is rounded to grey levels first; what comes out is uint8.

    Args:
        operations: how many are drawn for an image, with replacement; each is done with probability 1/2.
        magnitude: the mean level, 0 to 10.
        std: of the level.
    """

    def draw(shape: Shape, generator: Generator) -> "_Drawn":
        size, device = (shape[0], operations), generator.device
        names = torch.randint(len(OPERATIONS), size, generator=generator, device=device)
        done, signs = torch.rand(2, *size, generator=generator, device=device) < 0.5
        levels = (magnitude + std * torch.randn(size, generator=generator, device=device)).clamp(0, LEVELS)
        levels = torch.where(signs, -levels, levels)
        # what isn't done comes last
        sorted_names, order = torch.where(done, names, len(OPERATIONS)).sort(dim=0, stable=True)
        counts = F.one_hot(sorted_names, len(OPERATIONS) + 1).sum(0).tolist()
        numbers = _numbers(sorted_names, levels.gather(0, order).double(), shape)
        chosen = _Chosen(names.tolist(), done.tolist(), levels.tolist(), [of_turn[:-1] for of_turn in counts])
        return _Drawn(chosen, order.T.contiguous(), numbers.float())

    return Augmentation(draw, _apply)


@dataclass(frozen=True)
class _Chosen:
    """What the host knows: an operation, whether it is done and its level, of each image and turn.

    Attributes:
        counts: of each turn, how many images get each operation.
    """

    names: list[list[int]]
    done: list[list[bool]]
    levels: list[list[float]]
    counts: list[list[int]]


class _Drawn(NamedTuple):
    """What was drawn for a batch.

    Attributes:
        order: the images of each turn by their operation, int64, [turns, N].
        numbers: what their operation takes, in that order, [turns, N, 6].
    """

    chosen: _Chosen
    order: Tensor
    numbers: Tensor


def _apply(images: Tensor, drawn: _Drawn) -> Tensor:
    grey = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    if grey.device.type == "cpu":
        chosen = zip(drawn.chosen.names, drawn.chosen.done, drawn.chosen.levels, strict=True)
        # One by one: hardly two images get the same operation at the same level.
        return torch.stack([_augment(image, *of_image) for image, of_image in zip(grey, chosen, strict=True)])
    # bfloat16 wouldn't hold 256 grey levels
    with torch.autocast(grey.device.type, enabled=False):
        for order, numbers, counts in zip(drawn.order, drawn.numbers, drawn.chosen.counts, strict=True):
            grey = _take_turn(grey, order, numbers, counts)
    return grey


def _take_turn(images: Tensor, order: Tensor, numbers: Tensor, counts: list[int]) -> Tensor:
    """Change images, which are sorted by operation in `order`; `counts` says how many get each."""
    done, first, changed = sum(counts), 0, []
    for name, count in zip(OPERATIONS, counts, strict=True):
        if count:
            some = slice(first, first + count)
            changed.append(_BATCHED[name](images[order[some]], numbers[some]))
            first += count
    return images.index_copy(0, order[:done], torch.cat(changed)) if done else images


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


# All images of a batch that get the same operation, each at its own level: uint8, [n, 3, H, W], and numbers, [n, 6].

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _numbers(names: Tensor, levels: Tensor, shape: Shape) -> Tensor:
    """Return what the operations take at their levels, as above in float64: [turns, n, 6].

    That is where a pixel comes from, as a 2×3 matrix of pixels about the centre, for what moves; for the others a
    number, and for those that blend also 1 less it.

    Args:
        names, levels: [n, turns].
    """
    height, width = shape[-2:]
    share = levels.abs() / LEVELS
    found = torch.zeros(*levels.shape, 6, dtype=torch.float64)
    moving = torch.tensor(_IDENTITY, dtype=torch.float64).expand_as(found)

    def put(name: str, columns: dict[int, Tensor], base: Tensor) -> None:
        values = base.clone()
        for column, value in columns.items():
            values[..., column] = value
        found.copy_(torch.where((names == OPERATIONS.index(name))[..., None], values, found))

    angle, shear = torch.deg2rad(3 * levels), 0.03 * levels
    put("rotate", {0: angle.cos(), 1: -angle.sin(), 3: angle.sin(), 4: angle.cos()}, moving)
    put("shear-x", {1: shear, 2: shear * height / 2}, moving)
    put("shear-y", {3: shear, 5: shear * width / 2}, moving)
    put("translate-x", {2: 0.045 * levels * width}, moving)
    put("translate-y", {5: 0.045 * levels * height}, moving)
    zeros = torch.zeros_like(found)
    put("posterize", {0: 256 - 2 ** (8 - (share * 4).floor())}, zeros)
    put("solarize", {0: (share * 256).floor()}, zeros)
    put("solarize-add", {0: (share * 110).floor()}, zeros)
    for name in ("colour", "contrast", "brightness", "sharpness"):
        put(name, {0: 0.1 + 1.8 * share, 1: 0.9 - 1.8 * share}, zeros)
    return found.transpose(0, 1).contiguous()


def _move_all(images: Tensor, numbers: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    matrix = numbers.view(-1, 2, 3)
    # about the centre, in pixels; and in halves of the side, as grid_sample wants them
    rows, columns = (torch.linspace(-(n - 1) / 2, (n - 1) / 2, n, device=images.device) for n in (height, width))
    places = [
        columns.expand(height, width),
        rows[:, None].expand(height, width),
        torch.ones_like(columns).expand(height, width),
    ]
    scaled = torch.stack([matrix[:, 0] / (0.5 * width), matrix[:, 1] / (0.5 * height)], dim=2)
    grid = (torch.stack(places, dim=2).flatten(0, 1) @ scaled).view(-1, height, width, 2)
    values = F.pad(images.float(), (0, 0, 0, 0, 0, 1), value=1.0)  # a fourth channel: how much of a pixel is inside
    sampled = F.grid_sample(values, grid, align_corners=False)
    fill = constant(FILL, torch.float32, images.device)[:, None, None]
    return ((sampled[:, :3] - fill) * sampled[:, 3:] + fill).round_().to(torch.uint8)


def _stretch_all(images: Tensor, _: Tensor) -> Tensor:
    values = images.float()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    plain = low == high
    span = torch.where(plain, 1.0, (high - low) * (1 / 255))
    return ((values - torch.where(plain, 0.0, low)) / span).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.float().unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()[:, None]


def _blend(images: Tensor, other: Tensor, numbers: Tensor) -> Tensor:
    own, others = numbers[:, 0, None, None, None], numbers[:, 1, None, None, None]
    return (images.float() * own + other * others).clamp_(0, 255).to(torch.uint8)


def _sharpen_all(images: Tensor, numbers: Tensor) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    kernel = constant((1 / 13,) * 4 + (5 / 13,) + (1 / 13,) * 4, torch.float32, images.device)
    values = images.float()
    soft = F.conv2d(values, kernel.view(1, 1, 3, 3).expand(3, 1, 3, 3), groups=3).round_()
    values[..., 1:-1, 1:-1] += (soft - values[..., 1:-1, 1:-1]) * numbers[:, 1, None, None, None]
    return values.clamp_(0, 255).to(torch.uint8)


def _of_first(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, numbers: change(images, numbers[:, 0, None, None, None])


_BATCHED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _stretch_all,
    "equalize": lambda images, _: torch.as_tensor(transforms.equalize(images)),
    "invert": lambda images, _: 255 - images,
    "posterize": _of_first(lambda images, mask: images & mask.to(torch.uint8)),
    "solarize": _of_first(lambda images, limit: torch.where(images.float() < limit, images, 255 - images)),
    "solarize-add": _of_first(lambda images, more: torch.where(images < 128, images + more.to(torch.uint8), images)),
    "colour": lambda images, numbers: _blend(images, _grey(images), numbers),
    "contrast": lambda images, numbers: _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), numbers),
    "brightness": _of_first(lambda images, factor: (images.float() * factor).clamp_(0, 255).to(torch.uint8)),
    "sharpness": _sharpen_all,
    **dict.fromkeys(("rotate", "shear-x", "shear-y", "translate-x", "translate-y"), _move_all),
}
