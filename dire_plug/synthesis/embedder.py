"""Embeddings where the loop holds no trained network, as in MTT and DM: those of a frozen one, for some classes a step.

The images of all classes together would cost more than the loop itself, so each step embeds `classes_per_step` of the
C classes, in an order that is drawn anew when all have had their turn, and the terms are multiplied by C/c.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from dire_plug.models.checkpoint import load
from dire_plug.synthesis.watching import EmbeddingWatch

if TYPE_CHECKING:
    from dire_plug.data.whitening import Whitening


class Embedder:
    """A frozen network that embeds images as they are in the loop, with their graph."""

    def __init__(self, specification: dict[str, Any], device: str) -> None:
        """Load the network and, where the loop's images are whitened, what inverts that.

        Args:
            specification: `network`, a file of ours; `classes_per_step` or None; `whitening`, a file or None. Without
                whitening the loop's images are normalised as the network's are.
        """
        network = load(Path(specification["network"]), torch.device(device))
        self._model = network.model.eval().requires_grad_(False)
        self._watch = EmbeddingWatch(self._model)
        self._classes_per_step: int | None = specification["classes_per_step"]
        whitening = specification["whitening"]
        self._whitening = _load_whitening(whitening, device) if whitening else None
        shape = (1, 3, 1, 1)
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
        rows, scale = self._choose(labels, generator)
        chosen = images if rows is None else images[rows]
        used = labels if rows is None else labels[rows]
        if self._whitening is not None:
            chosen = (self._whitening.invert(chosen) - self._mean) / self._std
        self._model(chosen)
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
    from dire_plug.data import whitening

    return whitening.load(Path(path), torch.device(device))
