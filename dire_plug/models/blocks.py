"""What most classifiers here are: feature maps, their average over the image, and one linear layer."""

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


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


def depthwise(channels: int, *, stride: int = 1) -> Conv2dNormActivation:
    """Return a 3×3 convolution of each channel by itself, batch normalisation and ReLU."""
    return Conv2dNormActivation(channels, channels, kernel_size=3, stride=stride, groups=channels)


def pointwise(inputs: int, outputs: int, *, groups: int = 1, linear: bool = False) -> Conv2dNormActivation:
    """Return a 1×1 convolution, batch normalisation and, unless `linear`, ReLU."""
    activation = None if linear else nn.ReLU
    return Conv2dNormActivation(inputs, outputs, kernel_size=1, groups=groups, activation_layer=activation)


def initialise_by_fan_out(model: nn.Module) -> None:
    """Draw every convolution from a normal distribution of variance 2 / (k²·outputs) (He et al., 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
