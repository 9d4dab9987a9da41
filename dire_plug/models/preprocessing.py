"""What published networks do to a picture before they look at it, on tensors.

The libraries resize pictures with Pillow: columns first, then rows, each with antialiasing, cut off at black and white
and rounded to grey levels after both. So do these; single pixels differ from those of Pillow, which computes in fixed
point, by one grey level, seldom two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import functional


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, cut out the middle, normalise.

    Attributes:
        resize, crop: in pixels.
        mean, std: of the channels of images in [0, 1].
        interpolation: `bicubic` or `bilinear`.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return [n, 3, crop, crop], float32, of images in uint8 or float in [0, 1], [n, 3, h, w]."""
        levels = images.float() if images.dtype == torch.uint8 else images.float() * 255
        height, width = (side * self.resize for side in levels.shape[2:])
        short = min(levels.shape[2:])
        levels = self._resize(levels, levels.shape[2], width // short)
        levels = self._resize(levels, height // short, levels.shape[3])
        cut = functional.center_crop(levels, [self.crop, self.crop])
        found: Tensor = functional.normalize(cut / 255, list(self.mean), list(self.std))
        return found

    def _resize(self, levels: Tensor, height: int, width: int) -> Tensor:
        if levels.shape[2:] == (height, width):
            return levels
        resized = torch.nn.functional.interpolate(
            levels, (height, width), mode=self.interpolation, align_corners=False, antialias=True
        )
        return resized.clamp_(0, 255).add_(0.5).floor_()  # halves go up, as Pillow's
