"""Let `Tensor.cpu()` copy on a CPU, as it does from any other device.

Needed by MTT `buffer.py` 78, 92: it keeps `p.detach().cpu()` of parameters while it trains on; without a copy all
snapshots are the last one, and the loss of `distill.py` becomes infinite.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dire_plug.upstream.shims._frames import is_upstreams


def install(*, device: str, files: Sequence[str] = ()) -> None:
    """Let `Tensor.cpu()` copy where upstream calls it; with `files`, paths below its tree, in those alone."""
    if torch.device(device).type != "cpu":
        return
    original: Any = Tensor.cpu

    @functools.wraps(original)
    def cpu(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = original(self, *args, **kwargs)
        return found.clone() if found is self and is_upstreams(sys._getframe(1), files) else found

    setattr(Tensor, "cpu", cpu)  # noqa: B010 (mypy refuses the assignment)
