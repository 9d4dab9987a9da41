"""Embeddings from upstream's own forward pass.

A second forward pass would cost time, and would not be harmless: G-VBSM's hooks draw random numbers in each.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class WatchedNetworks:
    """The networks in the loop, each watched under its key."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys in the order in which a patch hands the networks over."""
        self._keys = tuple(keys)
        self._watches: dict[str, tuple[nn.Module, EmbeddingWatch]] = {}
        self._frozen: list[nn.Parameter] = []

    def watch(self, network: nn.Module | Sequence[nn.Module]) -> None:
        """Watch one network, or several in the order of the keys; they replace those before.

        Raises:
            DirePlugError: their number isn't that of the keys.
        """
        networks = [network] if isinstance(network, nn.Module) else list(network)
        if len(networks) != len(self._keys):
            raise DirePlugError(
                f"the patch watches {len(networks)} networks, but the recipe has {len(self._keys)}: "
                f"{', '.join(self._keys)}"
            )
        for _, watch in self._watches.values():
            watch.close()
        named = zip(self._keys, networks, strict=True)
        self._watches = {name: (module, EmbeddingWatch(module)) for name, module in named}

    def take(self, network: nn.Module | None) -> tuple[str, Tensor]:
        """Return the key of a network, and the embeddings [N, D] of its forward pass in this step, with their graph.

        Args:
            network: None where one alone is watched.

        Raises:
            DirePlugError: it isn't watched, or made no forward pass since the last call.
        """
        if not self._watches:
            raise DirePlugError("the patch never handed a network to bridge.watch")
        if network is None and len(self._watches) > 1:
            raise DirePlugError("the patch watches several networks, so bridge.loss must be told which one: network=…")
        for name, (module, watch) in self._watches.items():
            if network is None or module is network:
                return name, watch.take()
        raise DirePlugError("the patch hands bridge.loss a network that it never handed to bridge.watch")

    def freeze(self) -> None:
        """Stop computing gradients of the networks' weights, where that isn't done already."""
        if self._frozen:
            return
        parameters = (one for module, _ in self._watches.values() for one in module.parameters())
        self._frozen = [one for one in parameters if one.requires_grad]
        for one in self._frozen:
            one.requires_grad_(False)
            one.grad = None

    def unfreeze(self) -> None:
        """Compute the gradients again that `freeze` stopped."""
        for one in self._frozen:
            one.requires_grad_(True)
        self._frozen = []
