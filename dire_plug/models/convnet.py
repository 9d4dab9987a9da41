"""The field's ConvNet (Gidaris & Komodakis, 2018; Zhao et al., 2021): a few alike blocks and a linear head.

A block is a 3×3 convolution, instance normalisation with learned scale (GroupNorm with one channel a group) or batch
normalisation, ReLU, and 2×2 average pooling. The head reads the last map flattened, (size // 2^depth)² · width numbers.
With instance normalisation and width 128 it is MTT's (networks.py), DM's (methods/dc/networks.py) and G-VBSM's
ConvNetW128 (recover/networks.py); with batch normalisation DELT's (recover/models.py) and INFER's (models/convnet.py).
Below 32 pixels instance normalisation leaves maps of a few pixels almost alike, so the network for small images
has two blocks with batch normalisation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """What tells one ConvNet from another: channels, number of blocks, batch or instance normalisation."""

    width: int = 128
    depth: int = 3
    batch_norm: bool = False


SHAPES = {
    "convnet-3": Shape(),
    "convnet-4": Shape(depth=4),
    "convnet-3-w32": Shape(width=32),
    "convnet-3-bn": Shape(batch_norm=True),
    "convnet-4-bn": Shape(depth=4, batch_norm=True),
    "convnet-small": Shape(width=64, depth=2, batch_norm=True),
}


class ConvNet(nn.Module):
    """The ConvNet; images [N, 3, H, W] to outputs [N, `outputs`].

    Args:
        outputs: the width of the head.
        shape: channels, blocks and normalisation.
        size: height and width of the images that it is made for. None: of any that its poolings leave something of,
            the last map averaged before the head; the same network as the field's where that map is one pixel, with a
            narrower embedding above.
    """

    def __init__(self, outputs: int, shape: Shape, *, size: int | None = None) -> None:
        super().__init__()
        width, depth = shape.width, shape.depth
        self.features = nn.Sequential(*(_block(width if index else 3, shape) for index in range(depth)))
        side = 1 if size is None else size // 2**depth
        self.pool = nn.AdaptiveAvgPool2d(1) if size is None else nn.Identity()
        self.fc = nn.Linear(width * side**2, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, [N, `outputs`]."""
        outputs: Tensor = self.fc(torch.flatten(self.pool(self.features(images)), 1))
        return outputs


def _block(inputs: int, shape: Shape) -> nn.Sequential:
    width = shape.width
    return nn.Sequential(
        nn.Conv2d(inputs, width, kernel_size=3, padding=1),
        nn.BatchNorm2d(width) if shape.batch_norm else nn.GroupNorm(width, width),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
    )
