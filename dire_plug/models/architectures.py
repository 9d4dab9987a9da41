"""Build networks by name.

| name | of | for | embedding |
|---|---|---|---|
| resnet-18 | all methods; G-VBSM's is the same network with other keys | 32, 64 px with the small stem, 224 px | 512 |
| resnet-50, resnet-101 | DELT, DWA: students | like resnet-18 | 2048 |
| resnet-small | quick recipes | 8 to 16 px | 128 |
| resnet-small-grey | the same, but it averages the channels first: for grey images | 8 to 16 px | 128 |
| convnet-3, convnet-4 | MTT, DM, G-VBSM (ConvNetW128: depth 3) | 32 px; 64 px | 128 · (size // 2^depth)², or 128 |
| convnet-3-w32 | EDC; MTT, DM: a quarter as wide (ConvNetW32): quick recipes | 32 px | 32 · (size // 8)², or 32 |
| convnet-1, convnet-2 | EDC (ConvNetD1, ConvNetD2) | 32 px | 128 · (size // 2^depth)², or 128 |
| convnet-3-bn, convnet-4-bn | DELT, INFER | 32 px; 64 px | likewise |
| convnet-small | quick recipes: two blocks, batch normalisation | 8 to 16 px | 64 · (size // 4)², or 64 |
| convnet-small-grey | the same for grey images | 8 to 16 px | likewise |
| mobilenet-v2-ufc | INFER, DWA | 32 px | 1280 |
| efficientnet-b0-ufc | INFER, DWA | 32 px | 320, of both signs |
| shufflenet-g2-ufc | INFER, DWA | 32 px | 800 |
| vgg-16-bn-dwa | DWA | 32 px | 512 |
| mobilenet-v2-gvbsm | G-VBSM, half of the width | 32, 64 px | 1280 |
| wrn-16-2 | G-VBSM | 32, 64 px | 128 |
| shufflenet-v2-x0.5 | G-VBSM, DWA; torchvision's with ImageNet's stem | 32, 64 px with the small stem, 224 px | 1024 |
| shufflenet-v2-x1.0 | torchvision's, and with the same small stem | likewise | 1024 |
| shufflenet-v2-x0.5-cvdd | CV-DD: the stem is a 3×3 convolution | 32, 64 px | 1024 |
| densenet-121-cvdd | CV-DD: the stem is a 3×3 convolution, without pooling | 32, 64 px | 1024 |
| densenet-121 | CV-DD; torchvision's | 224 px | 1024 |
| mobilenet-v2 | DWA; torchvision's | 224 px; it takes 8 px and more | 1280 |
| efficientnet-b0 | DWA; torchvision's | 224 px; it takes 8 px and more | 1280, of both signs |
| vgg-16 | torchvision's, without batch normalisation | 64 px (Table 11), 224 px; not below 32 px | 4096 |
| vit-small | Lee et al. (2021); settings guessed: `vit` | 32, 64 px; multiples of 4 or 8 | 512, of both signs |
| vit-tiny | DWA; timm's vit_tiny_patch16_224: extra `students` | 224 px; multiples of 16 | 192, of both signs |

Students of the DiRe paper's tables: 10 (CIFAR-100) resnet-50, resnet-101, vgg-16-bn-dwa, mobilenet-v2-ufc, vit-small;
11 (Tiny-ImageNet) vgg-16, vit-small; 12 (ImageNet-1K) mobilenet-v2, shufflenet-v2-x0.5; 13 convnet-3; others resnet-18.
It names families only: which VGG-16, MobileNetV2 and ShuffleNet these are is read off the methods' scripts.

The methods' code averages INFER's last maps by a fixed window, so that it takes 32 px alone (its VGG-16 likewise);
ours average whatever they get, which is the same at 32 px. `upstream_keys` has their keys of weights.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from torch import Tensor, nn

from dire_plug.errors import DirePlugError, nearest
from dire_plug.models import vit
from dire_plug.models.small_networks import (
    CONVNETS,
    ResNetSmall,
    build_convnet,
    convnet_size,
    densenet_121,
    efficientnet_b0,
    half_mobilenet_v2,
    mobilenet_v2,
    shufflenet_g2,
    vgg_16_bn,
    wrn_16_2,
)
from dire_plug.types import TORCHVISION_NAMES

TORCHVISION = "torchvision:"
"""How a recipe, or an option, begins the name of weights that torchvision publishes."""


def build_published(architecture: str, outputs: int, stem: str) -> nn.Module:
    """Build an untrained network of torchvision's.

    The small stem of a ResNet is a 3×3 convolution with stride 1, of ShuffleNetV2 a 1×1 one (G-VBSM's
    recover/models/ShuffleNetv2.py); neither is followed by pooling.
    """
    from torchvision.models import get_model_builder

    # torchvision's registry, for a shim may have replaced its functions by networks of ours
    model: nn.Module = get_model_builder(TORCHVISION_NAMES[architecture])(weights=None, num_classes=outputs)
    if stem == "small":
        convolve = partial(nn.Conv2d, 3, bias=False)  # as the scripts do it: with nn.Conv2d's own initialisation
        if architecture.startswith("resnet"):
            model.conv1 = convolve(64, kernel_size=3, padding=1)
        else:
            model.get_submodule("conv1")[0] = convolve(24, kernel_size=1)  # type: ignore[operator]
        model.maxpool = nn.Identity()
    return model


def shufflenet_of_cvdd(outputs: int) -> nn.Module:
    """Build CV-DD's ShuffleNetV2 (models/shufflenetv2.py): torchvision's x0.5 behind a 3×3 convolution."""
    model = build_published("shufflenet-v2-x0.5", outputs, "small")
    convolution = nn.Conv2d(3, 24, kernel_size=3, padding=1, bias=False)
    # one level deeper than torchvision's, whose shape is the same with stride 2: so weights tell which they are of
    model.get_submodule("conv1")[0] = nn.Sequential(convolution)  # type: ignore[operator]
    return model


Stem = Literal["small", "imagenet"]
_SMALL: dict[str, Callable[[int], nn.Module]] = {
    "resnet-small": ResNetSmall,
    "resnet-small-grey": partial(ResNetSmall, grey=True),
    "mobilenet-v2-ufc": mobilenet_v2,
    "efficientnet-b0-ufc": efficientnet_b0,
    "shufflenet-g2-ufc": shufflenet_g2,
    "vgg-16-bn-dwa": vgg_16_bn,
    "mobilenet-v2-gvbsm": half_mobilenet_v2,
    "wrn-16-2": wrn_16_2,
    "shufflenet-v2-x0.5-cvdd": shufflenet_of_cvdd,
    "densenet-121-cvdd": densenet_121,
}
"""Those that have the small stem alone and take images of any size."""
_VIT_SMALL, _VIT_TINY = "vit-small", "vit-tiny"
_IMAGENET_ONLY = ("mobilenet-v2", "efficientnet-b0", "vgg-16", "densenet-121", _VIT_TINY)
# SiLU, linear maps or a LayerNorm come last in these, not ReLU
_SIGNED = ("efficientnet-b0", "efficientnet-b0-ufc", _VIT_SMALL, _VIT_TINY)
# fewer pixels than these would be gone after the poolings: four of a ConvNet's, five of VGG's and DenseNet's
_LEAST = {
    "convnet-4": 16,
    "convnet-4-bn": 16,
    "vgg-16-bn-dwa": 32,
    "vgg-16": 32,
    "densenet-121": 32,
    _VIT_TINY: vit.VIT_TINY_PATCH,
}


def architectures() -> tuple[str, ...]:
    """Return the names that `build` takes."""
    # in this order `checkpoint.identify` tries them
    return tuple(dict.fromkeys(["resnet-18", *CONVNETS, *_SMALL, *TORCHVISION_NAMES, _VIT_SMALL, _VIT_TINY]))


def build(architecture: str, *, outputs: int, stem: str = "small", size: int | None = None) -> nn.Module:
    """Build an untrained network, initialised from torch's global random state.

    Args:
        architecture: one of `architectures()`.
        outputs: the width of the head.
        stem: `small` (for 64 px and less: mostly with stride 1, no pooling), or `imagenet` (torchvision's).
        size: height and width of the images. For the ConvNets, those whose flattened map the head reads; None averages
            the map. For the transformers, those that give the number of positions; None is 32 px, or 224 px for
            vit-tiny. Nothing for the others.

    Raises:
        DirePlugError: unknown architecture, a stem or size that it doesn't have, or its package isn't installed.
    """
    check_architecture(architecture)
    if stem not in stems(architecture):
        raise DirePlugError(f"stem: {architecture} has no stem '{stem}'; use {' or '.join(stems(architecture))}")
    if size is not None:
        check_size(architecture, size)
    if architecture in CONVNETS:
        return build_convnet(architecture, outputs, size=size)
    if architecture == _VIT_SMALL:
        return vit.VitSmall(outputs, size=size or vit.VIT_SMALL_SIZE)
    if architecture == _VIT_TINY:
        return vit.build_vit_tiny(outputs, size=size or vit.VIT_TINY_SIZE)
    if architecture in _SMALL:
        return _SMALL[architecture](outputs)
    return build_published(architecture, outputs, stem)


def check_architecture(name: str) -> None:
    """Raise for an architecture that `build` doesn't know, or whose package isn't installed."""
    if name not in (known := architectures()):
        raise DirePlugError(f"architecture: '{name}' is unknown{nearest(name, known)}; known: {', '.join(known)}")
    if name == _VIT_TINY:
        vit.check_timm()


def is_buildable(architecture: str) -> bool:
    """Return whether the package that an architecture comes from is installed."""
    return architecture != _VIT_TINY or vit.has_timm()


def check_size(architecture: str, size: int) -> None:
    """Raise for images of a height and width that an architecture doesn't take."""
    if size < (least := least_size(architecture)):
        raise DirePlugError(f"size: {architecture} needs images of {least} pixels or more, not {size}")
    patch = {_VIT_SMALL: vit.patch_of(size), _VIT_TINY: vit.VIT_TINY_PATCH}.get(architecture, 1)
    if size % patch:
        near = size // patch * patch
        raise DirePlugError(
            f"size: {architecture} cuts images of {size} pixels into patches of {patch}, which doesn't come out even; "
            f"use {near} or {near + patch}"
        )


def stems(architecture: str) -> tuple[str, ...]:
    """Return the stems that an architecture has."""
    if architecture in _IMAGENET_ONLY:
        return ("imagenet",)
    return ("small", "imagenet") if architecture in TORCHVISION_NAMES else ("small",)


def stem_like(architecture: str, wanted: str) -> str:
    """Return the stem `wanted` where an architecture has it, else the one that it has."""
    return wanted if wanted in stems(architecture) else stems(architecture)[0]


def is_made_for_a_size(architecture: str) -> bool:
    """Return whether a network of an architecture takes images of one size only, the one that it is built with."""
    return architecture in (_VIT_SMALL, _VIT_TINY)


def least_size(architecture: str) -> int:
    """Return the least height and width of images that an architecture takes."""
    return _LEAST.get(architecture, 8)


def nonnegative(architecture: str) -> bool:
    """Return whether no embedding of an architecture has a negative value: ReLU before its last average or map."""
    return architecture not in _SIGNED  # a term may take a cheaper form then: docs/reference/dire.md


def torchvision_name(architecture: str) -> str | None:
    """Return what torchvision calls an architecture, None where it has none; with the imagenet stem, it is the same."""
    return TORCHVISION_NAMES.get(architecture)


def size_of(architecture: str, state: Mapping[str, Tensor]) -> int | None:
    """Return the `size` to build with for the weights `state`; None where it doesn't matter.

    A ConvNet's is told by its head's width, a transformer's by the number of its positions.
    """
    if architecture == _VIT_SMALL:
        return vit.vit_small_size(state)
    if architecture == _VIT_TINY:
        return vit.vit_tiny_size(state)
    size = convnet_size(architecture, state) if architecture in CONVNETS else None
    # a head of another network may seem to be one for images that are too small
    return size if size is None or size >= least_size(architecture) else None
