"""Networks by name.

| name | for | embedding |
|---|---|---|
| resnet-18 | 32 and 64 px with the small stem, 224 px with ImageNet's | 512 |
| resnet-small | 8 to 16 px, quick recipes | 128 |
| convnet-3 | the field's ConvNet, from 8 px up | 128, or 128 · (size // 8)² |
| convnet-small | 8 to 16 px, quick recipes: two blocks, batch normalisation | 64, or 64 · (size // 4)² |
"""

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18

from dire_plug.errors import DirePlugError, nearest
from dire_plug.models.convnet import LEAST, ConvNet
from dire_plug.models.resnet_small import ResNetSmall

Stem = Literal["small", "imagenet"]
WIDTHS = {"convnet-3": 128, "convnet-small": 64}
DEPTHS = {"convnet-3": 3, "convnet-small": 2}


def architectures() -> tuple[str, ...]:
    """Return the names that `build` takes."""
    return tuple(_BUILDERS)


def build(architecture: str, *, outputs: int, stem: str = "small", size: int | None = None) -> nn.Module:
    """Build an untrained network, initialised from torch's global random state.

    Args:
        architecture: one of `architectures()`.
        outputs: the width of the head.
        stem: `small` (3×3 convolution with stride 1, no pooling), or `imagenet` (7×7 with stride 2, max pooling).
        size: for the ConvNets, the height and width whose flattened map the head reads; None averages the map.

    Raises:
        DirePlugError: unknown architecture, or a stem or size that it doesn't have.
    """
    check_architecture(architecture)
    if stem not in stems(architecture):
        raise DirePlugError(f"stem: {architecture} has no stem '{stem}'; use {' or '.join(stems(architecture))}")
    if size is not None and size < LEAST:
        raise DirePlugError(f"size: {architecture} needs images of {LEAST} pixels or more, not {size}")
    return _BUILDERS[architecture](outputs, stem, size)


def check_architecture(name: str) -> None:
    """Refuse an architecture that `build` doesn't know."""
    if name not in _BUILDERS:
        raise DirePlugError(
            f"architecture: '{name}' is unknown{nearest(name, _BUILDERS)}; known: {', '.join(_BUILDERS)}"
        )


def stems(architecture: str) -> tuple[str, ...]:
    """Return the stems that an architecture has."""
    return ("small", "imagenet") if architecture == "resnet-18" else ("small",)


def size_of(architecture: str, state: Mapping[str, Tensor]) -> int | None:
    """Return the `size` to build with for the weights `state`: what the head's width tells; None where it averages."""
    head = state.get("fc.weight")
    if architecture not in WIDTHS or head is None or head.dim() != 2:
        return None
    side = isqrt(head.shape[1] // WIDTHS[architecture])
    return side * 2 ** DEPTHS[architecture] if side > 1 else None


def _build_resnet_18(outputs: int, stem: str, size: int | None) -> nn.Module:
    model: nn.Module = resnet18(weights=None, num_classes=outputs)
    if stem == "small":  # as the published scripts do it: conv1 keeps nn.Conv2d's own initialisation
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def _build_resnet_small(outputs: int, stem: str, size: int | None) -> nn.Module:
    return ResNetSmall(outputs)


def _build_convnet_3(outputs: int, stem: str, size: int | None) -> nn.Module:
    return ConvNet(outputs, width=WIDTHS["convnet-3"], depth=DEPTHS["convnet-3"], size=size)


def _build_convnet_small(outputs: int, stem: str, size: int | None) -> nn.Module:
    width, depth = WIDTHS["convnet-small"], DEPTHS["convnet-small"]
    return ConvNet(outputs, width=width, depth=depth, batch_norm=True, size=size)


_BUILDERS: dict[str, Callable[[int, str, int | None], nn.Module]] = {
    "resnet-18": _build_resnet_18,
    "resnet-small": _build_resnet_small,
    "convnet-3": _build_convnet_3,
    "convnet-small": _build_convnet_small,
}
