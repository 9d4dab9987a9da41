"""Networks for small images: the field's ConvNet, and those of the methods' code, layer by layer.

Names of files are those of the methods' repositories. A network is ours where its weights must fit theirs and
torchvision's has other strides, another stem or other layers. Those of quick recipes do without torchvision, whose
import takes as long as torch's.
"""

from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Averaged(nn.Module):
    """Images [N, 3, H, W] to outputs [N, `outputs`]; the embedding is the averaged map, [N, `width`].

    Args:
        features: images to maps [N, `width`, h, w].
        width: channels of the last map.
        outputs: the width of the head.
        dropout: the share of the embedding that is dropped in train mode.
    """

    def __init__(self, features: nn.Sequential, *, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, [N, `outputs`]."""
        embedding = torch.flatten(self.pool(self.features(images)), 1)
        outputs: Tensor = self.fc(self.dropout(embedding))
        return outputs


class AveragedChannels(nn.Module):
    """Images [N, 3, H, W] to the mean of their channels, three times, in the same shape.

    A network of grey images then sends all channels the same gradient. The weights stand in the state dict, so that it
    tells such a network from one that sees colours.
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((3, 1, 1), 1 / 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the grey images."""
        # three of them: scripts put a `conv1` of their own behind this, for three channels
        return (images * self.weights).sum(dim=1, keepdim=True).expand_as(images)


def depthwise(channels: int, *, stride: int = 1) -> nn.Sequential:
    """Return a 3×3 convolution of each channel by itself, batch normalisation and ReLU."""
    return _activated(channels, channels, stride=stride, groups=channels)


def pointwise(inputs: int, outputs: int, *, groups: int = 1, linear: bool = False) -> nn.Sequential:
    """Return a 1×1 convolution, batch normalisation and, unless `linear`, ReLU."""
    return _activated(inputs, outputs, kernel=1, groups=groups, activation=None if linear else nn.ReLU)


def _activated(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.ReLU | nn.SiLU] | None = nn.ReLU,
) -> nn.Sequential:
    convolution = _convolve(inputs, outputs, kernel=kernel, stride=stride, groups=groups)
    after = [] if activation is None else [activation(inplace=True)]
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *after)


def initialise_by_fan_out(model: nn.Module) -> None:
    """Draw every convolution from a normal distribution of variance 2 / (k²·outputs) (He et al., 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ConvNet(nn.Module):
    """The field's ConvNet (Gidaris & Komodakis, 2018; Zhao et al., 2021); images [N, 3, H, W] to [N, `outputs`].

    A block is a 3×3 convolution, instance or batch normalisation with learned scale, ReLU, and 2×2 average pooling. The
    head reads the last map flattened, (size // 2^depth)² · width numbers. With instance normalisation and width 128 it
    is MTT's (networks.py), DM's (methods/dc/networks.py) and G-VBSM's ConvNetW128 (recover/networks.py); with batch
    normalisation DELT's (recover/models.py) and INFER's (models/convnet.py). Below 32 pixels instance normalisation
    leaves maps of a few pixels almost alike, so the network for small images has two blocks with batch normalisation.

    Args:
        outputs: the width of the head.
        width: channels of every block.
        depth: the number of blocks.
        batch_norm: whether a block normalises batches, not instances.
        size: height and width of the images that it is made for. None: of any that its poolings leave something of,
            the last map averaged before the head; the same network as the field's where that map is one pixel, with a
            narrower embedding above.
        grey: whether the channels of an image are averaged first.
    """

    def __init__(
        self, outputs: int, *, width: int, depth: int, batch_norm: bool, size: int | None = None, grey: bool = False
    ) -> None:
        super().__init__()
        self.channels = AveragedChannels() if grey else nn.Identity()
        inputs = (3, *(width,) * (depth - 1))
        self.features = nn.Sequential(*(_convnet_block(count, width, batch_norm=batch_norm) for count in inputs))
        side = 1 if size is None else size // 2**depth  # each block's pooling halves, an odd last row is lost
        self.pool = nn.AdaptiveAvgPool2d(1) if size is None else nn.Identity()
        self.fc = nn.Linear(width * side**2, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, [N, `outputs`]."""
        outputs: Tensor = self.fc(torch.flatten(self.pool(self.features(self.channels(images))), 1))
        return outputs


def _convnet_block(inputs: int, width: int, *, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, kernel_size=3, padding=1),
        nn.BatchNorm2d(width) if batch_norm else nn.GroupNorm(width, width),  # one channel a group: of each instance
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
    )


CONVNETS: dict[str, tuple[int, int, bool]] = {
    "convnet-1": (128, 1, False),
    "convnet-2": (128, 2, False),
    "convnet-3": (128, 3, False),
    "convnet-4": (128, 4, False),
    "convnet-3-w32": (32, 3, False),
    "convnet-3-bn": (128, 3, True),
    "convnet-4-bn": (128, 4, True),
    "convnet-small": (64, 2, True),
    "convnet-small-grey": (64, 2, True),
}
"""Architecture → width, number of blocks, whether these normalise batches instead of instances."""
GREY = "-grey"
"""The end of the names of networks that average the channels of an image first."""


def build_convnet(architecture: str, outputs: int, *, size: int | None) -> ConvNet:
    """Build one of `CONVNETS`."""
    width, depth, batch_norm = CONVNETS[architecture]
    grey = architecture.endswith(GREY)
    return ConvNet(outputs, width=width, depth=depth, batch_norm=batch_norm, size=size, grey=grey)


def convnet_size(architecture: str, state: Mapping[str, Tensor]) -> int | None:
    """Return the size that the weights of a ConvNet were built for, told by its head's width; None for an average."""
    head = state.get("fc.weight")
    if head is None or head.dim() != 2:
        return None
    width, depth, _ = CONVNETS[architecture]
    side = isqrt(head.shape[1] // width)
    return side * 2**depth if side > 1 else None  # of one pixel, the flat map and the average are the same network


RESNET_STEM = 64
"""Channels of the first convolution, as in torchvision's ResNets."""


class ResNetSmall(nn.Module):
    """A ResNet for images of 8 to 16 pixels, which two CPU cores train in seconds: [N, 3, H, W] to [N, `outputs`].

    It keeps what scripts expect of a torchvision ResNet: `conv1` with 64 channels, `bn1`, `maxpool`, `fc`, so that a
    script which puts in a 3×3 `conv1` and no pooling gets the same network with the same keys. Stem 64, then one basic
    block of 64 and one of 128 channels, both with stride 2; the embedding has 128 dimensions. H and W from 4 up.

    Args:
        outputs: the width of the head.
        grey: whether the channels of an image are averaged first.
    """

    def __init__(self, outputs: int, *, grey: bool = False) -> None:
        super().__init__()
        self.channels = AveragedChannels() if grey else nn.Identity()
        self.conv1 = nn.Conv2d(3, RESNET_STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(RESNET_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity()  # scripts put a pooling of their own, or none, in its place
        self.layer1 = _resnet_block(RESNET_STEM, 64)
        self.layer2 = _resnet_block(64, 128)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, outputs)
        initialise_by_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, [N, `outputs`]."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(self.channels(images)))))
        maps = self.layer2(self.layer1(maps))
        outputs: Tensor = self.fc(torch.flatten(self.avgpool(maps), 1))
        return outputs


def _resnet_block(inputs: int, width: int) -> nn.Sequential:
    """Return one basic block with stride 2 and a projection beside it."""
    beside = nn.Sequential(nn.Conv2d(inputs, width, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(inputs, width, downsample=beside))


class BasicBlock(nn.Module):
    """torchvision's basic block of a ResNet with stride 2, its keys too."""

    def __init__(self, inputs: int, width: int, *, downsample: nn.Module) -> None:
        super().__init__()
        self.conv1 = _convolve(inputs, width, stride=2)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolve(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, `width`, ⌈h / 2⌉, ⌈w / 2⌉]."""
        made = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        # in this order, as torchvision has it: in place on `made`
        made += self.downsample(maps)
        result: Tensor = self.relu(made)
        return result


def vgg_16_bn(outputs: int) -> Averaged:
    """Build VGG-16 with batch normalisation and one linear layer: DWA's models/vgg.py, for 32 px."""
    from torchvision.models.vgg import cfgs, make_layers

    return Averaged(make_layers(cfgs["D"], batch_norm=True), width=512, outputs=outputs)


DENSENET_BLOCKS = (6, 12, 24, 16)
"""Layers of each block of DenseNet-121 (Huang et al., 2017)."""
DENSENET_GROWTH = 32


def densenet_121(outputs: int) -> Averaged:
    """Build CV-DD's DenseNet-121 (models/densenet.py): its stem is a 3×3 convolution alone, for images from 8 px up."""
    width = 2 * DENSENET_GROWTH
    parts: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for number, count in enumerate(DENSENET_BLOCKS):
        if number:
            parts.append(nn.Sequential(*_normalised(width, width // 2), nn.AvgPool2d(2)))
            width //= 2
        parts.append(nn.Sequential(*(_DenseLayer(width + place * DENSENET_GROWTH) for place in range(count))))
        width += count * DENSENET_GROWTH
    return Averaged(nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU()), width=width, outputs=outputs)


class _DenseLayer(nn.Module):
    """Puts the new channels of a layer in front of those that it got; torchvision's puts them behind."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        between = 4 * DENSENET_GROWTH
        self.branch = nn.Sequential(*_normalised(inputs, between), *_normalised(between, DENSENET_GROWTH, kernel=3))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, [N, `inputs` + 32, H, W]."""
        return torch.cat([self.branch(maps), maps], 1)


def _normalised(inputs: int, outputs: int, *, kernel: int = 1) -> tuple[nn.Module, ...]:
    """Return normalisation, ReLU and a convolution: the order of layers in a DenseNet."""
    return nn.BatchNorm2d(inputs), nn.ReLU(), _convolve(inputs, outputs, kernel=kernel)


# MobileNetV2 (Sandler et al., 2018), in the two forms that the methods' code has. Both keep the
# paper's blocks, but with ReLU instead of ReLU6, an expansion by 1 that is still a convolution, and
# stride 1 where the maps grow to 24 channels.

MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, number of blocks, stride of the first one."""
MOBILENET_WIDTH = 1280


def mobilenet_v2(outputs: int) -> Averaged:
    """Build INFER's and DWA's MobileNetV2 (models/mobilenetv2.py).

    Its stem has stride 1, and a projection stands beside each block with stride 1 whose width changes.
    """
    return _mobilenet(outputs, divisor=1, stem_stride=1, project=True)


def half_mobilenet_v2(outputs: int) -> Averaged:
    """Build G-VBSM's MobileNetV2 of half the width (recover/models/mobilenetv2.py), initialised as theirs.

    Its stem has stride 2, and there are no projections.
    """
    model = _mobilenet(outputs, divisor=2, stem_stride=2, project=False)
    initialise_by_fan_out(model)
    nn.init.normal_(model.fc.weight, std=0.01)
    nn.init.zeros_(model.fc.bias)
    return model


class _InvertedResidual(nn.Module):
    """An inverted residual: wider, filtered, narrower again."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int, project: bool) -> None:
        super().__init__()
        wide = expansion * inputs
        self.branch = nn.Sequential(
            pointwise(inputs, wide), depthwise(wide, stride=stride), pointwise(wide, outputs, linear=True)
        )
        self.beside: nn.Module | None = None
        if stride == 1 and inputs == outputs:
            self.beside = nn.Identity()
        elif stride == 1 and project:  # no shortcut across a stride, where the maps have another size
            self.beside = pointwise(inputs, outputs, linear=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, `outputs`, h, w]."""
        result: Tensor = self.branch(maps)
        return result if self.beside is None else result + self.beside(maps)


def _mobilenet(outputs: int, *, divisor: int, stem_stride: int, project: bool) -> Averaged:
    width = 32 // divisor
    layers: list[nn.Module] = [_activated(3, width, stride=stem_stride)]
    for expansion, channels, count, first_stride in MOBILENET_STAGES:
        for stride in (first_stride, *(1,) * (count - 1)):
            wanted = channels // divisor
            layers.append(_InvertedResidual(width, wanted, expansion=expansion, stride=stride, project=project))
            width = wanted
    layers.append(pointwise(width, MOBILENET_WIDTH))
    return Averaged(nn.Sequential(*layers), width=MOBILENET_WIDTH, outputs=outputs)


# EfficientNet-B0 (Tan & Le, 2019): torchvision's blocks with other strides, and no convolution after the last block.

EFFICIENTNET_STEM = 32
EFFICIENTNET_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride of the first block, channels, number of blocks."""
EFFICIENTNET_DROPOUT = 0.2
"""The dropped share of the embedding and, rising with the depth from 0, of whole branches."""


def efficientnet_b0(outputs: int) -> Averaged:
    """Build INFER's and DWA's EfficientNet-B0 (models/efficientnet.py).

    The stem is a 3×3 convolution with stride 1; the strides of the stages are 1, 2, 2, 2, 1, 2, 1. The embedding is the
    average of 320 linear maps, so it has both signs.
    """
    from torchvision.models.efficientnet import MBConv, MBConvConfig

    block = partial(MBConv, norm_layer=nn.BatchNorm2d)
    layers: list[nn.Module] = []
    width, total = EFFICIENTNET_STEM, sum(stage[-1] for stage in EFFICIENTNET_STAGES)
    for expansion, kernel, first_stride, channels, count in EFFICIENTNET_STAGES:
        for stride in (first_stride, *(1,) * (count - 1)):
            shape = MBConvConfig(expansion, kernel, stride, width, channels, 1)
            layers.append(
                cast(nn.Module, block(shape, stochastic_depth_prob=EFFICIENTNET_DROPOUT * len(layers) / total))
            )
            width = channels
    # an expansion for the first block, which nothing reads: the published weights have it
    layers[0].unread = _activated(EFFICIENTNET_STEM, EFFICIENTNET_STEM, kernel=1, activation=nn.SiLU)
    features = nn.Sequential(_activated(3, EFFICIENTNET_STEM, activation=nn.SiLU), *layers)
    return Averaged(features, width=width, outputs=outputs, dropout=EFFICIENTNET_DROPOUT)


SHUFFLENET_STEM = 24
SHUFFLENET_GROUPS = 2
SHUFFLENET_STAGES = ((200, 4), (400, 8), (800, 4))
"""Channels and number of units."""


def shufflenet_g2(outputs: int) -> Averaged:
    """Build INFER's and DWA's ShuffleNet with two groups (Zhang et al., 2018; models/shufflenet.py).

    A 1×1 stem without pooling, three stages, and, unlike the paper, ReLU after the depthwise convolution too.
    """
    layers: list[nn.Module] = [pointwise(3, SHUFFLENET_STEM)]
    width = SHUFFLENET_STEM
    for channels, count in SHUFFLENET_STAGES:
        layers.append(_ShuffleUnit(width, channels, halve=True))
        layers += [_ShuffleUnit(channels, channels, halve=False) for _ in range(count - 1)]
        width = channels
    return Averaged(nn.Sequential(*layers), width=width, outputs=outputs)


class _ShuffleUnit(nn.Module):
    """A bottleneck of grouped convolutions, with the channels shuffled between the groups.

    A unit that halves the maps puts its result beside their average; another adds it to them.
    """

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        made = outputs - inputs if halve else outputs  # the average of the input brings the other channels
        narrow = made // 4
        # the paper doesn't group the first 1×1 convolution, which has few channels
        groups = 1 if inputs == SHUFFLENET_STEM else SHUFFLENET_GROUPS
        self.branch = nn.Sequential(
            pointwise(inputs, narrow, groups=groups),
            nn.ChannelShuffle(groups),
            depthwise(narrow, stride=2 if halve else 1),
            pointwise(narrow, made, groups=SHUFFLENET_GROUPS, linear=True),
        )
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1) if halve else None

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, `outputs`, h, w]."""
        made: Tensor = self.branch(maps)
        return F.relu(made + maps if self.shrink is None else torch.cat([made, self.shrink(maps)], dim=1))


WRN_STEM = 16
WRN_STAGES = ((32, 1), (64, 2), (128, 2))
"""Channels (the paper's 16, 32 and 64, twice as wide) and stride of the first block."""
WRN_BLOCKS = 2
"""Blocks of a stage: (16 - 4) / 6."""


def wrn_16_2(outputs: int) -> Averaged:
    """Build the wide residual network WRN-16-2 (Zagoruyko & Komodakis, 2016), initialised as G-VBSM's wrn.py does."""
    layers: list[nn.Module] = [_convolve(3, WRN_STEM)]
    width = WRN_STEM
    for channels, stride in WRN_STAGES:
        layers.append(_WideBlock(width, channels, stride=stride))
        layers += [_WideBlock(channels, channels, stride=1) for _ in range(WRN_BLOCKS - 1)]
        width = channels
    layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    model = Averaged(nn.Sequential(*layers), width=width, outputs=outputs)
    initialise_by_fan_out(model)
    nn.init.zeros_(model.fc.bias)
    return model


class _WideBlock(nn.Module):
    """A block that normalises before it convolves; a projection beside it reads the normalised maps too."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _convolve(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolve(outputs, outputs)
        self.beside = _convolve(inputs, outputs, kernel=1, stride=stride) if inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, `outputs`, h, w]."""
        ready = F.relu(self.bn1(maps))
        made: Tensor = self.conv2(F.relu(self.bn2(self.conv1(ready))))
        return made + (maps if self.beside is None else self.beside(ready))


def _convolve(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
