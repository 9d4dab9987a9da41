"""The wide residual network WRN-16-2 (Zagoruyko & Komodakis, 2016): G-VBSM's recover/models/wrn.py."""

from torch import Tensor, nn
from torch.nn import functional as F

from dire_plug.models.blocks import Averaged, initialise_by_fan_out

STEM = 16
STAGES = ((32, 1), (64, 2), (128, 2))
"""Channels (the paper's 16, 32 and 64, twice as wide) and stride of the first block."""
BLOCKS = 2
"""Blocks of a stage: (16 - 4) / 6."""
EMBEDDING = 128


def wrn_16_2(outputs: int) -> Averaged:
    """Build the network, initialised as theirs."""
    layers: list[nn.Module] = [_convolve(3, STEM)]
    width = STEM
    for channels, stride in STAGES:
        layers.append(_Block(width, channels, stride=stride))
        layers += [_Block(channels, channels, stride=1) for _ in range(BLOCKS - 1)]
        width = channels
    layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    model = Averaged(nn.Sequential(*layers), width=EMBEDDING, outputs=outputs)
    initialise_by_fan_out(model)
    nn.init.zeros_(model.fc.bias)
    return model


class _Block(nn.Module):
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


def _convolve(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
