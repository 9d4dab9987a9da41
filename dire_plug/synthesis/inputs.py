"""What a synthesis reads from files before its loop: start images and real embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.types import CORESET, Coreset, RealEmbeddings, StartImages


def load_start(start: dict[str, Any]) -> StartImages:
    """Return how images start, by the `start` of a specification.

    Raises:
        DirePlugError: the file of real images cannot be read.
    """
    shape = tuple(start["shape"]) if start["shape"] else None
    if start["kind"] != "real":
        return StartImages(start["kind"], shape)
    pixels = _load(start["file"], "cpu")["images"]  # kept off the GPU: only the rows of a slot go there
    return StartImages("real", shape, pixels, tuple(start["mean"]), tuple(start["std"]))


def load_real(file: str, device: str) -> RealEmbeddings:
    """Return the real embeddings of one network, with their coreset where the file has one.

    Raises:
        DirePlugError: the file cannot be read.
    """
    tensors = _load(file, device)
    own = {name.removeprefix(CORESET): tensors[name] for name in tensors if name.startswith(CORESET)}
    return RealEmbeddings(tensors["values"], tensors["labels"], Coreset(**own) if own else None)


def _load(file: str, device: str) -> dict[str, Tensor]:
    path = Path(file)
    try:
        return load_file(path, device=device)
    except Exception as error:
        raise DirePlugError(f"{path}: cannot be read as safetensors: {error}") from error
