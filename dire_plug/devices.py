"""Count the cores of this process, and copy tensors to a device without making the host wait for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on `device`; where that is a GPU and the tensor is the host's, the host doesn't wait."""
    # only this way round: a copy to the host that isn't waited for could be read too early
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    # Apple's devices would read the memory after it was freed
    return pin(tensor, device).to(device, non_blocking=device.type != "mps")


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor from which `upload` doesn't wait: from pageable memory a copy to CUDA waits for its turn."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def count_cores() -> int:
    """Return how many cores this process may use: those of its job, where a cluster gives it a part of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
