"""Weights that somebody else trained: a file, or torchvision's published ones."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.hub import download_url_to_file
from torchvision.models import get_model_weights

from dire_plug import home, ui
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest_file, make_folder
from dire_plug.models.architectures import torchvision_name
from dire_plug.models.checkpoint import read_foreign
from dire_plug.stages.artefacts import Role

PREFIX = "torchvision:"
IMAGENET_OUTPUTS = 1000


def read_weights(role: Role, *, offline: bool) -> dict[str, Tensor]:
    """Return the weights that a network's `checkpoint`, a file or `torchvision:<weights>`, names.

    What torchvision publishes is fetched once, into the downloads of the home folder.

    Raises:
        DirePlugError: there is no such file or weights, they don't fit the network, or they can't be fetched.
    """
    checkpoint, architecture = str(role.section.checkpoint), role.section.architecture
    outputs, stem = role.outputs, role.stem
    if checkpoint.startswith(PREFIX):
        if outputs != IMAGENET_OUTPUTS or stem != "imagenet":
            raise DirePlugError(
                f"checkpoint: {checkpoint} has {IMAGENET_OUTPUTS} outputs and the imagenet stem, "
                f"the network here {outputs} and the {stem} stem; train one, or name a file"
            )
        weights = _find(checkpoint.removeprefix(PREFIX), architecture)
        return _read_published(_fetch(checkpoint, weights.url, offline=offline), weights.url)
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise DirePlugError(f"checkpoint: {path.absolute()} is not a file; correct the path, or leave it out to train")
    return read_foreign(path, architecture=architecture, outputs=outputs, stem=stem)


def _find(name: str, architecture: str) -> Any:
    """Return torchvision's own entry of weights, by the name that it gives them."""
    try:
        weights = get_model_weights(torchvision_name(architecture) or architecture)
    except ValueError as error:
        raise DirePlugError(f"checkpoint: torchvision publishes no weights of {architecture}; name a file") from error
    known = list(weights.__members__)
    if name not in known:
        raise DirePlugError(
            f"checkpoint: torchvision has no weights '{name}' of {architecture}{nearest(name, known)}; "
            f"one of {', '.join(known)}"
        )
    return weights[name]


def _fetch(checkpoint: str, url: str, *, offline: bool) -> Path:
    """Return the file of `url` among the downloads; fetch it where it isn't there and the network may be used."""
    path = home.downloads() / "torchvision" / url.rpartition("/")[2]
    if path.is_file():
        return path
    if offline:
        raise DirePlugError(
            f"checkpoint: {checkpoint} is not in {path}, and --offline forbids to fetch it; "
            f"get {url} and put it there, run once without --offline, or name a file"
        )
    make_folder(path.parent)
    ui.say(f"squeeze: fetching {url} to {path}")
    try:
        download_url_to_file(url, str(path), hash_prefix=_digest_in(url), progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        raise DirePlugError(
            f"checkpoint: {checkpoint} cannot be fetched ({error}); get {url} and put it to {path}, or name a file"
        ) from error
    return path


def _read_published(path: Path, url: str) -> dict[str, Tensor]:
    """Read a file that torchvision publishes, after a look at its digest: it may have been put there by hand."""
    if not digest_file(path).startswith(_digest_in(url)):
        raise DirePlugError(f"{path}: is not the file of {url}, whose name holds its sha256; remove it or get it again")
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise DirePlugError(f"{path}: cannot be read as weights ({error}); remove it to fetch it again") from error


def _digest_in(url: str) -> str:
    """Return the first hex digits of the sha256, which torchvision puts into file names: resnet18-f37072fd.pth."""
    return url.rpartition("-")[2].partition(".")[0]
