"""Load networks pretrained on far larger datasets, which judge images independently of the method.

| name | network | embedding | weights |
|---|---|---|---|
| `clip` | CLIP ViT-B/32 of LAION-2B, through open_clip (extra `clip`) | the image's, 512, unnormalised | open_clip's |
| `torchvision:<model>` | any classifier of torchvision with a linear head | what reaches that head | its default ones |

Each has the preprocessing that its library tells (`pretrained_sources`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest_file
from dire_plug.models.architectures import TORCHVISION
from dire_plug.models.pretrained_sources import Source, classifiers, clip, torchvision_classifier

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
    with torch.random.fork_rng(devices=[]):
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
    return {str(key).removeprefix("module."): value for key, value in found.items()}


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
        found.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
