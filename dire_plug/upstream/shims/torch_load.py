"""`torch.load` that reads tensors only, onto the job's device.

Needed by SRe2L `recover_cifar.py` 184 (no map_location) and `recover_tiny.py` 100, 112 (checkpoints of torchvision's
reference scripts hold an `argparse.Namespace`, which `weights_only` refuses unless it is listed as safe).
"""

import argparse
import functools
from typing import Any

import torch


def install(*, device: str) -> None:
    """Replace `torch.load`."""
    original = torch.load

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("map_location", device)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return original(*args, **{**kwargs, "weights_only": True})

    torch.load = load
