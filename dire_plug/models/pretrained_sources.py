"""Build published networks with their libraries, preprocess their images, and find their weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import functional

from dire_plug.errors import DirePlugError
from dire_plug.models.embedding import embed as embed_before_head
from dire_plug.models.embedding import last_linear

# What published networks do to a picture before they look at it, on tensors.
#
# The libraries resize pictures with Pillow: columns first, then rows, each with antialiasing, cut
# off at black and white and rounded to grey levels after both. So do these; single pixels differ
# from those of Pillow, which computes in fixed point, by one grey level, seldom two.


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, cut out the middle, normalise.

    Attributes:
        resize, crop: in pixels.
        mean, std: of the channels of images in [0, 1].
        interpolation: `bicubic` or `bilinear`.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return [n, 3, crop, crop], float32, of images in uint8 or float in [0, 1], [n, 3, h, w]."""
        levels = images.float() if images.dtype == torch.uint8 else images.float() * 255
        height, width = (side * self.resize for side in levels.shape[2:])
        short = min(levels.shape[2:])
        # one axis after the other, each rounded, as Pillow does; one bilinear call gives other pixels
        levels = self._resize(levels, levels.shape[2], width // short)
        levels = self._resize(levels, height // short, levels.shape[3])
        cut = functional.center_crop(levels, [self.crop, self.crop])
        found: Tensor = functional.normalize(cut / 255, list(self.mean), list(self.std))
        return found

    def _resize(self, levels: Tensor, height: int, width: int) -> Tensor:
        if levels.shape[2:] == (height, width):
            return levels
        resized = torch.nn.functional.interpolate(
            levels, (height, width), mode=self.interpolation, align_corners=False, antialias=True
        )
        return resized.clamp_(0, 255).add_(0.5).floor_()  # halves go up, as Pillow's


CLIP_MODEL, CLIP_WEIGHTS = "ViT-B-32", "laion2b_s34b_b79k"
"""open_clip's names of the ViT-B/32 of LAION-2B; of its two sets of weights, the one trained for longer."""
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The files of its weights in their repository, the preferred one first."""
_AS_PUBLISHED = {name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")}
"""Arguments with which torchvision builds these two when it loads their published weights."""


@dataclass(frozen=True)
class Source:
    """One network as its library has it.

    Attributes:
        build: makes it untrained.
        preprocessing: of its images.
        width: of an embedding.
        embed: from the network and a preprocessed batch to embeddings.
        own: its part of the keys and values that a file holds, as it names them.
        fetch: finds the library's file of weights, or fetches it unless that is forbidden; None if it isn't there.
        file: what that file is called, for messages.
    """

    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    width: Callable[[nn.Module], int]
    embed: Callable[[nn.Module, Tensor], Tensor]
    own: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    fetch: Callable[[bool], Path | None]
    file: str


def clip() -> Source:
    """Return CLIP's image tower; its embedding is the projected one, not normalised.

    Raises:
        DirePlugError: open_clip isn't installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise DirePlugError(
            f"embedding: clip needs the package open_clip_torch ({error}); pip install 'dire-plug[clip]'"
        ) from error
    described: Mapping[str, Any] = open_clip.get_model_config(CLIP_MODEL)
    entry: Mapping[str, Any] = open_clip.get_pretrained_cfg(CLIP_MODEL, CLIP_WEIGHTS)
    size = int(described["vision_cfg"]["image_size"])
    repository = entry["hf_hub"].rstrip("/")

    def fetch(offline: bool) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        for name in CLIP_FILES:  # the hub isn't asked for what is here: without a network it tries for a minute
            if isinstance(found := try_to_load_from_cache(repository, name), str):
                return Path(found)
        return None if offline else Path(open_clip.download_pretrained(entry))

    return Source(
        build=lambda: open_clip.CLIP(**described).visual,
        preprocessing=Preprocessing(size, size, entry["mean"], entry["std"], entry["interpolation"]),
        width=lambda model: int(described["embed_dim"]),
        embed=lambda model, images: model(images),
        own=lambda state: {
            key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")
        },
        fetch=fetch,
        file=f"{CLIP_FILES[0]} of {repository}",
    )


def torchvision_classifier(model: str) -> Source:
    """Return a classifier of torchvision's, which `classifiers` lists, with its default weights' preprocessing."""
    entry: Any = get_model_weights(model).DEFAULT
    preset = entry.transforms()

    def fetch(offline: bool) -> Path | None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
        if not path.is_file() and not offline:
            entry.get_state_dict(progress=False, check_hash=True)
        return path if path.is_file() else None

    return Source(
        build=lambda: get_model(model, weights=None, **_AS_PUBLISHED.get(model, {})),
        preprocessing=Preprocessing(
            preset.resize_size[0],
            preset.crop_size[0],
            tuple(preset.mean),
            tuple(preset.std),
            preset.interpolation.value,
        ),
        width=lambda network: last_linear(network).in_features,
        embed=lambda network, images: embed_before_head(network, images),
        own=_renamed,
        fetch=fetch,
        file=entry.url.rpartition("/")[2],
    )


def classifiers() -> list[str]:
    """Return torchvision's classifiers."""
    return list(torchvision.models.list_models(module=torchvision.models))


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the keys of today; the published ones of DenseNet have a dot more: `norm.1.weight`."""
    dense = r"(denselayer\d+\.(?:norm|conv))\.(\d)\."
    return {re.sub(dense, r"\1\2.", key): value for key, value in state.items()}
