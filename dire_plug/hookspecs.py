"""The hooks. Every change of a synthesis loop goes through one of them.

Hooks that are asked: at most one plugin may answer; None means "as it was". Two answers are an error.
`loss_term` is asked plugin by plugin and the answers are summed. Hooks that are told return nothing.
An implementation may leave out the arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.types import Batch, Slot, Synthesis

PROJECT = "dire_plug"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def plan_labels(synthesis: Synthesis, slot: Slot, labels: Tensor) -> Tensor | None:
    """Asked once a slot: the class of each position, [N], in place of upstream's `labels`."""


@hookspec
def plan_order(synthesis: Synthesis, slot: Slot, order: Tensor) -> Tensor | None:
    """Asked once a pass, before its first slot, where upstream draws an order of images: the order to use."""


@hookspec
def initial_images(synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> Tensor | None:
    """Asked once a slot: the start images, [N, 3, H, W] normalised, in place of upstream's `images`."""


@hookspec
def image_index(synthesis: Synthesis, slot: Slot, position: int) -> int | None:
    """Asked for each saved image: which image of its class `position` of the slot is, for the file's name."""


@hookspec
def loss_term(synthesis: Synthesis, batch: Batch) -> Tensor | None:
    """Asked every step, of every active plugin: a scalar with its graph, added to upstream's loss, or None."""


@hookspec
def step_done(synthesis: Synthesis, batch: Batch, losses: Mapping[str, Tensor]) -> None:
    """Told after the optimiser's step and upstream's clipping; `losses` holds `upstream` and each plugin's term."""


@hookspec
def slot_done(synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> None:
    """Told when a slot is finished: its final images, [N, 3, H, W] normalised, and their labels."""
