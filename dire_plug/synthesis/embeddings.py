"""Embed the images of each step in every network in which terms work.

- `LoopNetworks`: the trained networks in the loop, whose own forward pass is watched.
- `ShownEmbeddings`: embeddings that the loop's own untrained network makes anyway (DM), which the patch shows.
- `FrozenNetwork`: a network outside of the loop. Where it stands for the loop's (MTT, DM), embedding all images would
  cost more than the loop itself, so each step embeds `classes_per_step` of the C classes, in an order that is drawn
  again when all have had their turn, and the terms are multiplied by C/c.

`Embeddings` has them all, and the real embeddings beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dire_plug.acceleration import at_least_float32
from dire_plug.api.rows import labels_on_host, tell_labels
from dire_plug.data.augmentation import zca
from dire_plug.devices import upload
from dire_plug.errors import DirePlugError
from dire_plug.models.architectures import nonnegative
from dire_plug.models.checkpoint import Whitened, load
from dire_plug.synthesis.spec import SynthesisSpec, load_real
from dire_plug.types import LOOP, RealEmbeddings


class PenultimateHook:
    """Keeps the input of a network's last linear layer, of the latest forward pass that builds a graph.

    A second forward pass would cost time, and would not be harmless: G-VBSM's hooks draw random numbers in each.
    """

    def __init__(self, network: nn.Module) -> None:
        """Hook the last `nn.Linear` of `network`.

        Raises:
            DirePlugError: the network has no linear layer.
        """
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise DirePlugError(f"{type(network).__name__} has no linear layer, so it has no penultimate embedding")
        self._kept: Tensor | None = None
        # the head: all architectures here end in one linear layer, and what it gets is the penultimate embedding
        self._handle = linear[-1].register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # a verifier's forward pass, as some scripts have it, builds no graph and must not replace the embeddings
        if inputs[0].requires_grad:
            self._kept = inputs[0]

    def take(self) -> Tensor:
        """Return the embeddings, [N, D] in float32 with their graph, and drop them.

        Raises:
            DirePlugError: no forward pass since the last call.
        """
        if self._kept is None:
            raise DirePlugError("the watched network made no forward pass in this step")
        # dropped at once: kept, the graph of the whole step would stay in memory until the next forward pass
        kept, self._kept = self._kept, None
        # terms compare them with real ones in float32; a network under autocast makes them in bfloat16
        return at_least_float32(kept.flatten(1))

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()


class LoopNetworks:
    """The trained networks in the loop, each watched under its key."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys in the order in which a patch hands the networks over."""
        self._keys = tuple(keys)
        self._hooks: dict[str, tuple[nn.Module, PenultimateHook]] = {}
        self._frozen: list[nn.Parameter] = []

    def watch(self, network: nn.Module | Sequence[nn.Module], *, keys: Sequence[str] | None = None) -> None:
        """Watch one network, or several; they replace those before.

        Args:
            keys: theirs; None: all keys, in their order.

        Raises:
            DirePlugError: their number isn't that of the keys.
        """
        networks = [network] if isinstance(network, nn.Module) else list(network)
        if keys is not None and len(networks) != len(keys):
            raise DirePlugError(f"the patch watches {len(networks)} networks, but hands over {len(keys)} names")
        if keys is None and len(networks) != len(self._keys):
            raise DirePlugError(
                f"the patch watches {len(networks)} networks, but the recipe has {len(self._keys)}: "
                f"{', '.join(self._keys)}; where a pass takes some of them, hand over their names: names=…"
            )
        # scripts hand their networks over again in each pass; the hooks of the old ones must not stay
        for _, hook in self._hooks.values():
            hook.close()
        named = zip(self._keys if keys is None else keys, networks, strict=True)
        self._hooks = {name: (module, PenultimateHook(module)) for name, module in named}

    def take(self, network: nn.Module | Sequence[nn.Module] | None) -> list[tuple[str, Tensor]]:
        """Return (key, embeddings [N, D] with their graph) of each network that made this step's forward pass.

        Args:
            network: None where one alone is watched.

        Raises:
            DirePlugError: one isn't watched, or made no forward pass since the last call; or there is none.
        """
        if not self._hooks:
            raise DirePlugError("the patch never handed a network to bridge.watch")
        if network is None and len(self._hooks) > 1:
            raise DirePlugError("the patch watches several networks, so bridge.loss needs to know which one: network=…")
        if network is None:
            ((name, (_, hook)),) = self._hooks.items()
            return [(name, hook.take())]
        wanted = [network] if isinstance(network, nn.Module) else list(network)
        found = [
            (name, hook.take()) for name, (module, hook) in self._hooks.items() if any(module is one for one in wanted)
        ]
        if not found or len(found) != len(wanted):
            raise DirePlugError("the patch hands bridge.loss a network that it never handed to bridge.watch")
        return found

    def freeze(self) -> None:
        """Stop computing gradients of the networks' weights, unless that is done already."""
        if self._frozen:
            return
        parameters = (one for module, _ in self._hooks.values() for one in module.parameters())
        self._frozen = [one for one in parameters if one.requires_grad]
        for one in self._frozen:
            one.requires_grad_(False)
            # the last gradient would go on taking as much memory as the weights
            one.grad = None

    def unfreeze(self) -> None:
        """Undo `freeze`."""
        for one in self._frozen:
            one.requires_grad_(True)
        self._frozen = []


class ShownEmbeddings:
    """Embeddings that the loop's own network makes of all images in one step, and of real images beside them."""

    def __init__(self) -> None:
        self._made: list[Tensor] = []
        self._real: list[Tensor] = []
        self._of_step: RealEmbeddings | None = None

    def add(self, images: Tensor, real: Tensor) -> None:
        """Keep the embeddings of the next classes, in ascending order: [n, …] with their graph, and [m, …]."""
        self._made.append(images.flatten(1))
        # real images are targets only: no gradient flows through their embeddings
        self._real.append(real.detach().flatten(1))

    @property
    def real(self) -> RealEmbeddings:
        """The real embeddings of this step: a new object in each.

        Raises:
            DirePlugError: no step has been embedded.
        """
        if self._of_step is None:
            raise DirePlugError("the loop hasn't embedded any real image yet; read this while a term is computed")
        return self._of_step

    def __call__(self, images: Tensor, labels: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor, float]:
        """Return the embeddings [N, D] of this step with their graph, the labels [N] as given, and 1.

        Raises:
            DirePlugError: the patch showed none, or their numbers don't match the labels.
        """
        if not self._made:
            raise DirePlugError("the patch never handed embeddings to bridge.embedded")
        # the patch shows class by class, in ascending order, so rows come in the order of the sorted labels
        made, real = torch.cat(self._made), torch.cat(self._real)
        self._made, self._real = [], []
        classes = torch.unique(labels_on_host(labels))
        if len(made) != len(labels) or len(real) % len(classes):
            raise DirePlugError(
                f"the loop embedded {len(made)} images and {len(real)} real ones for {len(labels)} labels of "
                f"{len(classes)} classes"
            )
        host = classes.repeat_interleave(len(real) // len(classes))
        self._of_step = RealEmbeddings(real, tell_labels(upload(host, real.device), host))
        return made, labels, 1.0


class FrozenNetwork:
    """A network outside of the loop that embeds images as they are in the loop, with their graph."""

    def __init__(self, specification: dict[str, Any], device: str) -> None:
        """Load the network and, where the loop's images are whitened, the transform to invert.

        Args:
            specification: `network`, a file of ours; `classes_per_step` or None; `whitening`, a file or None. Without
                whitening the loop's images are normalised as the network's are. A network that whitens its inputs
                takes the loop's images as they are.
        """
        network = load(Path(specification["network"]), torch.device(device))
        # only the images need gradients; for those of the weights autograd would keep more activations
        self._model = network.model.eval().requires_grad_(False)
        self._hook = PenultimateHook(self._model)
        self._classes_per_step: int | None = specification["classes_per_step"]
        whitening = specification["whitening"]
        self._inner = network.model.network if isinstance(network.model, Whitened) else network.model
        invert = bool(whitening) and not isinstance(network.model, Whitened)
        self._whitening = zca.load(Path(whitening), torch.device(device)) if invert else None
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
                "embed them; set term.network=loop"
            )
        rows, scale = self._choose(labels, generator)
        chosen, used = images, labels
        if rows is not None:
            host, index = labels_on_host(labels)[rows], upload(rows, images.device)
            chosen, used = images[index], tell_labels(labels[index], host)
        if self._whitening is not None:
            # differentiable, so the term's gradient reaches the whitened pixels that the loop optimises
            chosen = (self._whitening.invert(chosen) - self._mean) / self._std
        self._inner(chosen)
        return self._hook.take(), used, scale

    def _choose(self, labels: Tensor, generator: Generator) -> tuple[Tensor | None, float]:
        """Return which rows this step embeds, on the CPU, None for all, and C/c."""
        wanted = self._classes_per_step
        if wanted is None:
            return None, 1.0
        # chosen on the host, which then knows the labels of the chosen rows too: no step waits for the device
        host = labels_on_host(labels)
        classes = torch.unique(host).tolist()
        if wanted >= len(classes):
            return None, 1.0
        # a new permutation is appended: every class has its turn before one comes again
        if len(self._turns) < wanted:
            self._turns += torch.randperm(len(classes), generator=generator).tolist()
        turn, self._turns = self._turns[:wanted], self._turns[wanted:]
        # a set: at the seam of two permutations a class may be drawn twice, and counts once
        mine = torch.tensor(sorted({classes[position] for position in turn}))
        return torch.isin(host, mine).nonzero().flatten(), len(classes) / len(mine)


class Embeddings:
    """The embeddings of each step in every network in which terms work, and the real embeddings beside them.

    Attributes:
        loop: the trained networks in the loop, which a patch hands over.
    """

    def __init__(self, spec: SynthesisSpec) -> None:
        """Load the networks outside of the loop."""
        self._spec = spec
        self.loop = LoopNetworks(spec.networks)
        # what stands for trained networks in a loop that holds none
        self._instead: FrozenNetwork | ShownEmbeddings | None = None
        if spec.embedder is not None:
            shown = spec.embedder["network"] == LOOP
            self._instead = ShownEmbeddings() if shown else FrozenNetwork(spec.embedder, spec.device)
        self._outside = {name: FrozenNetwork(one, spec.device) for name, one in spec.frozen.items()}
        self._in_loop = spec.in_loop or not self._outside
        self._real: dict[str, RealEmbeddings] = {}

    @property
    def nonnegative(self) -> bool:
        """Whether no network outside of the loop embeds with negative values."""
        return all(one.nonnegative for one in self._outside.values())

    @property
    def has_outside(self) -> bool:
        """Whether terms work in networks outside of the loop too, so that records name the network."""
        return bool(self._outside)

    def show(self, images: Tensor, real: Tensor) -> None:
        """Keep the loop's own embeddings of synthetic and real images, where the recipe's terms work on those."""
        if isinstance(self._instead, ShownEmbeddings) and self._in_loop:
            self._instead.add(images, real)

    def embed(
        self,
        images: Tensor,
        part: Tensor,
        labels: Tensor,
        *,
        network: nn.Module | Sequence[nn.Module] | None,
        generator: Generator,
    ) -> Iterator[tuple[str, Tensor, Tensor, float]]:
        """Yield (key, embeddings [n, D] with their graph, labels [n], scale) of each network, the loop's own first.

        The scale is the factor of terms: C/c where c of C classes are embedded.

        Args:
            images: the optimised leaf, [N, 3, H, W].
            part: what of it the loss is of, [n, 3, H, W], with its graph.
            labels: of that part, [n].
            network: the watched one that made this step's forward pass, or several; None where one is watched.
            generator: draws the order of the classes where a step embeds some of them.

        Raises:
            DirePlugError: the patch showed no network, no forward pass, or the numbers don't match.
        """
        if self._in_loop and self._instead is not None:
            # the whole leaf and not `part`: what the loop shows, or what is chosen by class, is of all images
            yield self._spec.networks[0], *self._instead(images, labels, generator=generator)
        elif self._in_loop:
            for key, made in self.loop.take(network):
                yield key, made, labels, 1.0
        for key, frozen in self._outside.items():
            yield key, *frozen(part, labels, generator=generator)

    def real(self, teacher: str) -> RealEmbeddings:
        """Return the real embeddings of one network, on the synthesis's device; of this step where the loop embeds.

        Raises:
            DirePlugError: there are none of it.
        """
        if isinstance(self._instead, ShownEmbeddings) and teacher not in self._outside:
            return self._instead.real
        if teacher not in self._real:
            if teacher not in self._spec.real:
                raise DirePlugError(f"no real embeddings were made for the network '{teacher}'")
            self._real[teacher] = load_real(self._spec.real[teacher], self._spec.device)
        return self._real[teacher]
