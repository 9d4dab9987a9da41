"""Forward the calls that a patch inserts to the running synthesis; this module has no logic of its own.

The last functions are for repairs, and need no synthesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError
from dire_plug.types import IMAGENET_MEAN, IMAGENET_STD, TINY_IMAGENET_MEAN, TINY_IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.amp.grad_scaler import GradScaler

    from dire_plug.synthesis import RunningSynthesis

# of the process: a patched script can only call functions of a module
_synthesis: RunningSynthesis | None = None


def attach(synthesis: RunningSynthesis | None) -> None:
    """Set the synthesis that the patched script of this process calls."""
    global _synthesis
    _synthesis = synthesis


def _running() -> RunningSynthesis:
    if _synthesis is None:
        raise DirePlugError("a patched script runs under `dire-plug run` only; run upstream's own copy by hand instead")
    return _synthesis


def watch(network: nn.Module | Sequence[nn.Module], *, names: str | Sequence[str] | None = None) -> None:
    """Keep the embeddings of every forward pass of a network, or of several in the recipe's order.

    A script that takes some of the recipe's networks in a pass hands over what it calls them, too: `names`; of one
    network that is its name, a text.
    """
    _running().watch(network, names=names)


def labels(labels: Tensor) -> Tensor:
    """Begin the next slot; return its labels."""
    return _running().labels(labels)


def order(order: Tensor) -> Tensor:
    """Return the order in which a script goes through all of its images, before the first slot."""
    return _running().order(order)


def start(images: Tensor, labels: Tensor) -> Tensor:
    """Return the start images of the slot; they require a gradient where the given ones do."""
    return _running().start(images, labels)


def steps(count: int) -> int:
    """Return the number of iterations of the slot: `count`, or 0 where its images are made already."""
    return _running().steps_to_do(count)


def embedded(images: Tensor, real: Tensor) -> None:
    """Show the loop's own embeddings of synthetic and of real images, class by class; returns nothing."""
    _running().embedded(images, real)


def in_use(labels: Tensor, *, rows: Sequence[int] | None = None) -> Tensor:
    """Set which rows of the slot the coming loss is of, where a step sees a part of it; return their labels."""
    return _running().in_use(labels, rows=rows)


def loss(
    loss: Tensor,
    *,
    images: Tensor,
    labels: Tensor,
    step: int,
    network: nn.Module | Sequence[nn.Module] | None = None,
    scaler: GradScaler | None = None,
) -> Tensor:
    """Return upstream's loss plus the terms of the active plugins; `network`: the watched one, or all, of this step."""
    return _running().loss(loss, images=images, labels=labels, step=step, network=network, scaler=scaler)


def term(
    *,
    images: Tensor,
    labels: Tensor,
    step: int,
    network: nn.Module | Sequence[nn.Module] | None = None,
    scaler: GradScaler | None = None,
) -> None:
    """Add the gradients of the active terms to that of a loss without a name: call it right before `backward`."""
    _running().term(images=images, labels=labels, step=step, network=network, scaler=scaler)


def step_done(loss: Tensor | None = None, *, images: Tensor, labels: Tensor, step: int) -> None:
    """Report that the images have been updated and clipped: call it after the optimiser's step."""
    _running().step_done(loss, images=images, labels=labels, step=step)


def keep(**values: Tensor) -> None:
    """Keep what a script learns beside the images, as it is when the pass ends."""
    _running().keep(**values)


def image_index(index: int, position: int) -> int:
    """Return which image of its class `position` of the current slot is."""
    return _running().image_index(index, position)


# For repairs of scripts that crash as published. No synthesis is needed, since verify repairs both sides.


def same(value: Any) -> Any:
    """Return `value`, for a name that a script uses and never defines."""
    return value


def with_missing(target: Any, **values: Any) -> Any:
    """Set those attributes that `target` lacks, and return it."""
    for name, value in values.items():
        if not hasattr(target, name):
            setattr(target, name, value)
    return target


def mean_of(dataset: str) -> Any:
    """Return the mean of a dataset whose name a script doesn't know, [3]; None of others, which it sets itself."""
    return _NORMALISATION.get(dataset, (None, None))[0]


def std_of(dataset: str) -> Any:
    """Return the standard deviation, as `mean_of` the mean."""
    return _NORMALISATION.get(dataset, (None, None))[1]


_NORMALISATION = {
    "tiny": (list(TINY_IMAGENET_MEAN), list(TINY_IMAGENET_STD)),
    "imagenet": (list(IMAGENET_MEAN), list(IMAGENET_STD)),
}
