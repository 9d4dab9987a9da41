"""Embed images: return the input of a network's last linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from dire_plug.errors import DirePlugError


def last_linear(model: nn.Module) -> nn.Linear:
    """Return the linear layer that was registered last.

    Raises:
        DirePlugError: the network has none.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise DirePlugError(f"{type(model).__name__}: has no linear layer, so it has no embedding; use a classifier")
    return layers[-1]


def embed(model: nn.Module, images: Tensor, *, batch: int = 500) -> Tensor:
    """Embed images in the network's current mode, without a graph.

    In train mode the batches matter, and batch normalisation moves its running statistics: set the mode first.

    Args:
        model: a classifier.
        images: normalised, float32, [N, 3, H, W], on any device.
        batch: images in one forward pass.

    Returns:
        Tensor: [N, D], the input of the last linear layer, on the network's device.

    Raises:
        DirePlugError: the network has no linear layer.
    """
    head = last_linear(model)
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # cloned: the network may write into its own buffers in the next batch
        seen.append(inputs[0].detach().clone())

    # a hook instead of a second forward function: it works for upstream's own classes too
    handle = head.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            for part in torch.split(images, batch):
                model(part.to(head.weight.device))
    finally:
        handle.remove()
    return torch.cat(seen) if seen else torch.empty(0, head.in_features, device=head.weight.device)
