"""Time several arms, their steps interleaved, and estimate how long a whole synthesis takes.

The whole = start of the process + passes × (what a pass does before its first step) + steps × median step. It is an
extrapolation: a loop's later steps, the saving of images and a machine that is warm for hours are not in it.

Intervals are bootstrapped: rounds are drawn with replacement, all arms of a round together, and the median is taken
again; from the 2.5 % to the 97.5 % quantile. Rounds in a row aren't independent, so an interval may be too narrow.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.paper.timing.arms import SEED, TimedArm, check_engines, plan_arm, run_synthesis, set_up
from dire_plug.pipeline.run import say_accelerated
from dire_plug.store.provenance import code, hardware, versions
from dire_plug.store.runs import Request
from dire_plug.upstream.interleave import Round, Starts, counted, interleave

WARM_UP = 1
"""The steps of each process that aren't counted."""
RESAMPLES = 2000
BOOTSTRAP_SEED = 0

Clock = Literal["wall", "cpu"]
WholeRun = tuple[float, float]
"""Wall-clock and CPU seconds of a whole synthesis, with the start and the end of its process."""


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrapped 95 % interval; None at both ends where only one round counts."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ArmTiming:
    """The measurements of one arm.

    Attributes:
        name: METHOD or METHOD+ARM, as it was given.
        images: in a step.
        steps, passes: of the whole synthesis.
        wall, cpu: seconds of each counted step.
        start: seconds from the start of the process to its first step, of each round of processes.
        first: seconds of each process's first step, with the work before it.
        memory_before: peak resident memory before the first step, in bytes.
        memory: peak resident memory of the process after its last step, in bytes.
        gpu_memory: the most that torch has had allocated on the GPU; None on the CPU.
        whole: of the syntheses that were run from beginning to end.
    """

    name: str
    images: int
    steps: int
    passes: int
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    start: tuple[float, ...]
    first: tuple[float, ...]
    memory_before: int
    memory: int
    gpu_memory: int | None = None
    whole: tuple[WholeRun, ...] = ()

    def seconds(self, clock: Clock) -> tuple[float, ...]:
        """Return the seconds of the counted steps by one clock."""
        return self.wall if clock == "wall" else self.cpu

    def set_up(self) -> float:
        """Return the seconds that all passes and the start of the process take besides their steps."""
        # a first step that happens to be fast must not make the set-up negative
        before_a_step = max(0.0, statistics.median(self.first) - statistics.median(self.wall))
        return statistics.median(self.start) + self.passes * before_a_step


@dataclass(frozen=True)
class Timing:
    """All arms, the first being the one that the others are compared with, and what they were timed on.

    Attributes:
        engine: `upstream` or `native`.
        about: hardware, versions, settings.
    """

    arms: tuple[ArmTiming, ...]
    engine: str
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """The counted steps of each arm."""
        return len(self.arms[0].wall)

    def step(self, at: int, clock: Clock) -> Interval:
        """Return the median seconds of a step of arm `at`."""
        return self._interval(lambda drawn: _median(drawn[at]), clock)

    def ratio(self, at: int, clock: Clock) -> Interval:
        """Return the median seconds of arm `at` divided by those of the first arm, for as many images."""
        # a regrouped batch holds more images, and takes fewer steps
        images = self.arms[0].images / self.arms[at].images
        return self._interval(lambda drawn: images * _median(drawn[at]) / _median(drawn[0]), clock)

    def whole(self, at: int) -> Interval:
        """Return the wall-clock seconds of arm `at`'s whole synthesis, extrapolated."""
        arm, set_up = self.arms[at], self.arms[at].set_up()
        return self._interval(lambda drawn: set_up + arm.steps * _median(drawn[at]), "wall")

    def whole_ratio(self, at: int) -> Interval:
        """Return arm `at`'s whole divided by the first arm's, both extrapolated."""
        first, arm = self.arms[0], self.arms[at]
        both = first.set_up(), arm.set_up()
        return self._interval(
            lambda drawn: (both[1] + arm.steps * _median(drawn[at])) / (both[0] + first.steps * _median(drawn[0])),
            "wall",
        )

    def to_json(self) -> dict[str, Any]:
        """Return every measurement with its statistics; the keys are those of files that older versions wrote."""
        sides = []
        for at, arm in enumerate(self.arms):
            found: dict[str, Any] = {f"step_{clock}": asdict(self.step(at, clock)) for clock in ("wall", "cpu")}
            found |= {f"ratio_{clock}": asdict(self.ratio(at, clock)) for clock in ("wall", "cpu")}
            found |= {"whole_extrapolated": asdict(self.whole(at)), "whole_ratio": asdict(self.whole_ratio(at))}
            read = {"card_memory" if name == "gpu_memory" else name: value for name, value in asdict(arm).items()}
            read["whole"] = [{"wall": wall, "cpu": cpu} for wall, cpu in arm.whole]
            sides.append({**read, "set_up": arm.set_up(), **found})
        return {"engine": self.engine, "rounds": self.rounds, "sides": sides, "about": self.about}

    def _interval(self, statistic: Callable[[Any], float], clock: Clock) -> Interval:
        """Return a statistic of all arms' seconds, [arm, round], with its interval over resampled rounds."""
        seconds = np.array([arm.seconds(clock) for arm in self.arms])
        rounds = seconds.shape[1]
        if rounds < 2:
            return Interval(statistic(seconds))
        # seeded, so that the same measurements give the same interval
        generator = np.random.default_rng(BOOTSTRAP_SEED)
        drawn = [statistic(seconds[:, generator.integers(0, rounds, rounds)]) for _ in range(RESAMPLES)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(statistic(seconds), float(low), float(high))


def _median(seconds: Any) -> float:
    return float(np.median(seconds))


def time_arms(
    names: Sequence[str], request: Request, *, steps: int = 10, rounds: int = 1, whole: int = 0, real: int = 500
) -> Timing:
    """Time the arms METHOD or METHOD+ARM; the first one is what the others are compared with.

    Args:
        request: recipe, ipc, settings, device, engine, accelerate …; method, arm and seed are unused.
        steps: those of each process that count, where none begins a slot or a network.
        rounds: how often the processes are restarted.
        whole: how many syntheses of each arm are also run from beginning to end.
        real: real embeddings of each class, and generated images.

    Raises:
        DirePlugError: an arm is unknown or named twice, engines differ, a child failed, or no step counts.
    """
    if len(set(names)) < len(names) or not names:
        raise DirePlugError(f"arms: {', '.join(names) or 'none'}; name at least one, and each once")
    planned = {name: plan_arm(name, request) for name in names}
    # before anything is set up: networks and images take minutes
    engine = check_engines(planned)
    with tempfile.TemporaryDirectory() as folder:
        arms = []
        for number, (name, one) in enumerate(planned.items()):
            ui.say(f"{name}: recipe {one.recipe.name}, arm {one.request.arm}, IPC {one.resolved.recipe.ipc}")
            say_accelerated(one)
            arms.append(set_up(name, one, Path(folder) / f"arm-{number}", real=real))
        measured = [_interleave(arms, steps + WARM_UP) for _ in range(rounds)]
        wholes: dict[str, list[WholeRun]] = {arm.name: [] for arm in arms}
        for number in range(whole):
            for arm in arms:  # one after the other, so that nothing else of ours runs beside
                ui.say(f"{arm.name}: whole synthesis {number + 1} of {whole}, {arm.steps:,} steps")
                wholes[arm.name].append(_run_whole(arm))
        run = arms[0].run
        about = {
            "recipe": request.recipe,
            "recipes": {arm.name: arm.run.recipe.name for arm in arms},
            "dataset": {"name": run.dataset.name, "classes": run.classes, "size": run.dataset.size},
            "ipc": {arm.name: arm.run.recipe.ipc for arm in arms},
            "settings": list(request.settings),
            "accelerate": request.accelerate,
            "real_per_class": real,
            "warm_up": WARM_UP,
            "processes": rounds,
            "seed": SEED,
            "hardware": hardware(str(run.device)),
            "versions": versions(),
            "code": asdict(code()),
        }
        return Timing(tuple(_sum_up(arm, measured, wholes[arm.name]) for arm in arms), engine, about)


def _interleave(arms: Sequence[TimedArm], steps: int) -> tuple[Starts, list[Round]]:
    """Run so many steps of every arm, interleaved."""
    for arm in arms:
        if arm.steps < steps:
            raise DirePlugError(f"{arm.name}: its synthesis has {arm.steps} steps, {steps} were asked for")
    runs = {arm.name: partial(_run_interleaved, arm) for arm in arms}
    with ui.progress(f"steps of {', '.join(runs)}", steps) as advance:
        return interleave(runs, steps, on_round=advance)


def _run_interleaved(arm: TimedArm, address: str) -> None:
    run_synthesis(arm, {"address": address, "arm": arm.name})


def _run_whole(arm: TimedArm) -> WholeRun:
    """Run an arm's synthesis from beginning to end; return its wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), _children_seconds()
    run_synthesis(arm, None)
    return time.perf_counter() - wall, _children_seconds() - cpu


def _children_seconds() -> float:
    """Return the CPU seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _sum_up(arm: TimedArm, measured: Sequence[tuple[Starts, list[Round]]], wholes: Sequence[WholeRun]) -> ArmTiming:
    """Return the measurements of one arm.

    Raises:
        DirePlugError: every step began a slot or a network.
    """
    steps = [one[arm.name] for _, rounds in measured for one in counted(rounds, WARM_UP)]
    if not steps:
        raise DirePlugError(f"{arm.name}: no step counts, since each begins a slot or a network; take more --steps")
    starts = [found[arm.name] for found, _ in measured]
    firsts, lasts = ([rounds[at][arm.name] for _, rounds in measured] for at in (0, -1))
    return ArmTiming(
        name=arm.name,
        images=steps[0].images,
        steps=arm.steps,
        passes=arm.run.plan.passes,
        wall=tuple(one.wall for one in steps),
        cpu=tuple(one.cpu for one in steps),
        start=tuple(seconds for seconds, _ in starts),
        first=tuple(one.wall for one in firsts),
        memory_before=max(memory for _, memory in starts),  # of all rounds' processes
        memory=max(one.memory for one in lasts),
        gpu_memory=max((one.gpu_memory for one in lasts if one.gpu_memory is not None), default=None),
        whole=tuple(wholes),
    )
