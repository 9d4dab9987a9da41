"""Load networks pretrained on far larger datasets, which judge images independently of the method.

| name | network | embedding | weights |
|---|---|---|---|
| `clip` | CLIP ViT-B/32 of LAION-2B, through open_clip (extra `clip`) | the image's, 512, unnormalised | open_clip's |
| `torchvision:<model>` | any classifier of torchvision with a linear head | what reaches that head | its default ones |

Their libraries build them, find their weights and tell the preprocessing (`Source`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest_file
from dire_plug.models.architectures import TORCHVISION
from dire_plug.models.embedding import embed as embed_before_head
from dire_plug.models.embedding import last_linear


def preprocess(
    images: Tensor, *, resize: int, crop: int, mean: Sequence[float], std: Sequence[float], interpolation: str
) -> Tensor:
    """Resize the shorter side, cut out the middle, and normalise: as published networks want their images.

    The libraries resize pictures with Pillow: columns first, then rows, each with antialiasing, cut off at black and
    white and rounded to grey levels after both. So does this; single pixels differ from those of Pillow, which computes
    in fixed point, by one grey level, seldom two.

    Args:
        images: uint8 or float in [0, 1], [n, 3, h, w].
        resize, crop: in pixels.
        mean, std: of the channels of images in [0, 1].
        interpolation: `bicubic` or `bilinear`.

    Returns:
        Tensor: [n, 3, crop, crop], float32.
    """
    levels = images.float() if images.dtype == torch.uint8 else images.float() * 255
    height, width = (side * resize for side in levels.shape[2:])
    short = min(levels.shape[2:])
    # one axis after the other, each rounded, as Pillow does; one bilinear call gives other pixels
    levels = _resize(levels, levels.shape[2], width // short, interpolation)
    levels = _resize(levels, height // short, levels.shape[3], interpolation)
    from torchvision.transforms import functional

    cut = functional.center_crop(levels, [crop, crop])
    found: Tensor = functional.normalize(cut / 255, list(mean), list(std))
    return found


def _resize(levels: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    if levels.shape[2:] == (height, width):
        return levels
    resized = torch.nn.functional.interpolate(
        levels, (height, width), mode=interpolation, align_corners=False, antialias=True
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
    preprocessing: Callable[[Tensor], Tensor]
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
        preprocessing=partial(
            preprocess,
            resize=size,
            crop=size,
            mean=entry["mean"],
            std=entry["std"],
            interpolation=entry["interpolation"],
        ),
        width=lambda model: int(described["embed_dim"]),
        embed=lambda model, images: model(images),
        own=lambda state: {  # the file holds the text tower, too
            key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")
        },
        fetch=fetch,
        file=f"{CLIP_FILES[0]} of {repository}",
    )


def torchvision_classifier(model: str) -> Source:
    """Return a classifier of torchvision's, which `classifiers` lists, with its default weights' preprocessing."""
    from torchvision.models import get_model, get_model_weights

    entry: Any = get_model_weights(model).DEFAULT
    preset = entry.transforms()

    def fetch(offline: bool) -> Path | None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
        if not path.is_file() and not offline:
            # for the file that it leaves behind, which is then read like a given one
            entry.get_state_dict(progress=False, check_hash=True)
        return path if path.is_file() else None

    return Source(
        build=lambda: get_model(model, weights=None, **_AS_PUBLISHED.get(model, {})),
        preprocessing=partial(
            preprocess,
            resize=preset.resize_size[0],
            crop=preset.crop_size[0],
            mean=preset.mean,
            std=preset.std,
            interpolation=preset.interpolation.value,
        ),
        width=lambda network: last_linear(network).in_features,
        embed=lambda network, images: embed_before_head(network, images),
        own=_renamed,
        fetch=fetch,
        file=entry.url.rpartition("/")[2],
    )


def classifiers() -> list[str]:
    """Return torchvision's classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the keys of today; the published ones of DenseNet have a dot more: `norm.1.weight`."""
    dense = r"(denselayer\d+\.(?:norm|conv))\.(\d)\."
    return {re.sub(dense, r"\1\2.", key): value for key, value in state.items()}


CLIP = "clip"
BATCH = 64
"""Images in one forward pass."""


@dataclass(frozen=True)
class Pretrained:
    """A network that turns images into embeddings.

    Attributes:
        name: `clip` or `torchvision:<model>`.
        digest: the sha256 of the file of its weights, in hex; of the weights themselves if they are random.
        width: of an embedding.
        embed: from images, uint8 or float in [0, 1], [n, 3, h, w] of any size, to float32 [n, width] on its device.
    """

    name: str
    digest: str
    width: int
    embed: Callable[[Tensor], Tensor]


def check_pretrained(name: str) -> None:
    """Raise for a name that `load_pretrained` doesn't know.

    Raises:
        DirePlugError: with the nearest name.
    """
    if name == CLIP:
        return
    known = [CLIP, *(TORCHVISION + model for model in classifiers())]
    if name not in known:
        hint = nearest(name, known) or nearest(TORCHVISION + name, known)
        raise DirePlugError(f"embedding: '{name}' is unknown{hint}; {CLIP}, or {TORCHVISION}<model>, as in {known[-1]}")


def load_pretrained(
    name: str,
    *,
    device: torch.device,
    weights: Path | None = None,
    offline: bool = False,
    random: int | None = None,
) -> Pretrained:
    """Return a network in eval mode on `device`.

    Args:
        name: `clip`, or `torchvision:<model>`.
        device: where it computes.
        weights: a file of its weights, safetensors or torch.save's, read without running code; None takes the file that
            its library has fetched before, or lets it fetch it.
        offline: never touch the network.
        random: a seed of random weights, for tests.

    Raises:
        DirePlugError: the name is unknown, a package is missing, or the weights can't be fetched or read, or don't fit.
    """
    check_pretrained(name)
    source = clip() if name == CLIP else torchvision_classifier(name.removeprefix(TORCHVISION))
    path = None if random is not None else weights or _get(name, source, offline)
    # building draws random numbers; the caller's stream stays as it is
    with torch.random.fork_rng(devices=[]):  # by default the state of every GPU would be copied
        torch.manual_seed(random or 0)
        model = source.build()
    if path is not None:
        _fill(model, source, name=name, path=path)
    digest = _digest(model.state_dict()) if path is None else digest_file(path)
    model = model.to(device).eval().requires_grad_(False)

    def embed(images: Tensor) -> Tensor:
        _check_images(images)
        with torch.no_grad():
            parts = (source.preprocessing(part.to(device)) for part in torch.split(images, BATCH))
            return torch.cat([source.embed(model, part).float() for part in parts])

    return Pretrained(name, digest, source.width(model), embed)


def _get(name: str, source: Source, offline: bool) -> Path:
    """Return the library's own file of weights."""
    advice = f"get {source.file} and hand it in: --weights FILE"
    try:
        path = source.fetch(offline)
    except Exception as error:  # each library's own kinds, of connections, permissions and digests
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DirePlugError(f"embedding: the weights of {name} cannot be fetched ({reason}); {advice}") from error
    if path is None:
        raise DirePlugError(
            f"embedding: the weights of {name} aren't here, and --offline forbids to fetch; {advice}, or run once "
            "without --offline"
        )
    return path


def _fill(model: nn.Module, source: Source, *, name: str, path: Path) -> None:
    """Give the network the weights of a file."""
    state = source.own(_read(path))
    wanted = model.state_dict()
    differing = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    differing += [key for key in state if key not in wanted]
    if differing:
        raise DirePlugError(
            f"{path}: doesn't hold the weights of {name}: {len(differing)} of {len(wanted)} don't fit, as "
            f"{differing[0]}; give {source.file}"
        )
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """Return the state dict that a file holds, bare or under "state_dict"."""
    if not path.is_file():
        raise DirePlugError(f"{path.absolute()}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader may raise anything while it takes other bytes for a pickle
        reason = str(error).split(". ")[0] or type(error).__name__
        raise DirePlugError(f"{path}: cannot be read as weights without running code ({reason})") from error
    found = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DirePlugError(f"{path}: holds no state dict; save one with torch.save or as safetensors")
    return {str(key).removeprefix("module."): value for key, value in found.items()}  # DataParallel's prefix


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise DirePlugError(f"images: their shape is {list(images.shape)}; [n, 3, h, w] is needed")
    if images.dtype == torch.uint8:
        return
    low, high = (float(end) for end in images.aminmax())
    if not images.is_floating_point() or not 0 <= low <= high <= 1:
        raise DirePlugError(
            f"images: {images.dtype} from {low:.3g} to {high:.3g}; expected uint8 or float in [0, 1]; denormalise them"
        )


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of weights, by name, in hex."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode())
        found.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return found.hexdigest()
