"""Embeddings where the loop holds no trained network, as in MTT and DM.

Those of a frozen network, for some classes a step: the images of all together would cost more than the loop itself, so
each step embeds `classes_per_step` of the C classes, in an order that is drawn anew when all have had their turn, and
the terms are multiplied by C/c. Or those that the loop's own untrained network makes anyway, as DM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dire_plug.data.augmentation import zca
from dire_plug.data.augmentation.zca import Whitening
from dire_plug.errors import DirePlugError
from dire_plug.models.architectures import nonnegative
from dire_plug.models.checkpoint import Whitened, load
from dire_plug.types import LOOP, RealEmbeddings

# Embeddings from upstream's own forward pass.
#
# A second forward pass would cost time, and would not be harmless: G-VBSM's hooks draw random numbers in each.


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


def open_embedder(specification: dict[str, Any] | None, device: str) -> Embedder | LoopEmbeddings | None:
    """Return what embeds by a synthesis's specification; None where networks in the loop are watched."""
    if specification is None:
        return None
    return LoopEmbeddings() if specification["network"] == LOOP else Embedder(specification, device)


class LoopEmbeddings:
    """What the loop's own network makes of all images in one step, and of the real images beside them."""

    def __init__(self) -> None:
        self._made: list[Tensor] = []
        self._real: list[Tensor] = []
        self._of_step: RealEmbeddings | None = None

    def add(self, images: Tensor, real: Tensor) -> None:
        """Keep the embeddings of the next classes, in ascending order: [n, …] with their graph, and [m, …]."""
        self._made.append(images.flatten(1))
        self._real.append(real.detach().flatten(1))

    @property
    def real(self) -> RealEmbeddings:
        """The real embeddings of this step: another object in each.

        Raises:
            DirePlugError: no step has been embedded.
        """
        if self._of_step is None:
            raise DirePlugError("the loop hasn't embedded any real image; ask while a term is computed")
        return self._of_step

    def __call__(self, images: Tensor, labels: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor, float]:
        """Return the embeddings [N, D] of this step with their graph, the labels [N] as given, and 1.

        Raises:
            DirePlugError: the patch showed none, or the numbers don't fit the labels.
        """
        if not self._made:
            raise DirePlugError("the patch never handed embeddings to bridge.embedded")
        made, real = torch.cat(self._made), torch.cat(self._real)
        self._made, self._real = [], []
        classes = torch.unique(labels)
        if len(made) != len(labels) or len(real) % len(classes):
            raise DirePlugError(
                f"the loop embedded {len(made)} images and {len(real)} real ones for {len(labels)} labels of "
                f"{len(classes)} classes"
            )
        self._of_step = RealEmbeddings(real, classes.repeat_interleave(len(real) // len(classes)))
        return made, labels, 1.0


class Embedder:
    """A frozen network that embeds images as they are in the loop, with their graph."""

    def __init__(self, specification: dict[str, Any], device: str) -> None:
        """Load the network and, where the loop's images are whitened, what inverts that.

        Args:
            specification: `network`, a file of ours; `classes_per_step` or None; `whitening`, a file or None. Without
                whitening the loop's images are normalised as the network's are. A network that whitens what it gets
                lives in the loop's own space, so it gets the loop's images as they are.
        """
        network = load(Path(specification["network"]), torch.device(device))
        self._model = network.model.eval().requires_grad_(False)
        self._watch = EmbeddingWatch(self._model)
        self._classes_per_step: int | None = specification["classes_per_step"]
        whitening = specification["whitening"]
        own_space = isinstance(network.model, Whitened)
        self._seen = network.model.network if isinstance(network.model, Whitened) else network.model
        self._whitening = _load_whitening(whitening, device) if whitening and not own_space else None
        shape = (1, 3, 1, 1)
        self.nonnegative = nonnegative(network.architecture)
        self._mean = torch.tensor(network.mean, device=device).view(shape)
        self._std = torch.tensor(network.std, device=device).view(shape)
        self._turns: list[int] = []

    def __call__(self, images: Tensor, labels: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor, float]:
        """Embed the images of this step's classes.

        Args:
            images: [N, 3, H, W], the optimised leaf.
            labels: [N].
            generator: draws the order of the classes.

        Returns:
            embeddings [n, D] with their graph, their labels [n], and C/c.
        """
        if len(images) != len(labels):
            raise DirePlugError(
                f"the loop hands over {len(images)} images for {len(labels)} labels, so a network outside of it can't "
                "embed them; take term.network=loop"
            )
        rows, scale = self._choose(labels, generator)
        chosen = images if rows is None else images[rows]
        used = labels if rows is None else labels[rows]
        if self._whitening is not None:
            chosen = (self._whitening.invert(chosen) - self._mean) / self._std
        self._seen(chosen)
        return self._watch.take(), used, scale

    def _choose(self, labels: Tensor, generator: Generator) -> tuple[Tensor | None, float]:
        classes = torch.unique(labels).tolist()
        wanted = self._classes_per_step
        if wanted is None or wanted >= len(classes):
            return None, 1.0
        if len(self._turns) < wanted:
            self._turns += torch.randperm(len(classes), generator=generator).tolist()
        turn, self._turns = self._turns[:wanted], self._turns[wanted:]
        mine = torch.tensor(sorted({classes[place] for place in turn}), device=labels.device)
        return torch.isin(labels, mine).nonzero().flatten(), len(classes) / len(mine)


def _load_whitening(path: str, device: str) -> Whitening:
    return zca.load(Path(path), torch.device(device))
