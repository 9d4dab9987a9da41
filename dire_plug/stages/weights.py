"""Weights that somebody else trained: a file, or torchvision's published ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dire_plug.errors import DirePlugError, nearest

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "torchvision:"
IMAGENET_OUTPUTS = 1000


def read_weights(checkpoint: str, *, architecture: str, outputs: int, stem: str) -> dict[str, Tensor]:
    """Return the weights that `checkpoint`, a file or `torchvision:<weights>`, names for a network as described.

    Raises:
        DirePlugError: there is no such file or weights, or they don't fit the network.
    """
    if checkpoint.startswith(PREFIX):
        return _published(checkpoint.removeprefix(PREFIX), architecture=architecture, outputs=outputs, stem=stem)
    from dire_plug.models.checkpoint import read_foreign

    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise DirePlugError(f"checkpoint: {path.absolute()} is not a file; correct the path, or leave it out to train")
    return read_foreign(path, architecture=architecture, outputs=outputs, stem=stem)


def _published(name: str, *, architecture: str, outputs: int, stem: str) -> dict[str, Tensor]:
    """Fetch weights by the name that torchvision gives them; it keeps them, and checks their digest."""
    from torchvision.models import get_model_weights

    if outputs != IMAGENET_OUTPUTS or stem != "imagenet":
        raise DirePlugError(
            f"checkpoint: {PREFIX}{name} has {IMAGENET_OUTPUTS} outputs and the imagenet stem, "
            f"the network here {outputs} and the {stem} stem; train one, or name a file"
        )
    try:
        weights = get_model_weights(architecture.replace("-", ""))
    except ValueError as error:
        raise DirePlugError(f"checkpoint: torchvision publishes no weights of {architecture}; name a file") from error
    known = list(weights.__members__)
    if name not in known:
        raise DirePlugError(
            f"checkpoint: torchvision has no weights '{name}' of {architecture}{nearest(name, known)}; "
            f"one of {', '.join(known)}"
        )
    try:
        state: dict[str, Tensor] = dict(weights[name].get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise DirePlugError(
            f"checkpoint: {PREFIX}{name} cannot be fetched from {weights[name].url} ({error}); "
            "go online once, or name a file that holds it"
        ) from error
    return state
