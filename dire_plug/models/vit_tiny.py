"""timm's ViT-Tiny with patches of 16 pixels, a student of DWA's (validation/validation_imgnet.py), untrained."""

from collections.abc import Mapping
from importlib.util import find_spec
from math import isqrt

from torch import Tensor, nn

from dire_plug.errors import DirePlugError

NAME = "vit_tiny_patch16_224"
PATCH = 16
DEFAULT_SIZE = 224


def build_vit_tiny(outputs: int, *, size: int = DEFAULT_SIZE) -> nn.Module:
    """Build the network: images [N, 3, size, size] to outputs [N, `outputs`]; the embedding has 192 dimensions.

    Raises:
        DirePlugError: timm isn't installed.
    """
    check_timm()
    import timm

    model: nn.Module = timm.create_model(NAME, pretrained=False, num_classes=outputs, img_size=size)
    return model


def is_there() -> bool:
    """Tell whether timm is installed, without importing it."""
    return find_spec("timm") is not None


def check_timm() -> None:
    """Refuse where timm is missing."""
    if not is_there():
        raise DirePlugError("vit-tiny: needs the package timm; install it with: pip install 'dire-plug[students]'")


def size_of(state: Mapping[str, Tensor]) -> int:
    """Return the size that the weights `state` were built for; the default where they are of another network."""
    positions = state.get("pos_embed")
    return DEFAULT_SIZE if positions is None else isqrt(positions.shape[1] - 1) * PATCH
