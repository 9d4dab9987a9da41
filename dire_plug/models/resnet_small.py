"""A ResNet for images of 8 to 16 pixels, that two CPU cores train in seconds.

It keeps what scripts expect of a torchvision ResNet: `conv1` with 64 channels, `bn1`, `maxpool`, `fc`, so that a script
which puts a 3×3 `conv1` and no pooling in their place gets the same network with the same keys.
Stem 64, then one basic block of 64 and one of 128 channels, both with stride 2; the embedding has 128 dimensions.
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

STEM = 64
"""Channels of the first convolution, as in torchvision's ResNets."""


class ResNetSmall(nn.Module):
    """The small ResNet; images [N, 3, H, W], H and W from 4 up, to outputs [N, `outputs`]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity()
        self.layer1 = _block(STEM, 64)
        self.layer2 = _block(64, 128)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, [N, `outputs`]."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = self.layer2(self.layer1(maps))
        outputs: Tensor = self.fc(torch.flatten(self.avgpool(maps), 1))
        return outputs


def _block(inputs: int, width: int) -> nn.Sequential:
    """Return one basic block with stride 2 and a projection beside it."""
    beside = nn.Sequential(nn.Conv2d(inputs, width, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(inputs, width, stride=2, downsample=beside))
