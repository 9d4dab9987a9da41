"""The field's ConvNet (Gidaris & Komodakis, 2018; Zhao et al., 2021): three blocks and a linear head.

A block is a 3×3 convolution, instance normalisation with learned scale (GroupNorm with one channel a group), ReLU, and
2×2 average pooling. The head reads the last map flattened, (size // 2^depth)² · width numbers, as the field's does.
Below 32 pixels instance normalisation leaves maps of a few pixels almost alike, so the network for small images
has two blocks with batch normalisation.
"""

import torch
from torch import Tensor, nn

LEAST = 8
"""The least height and width that three poolings leave something of."""


class ConvNet(nn.Module):
    """The ConvNet; images [N, 3, H, W] to outputs [N, `outputs`].

    Args:
        outputs: the width of the head.
        width: channels of each block.
        depth: the number of blocks.
        batch_norm: batch normalisation in the place of instance normalisation.
        size: height and width of the images that it is made for. None: of any from 8 up, the last map averaged before
            the head; the same network as the field's at sizes 8 to 15, with a narrower embedding above.
    """

    def __init__(
        self, outputs: int, *, width: int, depth: int = 3, batch_norm: bool = False, size: int | None = None
    ) -> None:
        super().__init__()
        blocks = [_block(width if index else 3, width, batch_norm=batch_norm) for index in range(depth)]
        self.features = nn.Sequential(*blocks)
        side = 1 if size is None else size // 2**depth
        self.pool = nn.AdaptiveAvgPool2d(1) if size is None else nn.Identity()
        self.fc = nn.Linear(width * side**2, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, [N, `outputs`]."""
        outputs: Tensor = self.fc(torch.flatten(self.pool(self.features(images)), 1))
        return outputs


def _block(inputs: int, width: int, *, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, kernel_size=3, padding=1),
        nn.BatchNorm2d(width) if batch_norm else nn.GroupNorm(width, width),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
    )
