"""Tells the parent how far a synthesis is, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dire_plug.types import Slot

Emit = Callable[[dict[str, Any]], None]
SECONDS_BETWEEN_EVENTS = 0.5


class StepEvents:
    """The events `step` of a synthesis: at most two a second, and one at the end of each slot."""

    def __init__(self, emit: Emit, steps: int) -> None:
        """Take where events go, and the number of steps of a slot."""
        self._emit = emit
        self._steps = steps
        self._last = 0.0

    def is_due(self, step: int, *, force: bool = False) -> bool:
        """Tell whether an event is to be sent after `step` steps of the slot; the next is due some time after that."""
        now = time.monotonic()
        if not force and step < self._steps and now - self._last < SECONDS_BETWEEN_EVENTS:
            return False
        self._last = now
        return True

    def send(self, slot: Slot, step: int, losses: Mapping[str, Tensor]) -> None:
        """Send where the loop is, and the last losses; this waits for the device."""
        self._emit(
            {
                "event": "step",
                "pass": slot.pass_index,
                "batch": max(slot.batch_index, 0),
                "step": step,
                "losses": {name: float(value) for name, value in losses.items()},
            }
        )
