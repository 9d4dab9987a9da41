"""Networks by name.

| name | of | for | embedding |
|---|---|---|---|
| resnet-18 | all methods; G-VBSM's is the same network with other keys | 32, 64 px with the small stem, 224 px | 512 |
| resnet-50, resnet-101 | DELT, DWA: students | like resnet-18 | 2048 |
| resnet-small | quick recipes | 8 to 16 px | 128 |
| convnet-3, convnet-4 | MTT, DM, G-VBSM (ConvNetW128: depth 3) | 32 px; 64 px | 128 · (size // 2^depth)², or 128 |
| convnet-3-w32 | MTT, DM: a quarter as wide (ConvNetW32): quick recipes | 32 px | 32 · (size // 8)², or 32 |
| convnet-3-bn, convnet-4-bn | DELT, INFER | 32 px; 64 px | likewise |
| convnet-small | quick recipes: two blocks, batch normalisation | 8 to 16 px | 64 · (size // 4)², or 64 |
| mobilenet-v2-ufc | INFER, DWA | 32 px | 1280 |
| efficientnet-b0-ufc | INFER, DWA | 32 px | 320, of both signs |
| shufflenet-g2-ufc | INFER, DWA | 32 px | 800 |
| vgg-16-bn-dwa | DWA | 32 px | 512 |
| mobilenet-v2-gvbsm | G-VBSM, half of the width | 32, 64 px | 1280 |
| wrn-16-2 | G-VBSM | 32, 64 px | 128 |
| shufflenet-v2-x0.5 | G-VBSM; torchvision's with ImageNet's stem | 32, 64 px with the small stem, 224 px | 1024 |
| mobilenet-v2 | torchvision's | 224 px | 1280 |
| efficientnet-b0 | torchvision's | 224 px | 1280, of both signs |

The methods' code averages INFER's last maps by a fixed window, so that it takes 32 px alone (its VGG-16 likewise);
ours average whatever they get, which is the same at 32 px. The module `keys` knows how that code names the weights.
"""

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Literal

from torch import Tensor, nn

from dire_plug.errors import DirePlugError, nearest
from dire_plug.models.convnet import SHAPES, ConvNet
from dire_plug.models.efficientnet import efficientnet_b0
from dire_plug.models.mobilenet import half_mobilenet_v2, mobilenet_v2
from dire_plug.models.published import NAMES, build_published, vgg_16_bn
from dire_plug.models.resnet_small import ResNetSmall
from dire_plug.models.shufflenet import shufflenet_g2
from dire_plug.models.wide_resnet import wrn_16_2

Stem = Literal["small", "imagenet"]
_SMALL: dict[str, Callable[[int], nn.Module]] = {
    "resnet-small": ResNetSmall,
    "mobilenet-v2-ufc": mobilenet_v2,
    "efficientnet-b0-ufc": efficientnet_b0,
    "shufflenet-g2-ufc": shufflenet_g2,
    "vgg-16-bn-dwa": vgg_16_bn,
    "mobilenet-v2-gvbsm": half_mobilenet_v2,
    "wrn-16-2": wrn_16_2,
}
"""Those that have the small stem alone and take images of any size."""
_IMAGENET_ONLY = ("mobilenet-v2", "efficientnet-b0")
_SIGNED = ("efficientnet-b0", "efficientnet-b0-ufc")
_LEAST = {"convnet-4": 16, "convnet-4-bn": 16, "vgg-16-bn-dwa": 32}


def architectures() -> tuple[str, ...]:
    """Return the names that `build` takes."""
    return tuple(dict.fromkeys(["resnet-18", *SHAPES, *_SMALL, *NAMES]))


def build(architecture: str, *, outputs: int, stem: str = "small", size: int | None = None) -> nn.Module:
    """Build an untrained network, initialised from torch's global random state.

    Args:
        architecture: one of `architectures()`.
        outputs: the width of the head.
        stem: `small` (for 64 px and less: mostly with stride 1, no pooling), or `imagenet` (torchvision's).
        size: for the ConvNets, the height and width whose flattened map the head reads; None averages the map.

    Raises:
        DirePlugError: unknown architecture, or a stem or size that it doesn't have.
    """
    check_architecture(architecture)
    if stem not in stems(architecture):
        raise DirePlugError(f"stem: {architecture} has no stem '{stem}'; use {' or '.join(stems(architecture))}")
    if size is not None and size < least_size(architecture):
        raise DirePlugError(
            f"size: {architecture} needs images of {least_size(architecture)} pixels or more, not {size}"
        )
    if architecture in SHAPES:
        return ConvNet(outputs, SHAPES[architecture], size=size)
    if architecture in _SMALL:
        return _SMALL[architecture](outputs)
    return build_published(architecture, outputs, stem)


def check_architecture(name: str) -> None:
    """Refuse an architecture that `build` doesn't know."""
    if name not in (known := architectures()):
        raise DirePlugError(f"architecture: '{name}' is unknown{nearest(name, known)}; known: {', '.join(known)}")


def stems(architecture: str) -> tuple[str, ...]:
    """Return the stems that an architecture has."""
    if architecture in _IMAGENET_ONLY:
        return ("imagenet",)
    return ("small", "imagenet") if architecture in NAMES else ("small",)


def least_size(architecture: str) -> int:
    """Return the least height and width of images that an architecture takes."""
    return _LEAST.get(architecture, 8)


def nonnegative(architecture: str) -> bool:
    """Return whether no embedding of an architecture has a negative value: ReLU before its last average or map."""
    return architecture not in _SIGNED


def torchvision_name(architecture: str) -> str | None:
    """Return what torchvision calls an architecture, None where it has none; with the imagenet stem, it is the same."""
    return NAMES.get(architecture)


def size_of(architecture: str, state: Mapping[str, Tensor]) -> int | None:
    """Return the `size` to build with for the weights `state`: what the head's width tells; None where it averages."""
    head = state.get("fc.weight")
    if architecture not in SHAPES or head is None or head.dim() != 2:
        return None
    shape = SHAPES[architecture]
    side = isqrt(head.shape[1] // shape.width)
    return side * 2**shape.depth if side > 1 else None
