"""What operations were measured to take: in a finished synthesis of the same recipe, else in a few steps made here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dire_plug.errors import DirePlugError
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.reproduce.work import build_for, count_pass, count_work, pass_of
from dire_plug.store.provenance import hardware
from dire_plug.store.runs import RunFolder, choose_device, list_runs, runs_root

IMAGES = {"cpu": 4, "cuda": 64}
"""In a step that is made here."""
STEPS = 3
"""Steps made here, after one that isn't counted; their median is taken."""


@dataclass(frozen=True)
class Rate:
    """Seconds that operations took.

    Attributes:
        measured: seconds.
        operations: as counted.
        what: what was measured.
        where: on which hardware.
    """

    measured: float
    operations: float
    what: str
    where: str

    @property
    def seconds(self) -> float:
        """For one operation."""
        return self.measured / self.operations


def find_rate(planned: Run) -> Rate:
    """Return the rate of the recipe's largest finished synthesis, or that of some steps made here."""
    found = [rate for run in list_runs(runs_root(planned.request)) if (rate := _rate_of(run, planned)) is not None]
    return max(found, key=lambda rate: rate.operations, default=None) or _measure(planned)


def _rate_of(run: RunFolder, planned: Run) -> Rate | None:
    """Return the rate of a finished synthesis of the same method and recipe, all of which one machine made."""
    method, recipe, name = run.path.parts[-3:]
    if (method, recipe) != (planned.adapter.name, planned.source.stem) or run.state() != "finished":
        return None
    took = run.metrics().get("recover")
    if not took or took["hardware"] is None:
        return None
    try:
        operations = _operations(run.path)
    except DirePlugError:
        return None  # made by a version whose recipe can't be read any more
    if not operations:
        return None
    return Rate(took["seconds"], operations, f"the synthesis of {name}", _name(took["hardware"]))


@lru_cache(maxsize=256)
def _operations(run: Path) -> float | None:
    """Return the operations of a finished synthesis, by its own resolved recipe."""
    planned = plan_run(Request(run.parts[-3], recipe=str(run / "recipe.yaml"), arm="baseline"), dry=True)
    return count_work(planned).recover


def _measure(planned: Run) -> Rate:
    """Measure forward and backward passes of the teacher's network, untrained, at the recipe's size."""
    recipe = planned.resolved.recipe
    return _measure_pass(**pass_of(planned, recipe.squeeze.teacher), device=_device(planned))


@lru_cache(maxsize=32)
def _measure_pass(*, device: str, **network: Any) -> Rate:
    """Measure the network that `count_pass` takes by these names."""
    count, size = IMAGES[torch.device(device).type], network["size"]
    model = build_for(**network).to(device).train()
    images = torch.rand(count, 3, size, size, device=device, requires_grad=True)

    def step() -> None:
        model(images).sum().backward()
        if images.is_cuda:
            torch.cuda.synchronize(device)

    step()
    seconds = statistics.median(_clock(step) for _ in range(STEPS))
    both = count_pass(**network).both
    what = f"a step of {count} images of {size} pixels through {network['architecture']}, made here (median of {STEPS})"
    return Rate(seconds, count * both, what, _name(hardware(device)))


def _clock(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _device(planned: Run) -> str:
    device = choose_device(planned.request.device)
    return device if device.split(":")[0] in IMAGES else "cpu"


def _name(found: dict[str, Any]) -> str:
    if found.get("card"):
        return str(found["card"])
    threads = found["threads"]
    return f"{found['processor']}, {threads} thread{'' if threads == 1 else 's'}"
