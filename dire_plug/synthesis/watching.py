"""Embeddings from upstream's own forward pass.

A second forward pass would cost time, and would not be harmless: G-VBSM's hooks draw random numbers in each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dire_plug.errors import DirePlugError


class EmbeddingWatch:
    """Keeps the input of a network's last linear layer, of the latest forward pass that builds a graph."""

    def __init__(self, network: nn.Module) -> None:
        """Hook the last `nn.Linear` of `network`.

        Raises:
            DirePlugError: the network has no linear layer.
        """
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise DirePlugError(f"{type(network).__name__} has no linear layer, so it has no penultimate embedding")
        self._kept: Tensor | None = None
        self._handle = linear[-1].register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].requires_grad:
            self._kept = inputs[0]

    def take(self) -> Tensor:
        """Return the embeddings, [N, D] with their graph, and let go of them.

        Raises:
            DirePlugError: no forward pass since the last call.
        """
        if self._kept is None:
            raise DirePlugError("the watched network made no forward pass in this step")
        kept, self._kept = self._kept, None
        return kept.flatten(1)

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()
