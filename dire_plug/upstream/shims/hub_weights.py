"""Serve local weights where a script asks torchvision for trained ones; nothing is downloaded.

Needed by SRe2L `recover/data_synthesis.py` 206 (the teacher) and 212 (the verifier, whose accuracy is only printed),
CDA `recover_cda_in1k.py` 193, 200, DWA `distillation_imgnet.py` 180, 213, INFER `ufc_imgnet.py` 217 (three teachers),
G-VBSM `Branch_full_ImageNet_1k` 340, 342 (four, of which one is the verifier too), DELT `recover.py` 243 and
`data_selection.py` 81.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torchvision.models import WeightsEnum

from dire_plug.errors import DirePlugError, nearest
from dire_plug.training.loop import initialised
from dire_plug.types import TORCHVISION_NAMES

UNTRAINED_SEED = 0
"""A verifier's: its weights change nothing but a printed number."""


def install(
    *,
    device: str,
    teacher: str | None = None,
    architecture: str = "resnet18",
    files: Mapping[str, str] | None = None,
    untrained: bool = False,
) -> None:
    """Answer requests for trained weights of torchvision's networks with files of a bare state dict.

    Args:
        device: onto which the weights are read.
        teacher: the file for `architecture`.
        architecture: the name of the teacher's network, torchvision's or ours.
        files: torchvision's name of a network → its file.
        untrained: whether a network without a file gets seeded, untrained weights: for a verifier, whose accuracy is
            only printed. Else it is an error, since the script may learn from it.

    Raises:
        DirePlugError: neither a teacher nor files were given; later, in the script, a file is missing or no state dict.
    """
    known = {name.lower(): Path(file) for name, file in (files or {}).items()}
    if teacher is not None:
        known[TORCHVISION_NAMES.get(architecture, architecture).lower()] = Path(teacher)
    if not known:
        raise DirePlugError("shim 'hub_weights' needs the option 'teacher', 'files', or both")

    def read_known(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        name = type(self).__name__.removesuffix("_Weights").lower()
        if name in known:
            return _read(known[name], device)
        if untrained:
            return _untrained(name)
        raise DirePlugError(
            f"upstream asks for trained weights of '{name}'{nearest(name, known)}; given: {', '.join(sorted(known))}; "
            "the adapter's shim 'hub_weights' takes a file for each (files), or `untrained: True` where the network's "
            "accuracy is only printed"
        )

    # in the base class: every way of asking for weights, by name or by enum, ends here
    WeightsEnum.get_state_dict = read_known


def _read(path: Path, device: str) -> dict[str, Any]:
    try:
        # checkpoints of torchvision's reference scripts hold their arguments beside the weights
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
