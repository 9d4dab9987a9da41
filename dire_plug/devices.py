"""Copy tensors to a device without making the host wait for what the device has still to do."""

from __future__ import annotations

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
