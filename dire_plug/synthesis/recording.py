"""Record the loss of each slot, term by term, at up to a hundred of its steps: for the curves of a report.

Which steps are kept follows from their number alone, so two runs keep the same ones. Values stay on the device until
their slot is over: no step waits for them, and nothing here changes a bit of the images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dire_plug.files import read_json, write_json
from dire_plug.types import Slot

POINTS = 100
"""Steps of a slot that are kept, at most."""
SLOTS = 20
"""Slots whose own curves are kept in a run's record, at most; the mean is over all of them."""

Curves = dict[str, dict[int, float | None]]
"""Name → step → value; None where it wasn't finite."""


class LossRecord:
    """Keeps upstream's loss, each plugin's term and what plugins record, of the slots of one pass."""

    def __init__(self, steps: int) -> None:
        """Choose the steps of a slot of `steps` iterations."""
        self._wanted = frozenset(kept_steps(steps))
        self._named: dict[str, Tensor | float] = {}
        self._parts: list[str] = []
        self._factors: dict[str, Tensor | float] = {}
        self._kept: dict[int, dict[str, Tensor | float]] = {}
        self._slots: list[dict[str, Any]] = []

    def begin_pass(self) -> None:
        """Forget the slots of the pass before, and what an unfinished one left."""
        self._forget_step()
        self._kept, self._slots = {}, []

    def name(self, name: str, value: Tensor | float, *, part: bool = False) -> None:
        """Take a further value of this step; a tensor is a scalar, and its graph isn't kept.

        Args:
            part: whether it is a part of the coming term, and multiplied as that is: see `take_parts` and `scale`.
        """
        self._named[name] = value.detach() if isinstance(value, Tensor) else value
        if part:
            self._parts.append(name)

    def take_parts(self) -> list[str]:
        """Return the names of the parts that were named since the last call."""
        found, self._parts = self._parts, []
        return found

    def scale(self, factors: Mapping[str, Tensor | float]) -> None:
        """Take by what parts of this step are multiplied, by their names."""
        self._factors |= factors

    def step_done(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Keep the losses of a step, and what was named in it, where the step is one of those chosen."""
        if step in self._wanted:
            parts = {name: self._named[name] * factor for name, factor in self._factors.items()}
            self._kept[step] = {**losses, **self._named, **parts}
        self._forget_step()

    def _forget_step(self) -> None:
        self._named, self._parts, self._factors = {}, [], {}

    def slot_done(self, slot: Slot) -> None:
        """Fetch the values of a finished slot from the device, all at once, and take them as its record."""
        points = [(name, step) for step, values in self._kept.items() for name in values]
        curves: Curves = {}
        for (name, step), value in zip(points, fetch([self._kept[step][name] for name, step in points]), strict=True):
            curves.setdefault(name, {})[step] = value
        self._kept = {}
        self._slots.append({"batch": slot.batch_index, "curves": curves})

    def save_slot(self, folder: str | Path, slot: Slot) -> None:
        """Write the record of the slot that was finished last, from which an interrupted pass resumes."""
        write_json(losses_of_slot(folder, slot), self._slots[-1])

    def take_up(self, folder: str | Path, slot: Slot) -> None:
        """Take the record that `save_slot` wrote of a slot that was finished before."""
        self._slots.append(read_json(losses_of_slot(folder, slot)))

    def save(self, folder: str | Path, pass_index: int) -> None:
        """Write the slots of a finished pass beside its images."""
        write_json(_pass_file(folder, pass_index), {"pass": pass_index, "slots": self._slots})


def join_losses(folder: str | Path, pass_index: int, *, slots: int) -> None:
    """Write the record of a pass whose slots have each left theirs."""
    record = LossRecord(0)
    for batch in range(slots):
        record.take_up(folder, Slot(pass_index, batch))
    record.save(folder, pass_index)


def kept_steps(steps: int) -> list[int]:
    """Return which of `steps` iterations are kept: all, or `POINTS` evenly spaced with the first and the last."""
    # by number and not by time: records of two runs can be compared step by step
    if steps <= POINTS:
        return list(range(steps))
    return [number * (steps - 1) // (POINTS - 1) for number in range(POINTS)]


def gather_losses(folders: Mapping[int, Path]) -> dict[str, Any] | None:
    """Return the record of a run, as losses.json holds it; None where no pass left one.

    Returns:
        {"steps": [...], "slots_run": n, "mean": {name: [...]}, "slots": [{"pass", "batch", "values":
        {name: [...]}}]}: a value a step, None where there was none or it wasn't finite. The mean is over all slots; of
        the slots at most `SLOTS` are kept, evenly spaced.
    """
    files = [file for index, folder in folders.items() if (file := _pass_file(folder, index)).is_file()]
    contents = [read_json(file) for file in files]
    slots = [{"pass": content["pass"], **slot} for content in contents for slot in content["slots"]]
    if not slots:
        return None
    steps = sorted({int(step) for slot in slots for curve in slot["curves"].values() for step in curve})
    names = list(dict.fromkeys(name for slot in slots for name in slot["curves"]))
    shown = slots if len(slots) <= SLOTS else [slots[place * (len(slots) - 1) // (SLOTS - 1)] for place in range(SLOTS)]
    return {
        "steps": steps,
        "slots_run": len(slots),
        "mean": {name: [_mean(slots, name, step) for step in steps] for name in names},
        "slots": [
            {
                "pass": slot["pass"],
                "batch": slot["batch"],
                "values": {name: [curve.get(str(step)) for step in steps] for name, curve in slot["curves"].items()},
            }
            for slot in shown
        ],
    }


def _pass_file(folder: str | Path, pass_index: int) -> Path:
    return Path(folder) / f"losses-{pass_index:03d}.json"


def losses_of_slot(folder: str | Path, slot: Slot) -> Path:
    """Return the file with the record of one finished slot; that of its pass has all slots."""
    return Path(folder) / f"losses-{slot.pass_index:03d}-batch-{slot.batch_index:04d}.json"


def fetch(values: list[Tensor | float]) -> list[float | None]:
    """Return values as numbers of seven digits, which is what float32 has; None where one isn't finite."""
    device = next((value.device for value in values if isinstance(value, Tensor)), torch.device("cpu"))
    scalars = [torch.as_tensor(value, device=device).detach().reshape(()).float() for value in values]
    # one transfer for all values of a slot: each alone would wait for the device
    numbers: list[float] = torch.stack(scalars).tolist() if scalars else []
    return [float(f"{number:.7g}") if abs(number) < float("inf") else None for number in numbers]


def _mean(slots: list[dict[str, Any]], name: str, step: int) -> float | None:
    known = [value for slot in slots if (value := slot["curves"].get(name, {}).get(str(step))) is not None]
    return float(f"{sum(known) / len(known):.7g}") if known else None


# Progress events for the parent process.


Emit = Callable[[dict[str, Any]], None]
SECONDS_BETWEEN_EVENTS = 0.5


class StepEvents:
    """The events `step` of a synthesis: at most two a second, and one at the end of each slot."""

    def __init__(self, emit: Emit, steps: int) -> None:
        """Take the function that sends events, and the number of steps of a slot."""
        self._emit = emit
        self._steps = steps
        self._last = 0.0

    def is_due(self, step: int, *, force: bool = False) -> bool:
        """Return whether an event is due after `step` steps of the slot; if so, the next is due some time later."""
        now = time.monotonic()
        # `send` reads losses from the device, which waits for it, so at most twice a second
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
