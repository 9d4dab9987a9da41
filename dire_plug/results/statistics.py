"""Read measures from the metrics of finished runs, and compute their statistics.

The spread is over syntheses; students of one synthesis are averaged first. An arm's difference from control is paired
by seed; its interval is that of a paired t test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy import stats

FEW = 5
"""Below this number of pairs an interval says little, which the tables note."""


@dataclass(frozen=True)
class Measure:
    """One column: its title, how to read it from metrics.json, its decimals, and which sign the best value has.

    Attributes:
        sign: 1 where more is better, −1 where less is, 0 where neither is.
    """

    title: str
    read: Callable[[dict[str, Any]], float | None]
    digits: int
    sign: Literal[-1, 0, 1] = 1


def _accuracy(kind: str) -> Callable[[dict[str, Any]], float | None]:
    def read(metrics: dict[str, Any]) -> float | None:
        students = metrics["accuracy"].get("students", {})
        values = [value for student in students.values() for value in student[kind] or ()]
        return statistics.fmean(values) if values else None

    return read


def _diversity(space: str, name: str, factor: float = 1) -> Callable[[dict[str, Any]], float | None]:
    def read(metrics: dict[str, Any]) -> float | None:
        value = metrics["diversity"][space].get(name)
        return None if value is None else factor * float(value)

    return read


def _student_spread(kind: str) -> Callable[[dict[str, Any]], float | None]:
    def read(metrics: dict[str, Any]) -> float | None:
        students = metrics["accuracy"].get("students", {})
        spreads = [statistics.stdev(student[kind]) for student in students.values() if len(student[kind] or ()) > 1]
        return statistics.fmean(spreads) if spreads else None

    return read


ACCURACY = (Measure("accuracy, last %", _accuracy("last"), 1), Measure("best on test %", _accuracy("best"), 1))
"""`best` is None where a protocol leaves out tests of epochs that could be the best."""

STUDENTS = (
    Measure("± students, last", _student_spread("last"), 1, sign=0),
    Measure("± students, best", _student_spread("best"), 1, sign=0),
)
"""The sample standard deviation over students of one synthesis, the kind of spread that papers print."""


def diversity_measures(space: str) -> tuple[Measure, ...]:
    """Return the columns of one embedding, T or I."""
    return (
        Measure("coverage %", _diversity(space, "coverage", 100), 1),
        Measure("per class %", _diversity(space, "class_coverage", 100), 1),
        Measure("Vendi", _diversity(space, "vendi"), 2),
        Measure("per class", _diversity(space, "class_vendi"), 2),
        Measure("similarity", _diversity(space, "similarity"), 3, sign=-1),
    )


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation over syntheses."""

    mean: float
    std: float | None
    n: int


def summarise(values: Sequence[float | None]) -> Summary | None:
    """Return mean and spread; None where a value is missing."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    # a mean without the missing seeds would compare other seeds
    if not known or len(known) < len(values):
        return None
    return Summary(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Difference:
    """A paired difference: mean, and the half width of its 95 % interval by the paired t test (None at n = 1)."""

    mean: float
    half_width: float | None
    n: int


def paired_difference(first: Sequence[float | None], second: Sequence[float | None]) -> Difference | None:
    """Return first − second, paired by position; None where a value is missing."""
    if None in first or None in second or not first:
        return None
    differences = [a - b for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    n = len(differences)
    if n < 2:
        return Difference(differences[0], None, n)
    # the standard error of the mean difference
    error = statistics.stdev(differences) / math.sqrt(n)
    # two-sided: 2.5 % at each end
    return Difference(statistics.fmean(differences), float(stats.t.ppf(0.975, n - 1)) * error, n)
