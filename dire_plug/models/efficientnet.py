"""EfficientNet-B0 (Tan & Le, 2019) for small images, as INFER's and DWA's models/efficientnet.py have it.

torchvision's blocks with other strides (a 3×3 stem with stride 1, and 1, 2, 2, 2, 1, 2, 1), and no convolution after
the last block: the embedding is the average of 320 linear maps, so it has both signs. Their weights hold an expansion
for the first block, which nothing reads; it is kept, so that the weights fit.
"""

from functools import partial
from typing import cast

from torch import nn
from torchvision.models.efficientnet import MBConv, MBConvConfig
from torchvision.ops import Conv2dNormActivation

from dire_plug.models.blocks import Averaged

STEM = 32
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride of the first block, channels, number of blocks."""
EMBEDDING = 320
DROPOUT = 0.2
"""Of the embedding, and (rising with the depth from 0) of whole branches."""


def efficientnet_b0(outputs: int) -> Averaged:
    """Build the network."""
    block = partial(MBConv, norm_layer=nn.BatchNorm2d)
    layers: list[nn.Module] = []
    width, total = STEM, sum(stage[-1] for stage in STAGES)
    for expansion, kernel, first_stride, channels, count in STAGES:
        for stride in (first_stride, *(1,) * (count - 1)):
            shape = MBConvConfig(expansion, kernel, stride, width, channels, 1)
            layers.append(cast(nn.Module, block(shape, stochastic_depth_prob=DROPOUT * len(layers) / total)))
            width = channels
    layers[0].unread = _convolve(STEM, STEM, kernel=1)
    features = nn.Sequential(_convolve(3, STEM, kernel=3), *layers)
    return Averaged(features, width=EMBEDDING, outputs=outputs, dropout=DROPOUT)


def _convolve(inputs: int, outputs: int, *, kernel: int) -> Conv2dNormActivation:
    return Conv2dNormActivation(inputs, outputs, kernel_size=kernel, activation_layer=nn.SiLU)
