"""torchvision's networks, with ImageNet's stem or the small one that the methods' scripts give them, and VGG-16."""

from functools import partial

from torch import nn
from torchvision.models import get_model_builder
from torchvision.models.vgg import cfgs, make_layers

from dire_plug.models.averaged import Averaged

NAMES = {
    "resnet-18": "resnet18",
    "resnet-50": "resnet50",
    "resnet-101": "resnet101",
    "mobilenet-v2": "mobilenet_v2",
    "efficientnet-b0": "efficientnet_b0",
    "shufflenet-v2-x0.5": "shufflenet_v2_x0_5",
    "shufflenet-v2-x1.0": "shufflenet_v2_x1_0",
    "vgg-16": "vgg16",
}
"""What torchvision calls the architectures that it has, with the imagenet stem."""


def build_published(architecture: str, outputs: int, stem: str) -> nn.Module:
    """Build an untrained network of torchvision's.

    The small stem of a ResNet is a 3×3 convolution with stride 1, of ShuffleNetV2 a 1×1 one (G-VBSM's
    recover/models/ShuffleNetv2.py); neither is followed by pooling.
    """
    # torchvision's registry, for a shim may have put a network of ours in the place of its functions
    model: nn.Module = get_model_builder(NAMES[architecture])(weights=None, num_classes=outputs)
    if stem == "small":
        convolve = partial(nn.Conv2d, 3, bias=False)  # as the scripts do it: with nn.Conv2d's own initialisation
        if architecture.startswith("resnet"):
            model.conv1 = convolve(64, kernel_size=3, padding=1)
        else:
            model.get_submodule("conv1")[0] = convolve(24, kernel_size=1)  # type: ignore[operator]
        model.maxpool = nn.Identity()
    return model


def vgg_16_bn(outputs: int) -> Averaged:
    """Build VGG-16 with batch normalisation and one linear layer: DWA's models/vgg.py, for 32 px."""
    return Averaged(make_layers(cfgs["D"], batch_norm=True), width=512, outputs=outputs)
