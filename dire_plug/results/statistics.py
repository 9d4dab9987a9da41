"""Compute the statistics of the measures of finished runs.

The spread is over syntheses; students of one synthesis are averaged first. An arm's difference from control is paired
by seed; its interval is that of a paired t test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

FEW = 5
"""Below this number of pairs an interval says little, which the tables note."""


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
