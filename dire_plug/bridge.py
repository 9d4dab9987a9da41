"""What the lines that a patch inserts call. Forwards to the running synthesis; holds no logic of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dire_plug.synthesis import RunningSynthesis

_synthesis: RunningSynthesis | None = None


def attach(synthesis: RunningSynthesis | None) -> None:
    """Make `synthesis` the one that the patched script of this process talks to."""
    global _synthesis
    _synthesis = synthesis


def _running() -> RunningSynthesis:
    if _synthesis is None:
        raise DirePlugError("a patched script runs under `dire-plug run` only; run upstream's own copy by hand instead")
    return _synthesis


def watch(network: nn.Module, teacher: str = "teacher") -> None:
    """Keep the embeddings of every forward pass of `network` under the name `teacher`."""
    _running().watch(network, teacher)


def labels(labels: Tensor) -> Tensor:
    """Begin the next slot; return its labels."""
    return _running().labels(labels)


def order(order: Tensor) -> Tensor:
    """Begin the next slot of a script that draws an order of images; return the order."""
    return _running().order(order)


def start(images: Tensor, labels: Tensor) -> Tensor:
    """Return the start images of the slot, a leaf that requires its gradient."""
    return _running().start(images, labels)


def loss(loss: Tensor, *, images: Tensor, labels: Tensor, step: int, teacher: str = "teacher") -> Tensor:
    """Return upstream's loss plus the terms of the active plugins."""
    return _running().loss(loss, images=images, labels=labels, step=step, teacher=teacher)


def step_done(loss: Tensor, *, images: Tensor, labels: Tensor, step: int) -> None:
    """Tell that the images have been updated and clipped."""
    _running().step_done(loss, images=images, labels=labels, step=step)


def image_index(index: int, position: int) -> int:
    """Return which image of its class `position` of the current slot is."""
    return _running().image_index(index, position)
