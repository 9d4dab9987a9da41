"""Let `torch.load` read tensors only, onto the job's device.

Needed by SRe2L `recover_cifar.py` 184 (no map_location) and `recover_tiny.py` 100, 112 (checkpoints of torchvision's
reference scripts hold an `argparse.Namespace`, which `weights_only` refuses unless it is listed as safe). DELT
`models.py` 220, 236 reads an absolute path, `/workspace/save/…`: `replace` gives it another.
"""

import argparse
import functools
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch


def install(*, device: str, replace: Mapping[str, str] | None = None) -> None:
    """Replace `torch.load`; `replace` maps paths as scripts write them to those that are read instead."""
    original = torch.load
    signature = inspect.signature(original)
    others = {os.path.normpath(old): new for old, new in (replace or {}).items()}

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **{**kwargs, "weights_only": True})  # file and device may come by position
        given = bound.arguments
        given["f"] = _other(given["f"], others)
        if given.get("map_location") is None:
            given["map_location"] = device
        with torch.serialization.safe_globals([argparse.Namespace]):
            return original(*bound.args, **bound.kwargs)

    torch.load = load


def _other(file: Any, others: Mapping[str, str]) -> Any:
    return others.get(os.path.normpath(os.fspath(file)), file) if isinstance(file, str | os.PathLike) else file
