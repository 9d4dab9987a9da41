"""Define the hooks. Every change of a synthesis loop goes through one of them.

Hooks with a result: at most one plugin may return one; None leaves upstream's. Two results are an error.
`loss_term` is called for every plugin and the results are summed. The others return nothing.
An implementation may leave out the arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dire_plug.types import Batch, Slot, Synthesis

PROJECT = "dire_plug"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def plan_labels(synthesis: Synthesis, slot: Slot, labels: Tensor) -> Tensor | None:
    """Return the class of each position, [N], instead of upstream's `labels`; called once a slot."""


@hookspec
def plan_order(synthesis: Synthesis, slot: Slot, order: Tensor) -> Tensor | None:
    """Return the order of the images; called once a pass, before its first slot, where upstream draws one."""


@hookspec
def initial_images(synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> Tensor | None:
    """Return the start images, [N, 3, H, W] normalised, instead of upstream's `images`; called once a slot."""


@hookspec
def image_index(synthesis: Synthesis, slot: Slot, position: int) -> int | None:
    """Return which image of its class `position` of the slot is, for the file's name; called for each saved image."""


@hookspec
def loss_term(synthesis: Synthesis, batch: Batch) -> Tensor | None:
    """Return a differentiable scalar to add to upstream's loss, or None; called in every step."""


@hookspec
def step_done(synthesis: Synthesis, batch: Batch, losses: Mapping[str, Tensor]) -> None:
    """Called after `optimizer.step()` and upstream's clipping; `losses` holds `upstream` and each plugin's term."""


@hookspec
def slot_done(synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> None:
    """Called when a slot is finished, with its final images, [N, 3, H, W] normalised, and their labels."""


@hookspec
def run_done(
    folder: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Any], losses: Mapping[str, Any] | None
) -> None:
    """Called for each finished run, reused ones too, in the command's process: for the plugins of `--log` alone."""
