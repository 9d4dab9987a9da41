"""Local weights where a script asks torchvision for trained ones; nothing is downloaded.

Needed by SRe2L `recover/data_synthesis.py` 206 (the teacher) and 212 (the verifier, whose accuracy is only printed).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torchvision
from torchvision.models import WeightsEnum

from dire_plug.errors import DirePlugError
from dire_plug.protocols.training import initialised

UNTRAINED_SEED = 0
"""The verifier's, where no file is given: its weights change nothing but a printed number."""


def install(*, device: str, teacher: str, architecture: str = "resnet18", verifier: str | None = None) -> None:
    """Answer `pretrained=True` for torchvision's `architecture` with the file `teacher`, for others with `verifier`.

    Both are files of a bare state dict. Without `verifier`, other networks get seeded, untrained weights.
    """

    def get_state_dict(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        name = type(self).__name__.removesuffix("_Weights").lower()
        if name == architecture.lower():
            return _read(Path(teacher), device)
        return _read(Path(verifier), device) if verifier else _untrained(name)

    WeightsEnum.get_state_dict = get_state_dict


def _read(path: Path, device: str) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise DirePlugError(f"{path}: cannot be read as weights: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise DirePlugError(f"{path}: must hold a bare state dict, name → tensor, for a torchvision network")
    return found


def _untrained(name: str) -> dict[str, Any]:
    weights: dict[str, Any] = initialised(
        lambda: torchvision.models.get_model(name, weights=None), UNTRAINED_SEED
    ).state_dict()
    return weights
