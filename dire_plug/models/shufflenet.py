"""ShuffleNet with two groups (Zhang et al., 2018) for small images, as INFER's and DWA's models/shufflenet.py have it.

A 1×1 stem without pooling, three stages, and, unlike the paper, ReLU after the depthwise convolution too.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dire_plug.models.blocks import Averaged, depthwise, pointwise

STEM = 24
GROUPS = 2
STAGES = ((200, 4), (400, 8), (800, 4))
"""Channels and number of units."""
EMBEDDING = 800


def shufflenet_g2(outputs: int) -> Averaged:
    """Build the network."""
    layers: list[nn.Module] = [pointwise(3, STEM)]
    width = STEM
    for channels, count in STAGES:
        layers.append(_Unit(width, channels, halve=True))
        layers += [_Unit(channels, channels, halve=False) for _ in range(count - 1)]
        width = channels
    return Averaged(nn.Sequential(*layers), width=EMBEDDING, outputs=outputs)


class _Unit(nn.Module):
    """A bottleneck of grouped convolutions, with the channels shuffled between the groups.

    A unit that halves the maps puts its result beside their average; another adds it to them.
    """

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        made = outputs - inputs if halve else outputs
        narrow = made // 4
        groups = 1 if inputs == STEM else GROUPS
        self.branch = nn.Sequential(
            pointwise(inputs, narrow, groups=groups),
            nn.ChannelShuffle(groups),
            depthwise(narrow, stride=2 if halve else 1),
            pointwise(narrow, made, groups=GROUPS, linear=True),
        )
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1) if halve else None

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, `outputs`, h, w]."""
        made: Tensor = self.branch(maps)
        return F.relu(made + maps if self.shrink is None else torch.cat([made, self.shrink(maps)], dim=1))
