"""The networks in which the terms of a synthesis work: those of the loop, or what stands for them, and others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from dire_plug.errors import DirePlugError
from dire_plug.synthesis.embedder import Embedder, LoopEmbeddings, WatchedNetworks, open_embedder
from dire_plug.synthesis.spec import SynthesisSpec
from dire_plug.types import CORESET, Batch, Coreset, RealEmbeddings, Slot, StartImages

# What a synthesis reads from files before its loop: start images and real embeddings.


def load_start(start: dict[str, Any]) -> StartImages:
    """Return how images start, by the `start` of a specification.

    Raises:
        DirePlugError: the file of real images cannot be read.
    """
    shape = tuple(start["shape"]) if start["shape"] else None
    if start["kind"] != "real":
        return StartImages(start["kind"], shape)
    pixels = _load(start["file"], "cpu")["images"]  # kept off the GPU: only the rows of a slot go there
    return StartImages("real", shape, pixels, tuple(start["mean"]), tuple(start["std"]))


def load_real(file: str, device: str) -> RealEmbeddings:
    """Return the real embeddings of one network, with their coreset where the file has one.

    Raises:
        DirePlugError: the file cannot be read.
    """
    tensors = _load(file, device)
    own = {name.removeprefix(CORESET): tensors[name] for name in tensors if name.startswith(CORESET)}
    return RealEmbeddings(tensors["values"], tensors["labels"], Coreset(**own) if own else None)


def _load(file: str, device: str) -> dict[str, Tensor]:
    path = Path(file)
    try:
        return load_file(path, device=device)
    except Exception as error:
        raise DirePlugError(f"{path}: cannot be read as safetensors: {error}") from error


@dataclass(frozen=True)
class Step:
    """What a loop hands over in one step.

    Attributes:
        loss: upstream's scalar, with its graph.
        images: the optimised leaf, [N, 3, H, W].
        labels: [n], of the part of the leaf that the loss is of.
        rows: [n, 3, H, W], that part, with its graph.
        number: iteration within the slot, from 0.
        slot: the slot.
        network: the watched one that made the forward pass; None where there is one.
    """

    loss: Tensor
    images: Tensor
    labels: Tensor
    rows: Tensor
    number: int
    slot: Slot
    network: nn.Module | None = None

    def batch(self, embeddings: Tensor, labels: Tensor, *, teacher: str) -> Batch:
        """Return the step as plugins see it in the network `teacher`: embeddings [n, D] and their labels [n]."""
        return Batch(self.images, self.loss, labels, embeddings, teacher, self.number, self.slot)


@dataclass(frozen=True)
class Seen:
    """One step in one network.

    Attributes:
        batch: what plugins see of it.
        scale: the factor of their terms: C/c where c of C classes are embedded.
        place: what follows the name of what is recorded there: `/` and the network's key where there may be several.
    """

    batch: Batch
    scale: float
    place: str


class Networks:
    """Embeds the images of each step in every network in which terms work, and has the real embeddings beside them.

    Attributes:
        loop: the networks in the loop, which a patch hands over.
    """

    def __init__(self, spec: SynthesisSpec) -> None:
        """Load the networks outside of the loop."""
        self._spec = spec
        self.loop = WatchedNetworks(spec.networks)
        self._embedder: Embedder | LoopEmbeddings | None = open_embedder(spec.embedder, spec.device)
        self._outside = {name: Embedder(one, spec.device) for name, one in spec.frozen.items()}
        self._in_loop = spec.in_loop or not self._outside
        self._real: dict[str, RealEmbeddings] = {}

    @property
    def nonnegative(self) -> bool:
        """Whether no network outside of the loop embeds with negative values."""
        return all(one.nonnegative for one in self._outside.values())

    def embedded(self, images: Tensor, real: Tensor) -> None:
        """Keep what the loop's own network made of synthetic and real images, where the recipe's terms work on that."""
        if isinstance(self._embedder, LoopEmbeddings) and self._in_loop:
            self._embedder.add(images, real)

    def embed(self, step: Step, generator: Generator) -> list[Seen]:
        """Return the step in each network, the loop's own first.

        Args:
            generator: draws the order of the classes where some of them have their turn in a step.

        Raises:
            DirePlugError: the patch showed no network, no forward pass, or the numbers don't fit.
        """
        seen = [self._embed_in_loop(step, generator)] if self._in_loop else []
        for key, embedder in self._outside.items():
            embeddings, labels, scale = embedder(step.rows, step.labels, generator=generator)
            seen.append(Seen(step.batch(embeddings, labels, teacher=key), scale, self._place(key)))
        return seen

    def _embed_in_loop(self, step: Step, generator: Generator) -> Seen:
        if self._embedder is not None:
            key = self._spec.networks[0]
            embeddings, labels, scale = self._embedder(step.images, step.labels, generator=generator)
            return Seen(step.batch(embeddings, labels, teacher=key), scale, self._place(key))
        key, embeddings = self.loop.take(step.network)
        if embeddings.shape[0] != step.labels.shape[0]:
            count = step.labels.shape[0]
            raise DirePlugError(f"{embeddings.shape[0]} embeddings for {count} labels in {step.slot}")
        return Seen(step.batch(embeddings, step.labels, teacher=key), 1.0, self._place(key))

    def _place(self, key: str) -> str:
        return f"/{key}" if self._outside else ""

    def real(self, teacher: str) -> RealEmbeddings:
        """Return the real embeddings of one network, on the synthesis's device; of this step where the loop embeds.

        Raises:
            DirePlugError: there are none of it.
        """
        if isinstance(self._embedder, LoopEmbeddings) and teacher not in self._outside:
            return self._embedder.real
        if teacher not in self._real:
            if teacher not in self._spec.real:
                raise DirePlugError(f"no real embeddings were made for the network '{teacher}'")
            self._real[teacher] = load_real(self._spec.real[teacher], self._spec.device)
        return self._real[teacher]
