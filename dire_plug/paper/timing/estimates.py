"""What the readings of a timing say: a step's median, ratios with an interval, and the whole extrapolated from steps.

The whole = start of the process + passes × (what a pass does before its first step) + steps × median step. It is an
extrapolation: a loop's later steps, the saving of images and a machine that is warm for hours are not in it.

Intervals are bootstrapped: rounds are drawn with replacement, all sides of a round together, and the median is taken
again; from the 2.5 % to the 97.5 % quantile. Rounds in a row aren't independent, so an interval may be too narrow.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from dire_plug.paper.timing.children import Took

Clock = Literal["wall", "cpu"]
FEW = 5
"""Below this number of rounds an interval says little, and the table says so."""
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrapped 95 % interval; without one where a single round counts."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SideTiming:
    """One side: how its synthesis is built, and what was read.

    Attributes:
        name: as it was given.
        images: in a step.
        steps, passes: of the whole synthesis.
        wall, cpu: seconds of each counted step.
        start: seconds from the start of the process to the first turn, of each round of processes.
        first: seconds of each process's first turn: the work before the first step, and that step.
        memory_before: peak resident memory before the first turn, in bytes.
        memory: peak resident memory of the process after its last step, in bytes.
        gpu_memory: the most that torch has had allocated on the graphics card; None on the CPU.
        whole: seconds of the syntheses that were run from beginning to end.
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
    whole: tuple[Took, ...] = ()

    def seconds(self, clock: Clock) -> tuple[float, ...]:
        """Return the seconds of the counted steps by one clock."""
        return self.wall if clock == "wall" else self.cpu

    def set_up(self) -> float:
        """Return the seconds that all passes and the start of the process take beside their steps."""
        before_a_step = max(0.0, statistics.median(self.first) - statistics.median(self.wall))
        return statistics.median(self.start) + self.passes * before_a_step


@dataclass(frozen=True)
class Timing:
    """All sides, the first being what the others are compared with, and what they were timed on.

    Attributes:
        engine: `upstream` or `native`.
        about: hardware, versions, settings.
    """

    sides: tuple[SideTiming, ...]
    engine: str
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """The counted steps of each side."""
        return len(self.sides[0].wall)

    def step(self, at: int, clock: Clock) -> Interval:
        """Return the median seconds of a step of side `at`."""
        return self._interval(lambda drawn: _median(drawn[at]), clock)

    def ratio(self, at: int, clock: Clock) -> Interval:
        """Return the median seconds of side `at` in those of the first side, for as many images."""
        images = self.sides[0].images / self.sides[at].images
        return self._interval(lambda drawn: images * _median(drawn[at]) / _median(drawn[0]), clock)

    def whole(self, at: int) -> Interval:
        """Return the seconds of side `at`'s whole synthesis on the clock, extrapolated."""
        side, set_up = self.sides[at], self.sides[at].set_up()
        return self._interval(lambda drawn: set_up + side.steps * _median(drawn[at]), "wall")

    def whole_ratio(self, at: int) -> Interval:
        """Return side `at`'s whole in the first side's, both extrapolated."""
        first, side = self.sides[0], self.sides[at]
        both = first.set_up(), side.set_up()
        return self._interval(
            lambda drawn: (both[1] + side.steps * _median(drawn[at])) / (both[0] + first.steps * _median(drawn[0])),
            "wall",
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything that was read, and what it says."""
        sides = []
        for at, side in enumerate(self.sides):
            said: dict[str, Any] = {f"step_{clock}": asdict(self.step(at, clock)) for clock in ("wall", "cpu")}
            said |= {f"ratio_{clock}": asdict(self.ratio(at, clock)) for clock in ("wall", "cpu")}
            said |= {"whole_extrapolated": asdict(self.whole(at)), "whole_ratio": asdict(self.whole_ratio(at))}
            read = {"card_memory" if name == "gpu_memory" else name: value for name, value in asdict(side).items()}
            sides.append({**read, "set_up": side.set_up(), **said})
        return {"engine": self.engine, "rounds": self.rounds, "sides": sides, "about": self.about}

    def _interval(self, statistic: Callable[[Any], float], clock: Clock) -> Interval:
        """Return a statistic of all sides' seconds, [side, round], and where it lies if rounds are drawn again."""
        seconds = np.array([side.seconds(clock) for side in self.sides])
        rounds = seconds.shape[1]
        if rounds < 2:
            return Interval(statistic(seconds))
        generator = np.random.default_rng(SEED)
        drawn = [statistic(seconds[:, generator.integers(0, rounds, rounds)]) for _ in range(RESAMPLES)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(statistic(seconds), float(low), float(high))


def _median(seconds: Any) -> float:
    return float(np.median(seconds))
