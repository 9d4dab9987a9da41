"""MobileNetV2 (Sandler et al., 2018) for small images, in the two forms that the methods' code has.

Both keep the paper's blocks, but with ReLU instead of ReLU6, an expansion by 1 that is still a convolution, and
stride 1 where the maps grow to 24 channels. INFER's and DWA's (models/mobilenetv2.py) has a stem with stride 1, and a
projection beside each block with stride 1 whose width changes. G-VBSM's (recover/models/mobilenetv2.py) has half of
the width, a stem with stride 2, and no projections.
"""

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from dire_plug.models.blocks import Averaged, depthwise, initialise_by_fan_out, pointwise

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, number of blocks, stride of the first one."""
EMBEDDING = 1280


def mobilenet_v2(outputs: int) -> Averaged:
    """Build INFER's and DWA's MobileNetV2."""
    return _mobilenet(outputs, divisor=1, stem_stride=1, project=True)


def half_mobilenet_v2(outputs: int) -> Averaged:
    """Build G-VBSM's MobileNetV2 of half the width, initialised as theirs."""
    model = _mobilenet(outputs, divisor=2, stem_stride=2, project=False)
    initialise_by_fan_out(model)
    nn.init.normal_(model.fc.weight, std=0.01)
    nn.init.zeros_(model.fc.bias)
    return model


class _Block(nn.Module):
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
        elif stride == 1 and project:
            self.beside = pointwise(inputs, outputs, linear=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, `outputs`, h, w]."""
        result: Tensor = self.branch(maps)
        return result if self.beside is None else result + self.beside(maps)


def _mobilenet(outputs: int, *, divisor: int, stem_stride: int, project: bool) -> Averaged:
    width = 32 // divisor
    layers: list[nn.Module] = [Conv2dNormActivation(3, width, stride=stem_stride)]
    for expansion, channels, count, first_stride in STAGES:
        for stride in (first_stride, *(1,) * (count - 1)):
            wanted = channels // divisor
            layers.append(_Block(width, wanted, expansion=expansion, stride=stride, project=project))
            width = wanted
    layers.append(pointwise(width, EMBEDDING))
    return Averaged(nn.Sequential(*layers), width=EMBEDDING, outputs=outputs)
