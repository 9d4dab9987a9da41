"""Compute the statistics of the measures of finished runs.

The spread is over syntheses; students of one synthesis are averaged first. An arm's difference from control is paired
by seed; its interval is that of a paired t test.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize, stats

POWER, LEVEL = 0.8, 0.05
"""The chance of telling a true difference from zero, and that of taking zero for one, two-sided."""
HALF_POINT = 0.5
"""The difference, in points of accuracy, that a needed number of seeds is told for."""
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


def half_interval(summary: Summary) -> float | None:
    """Return half of the 95 % t interval of a mean; None at n = 1."""
    if summary.std is None:
        return None
    return float(stats.t.ppf(0.975, summary.n - 1)) * summary.std / math.sqrt(summary.n)


@dataclass(frozen=True)
class Difference:
    """A paired difference.

    Attributes:
        mean: over the pairs, not rounded.
        half_width: of its 95 % interval by the paired t test; None at n = 1.
        n: pairs.
        means: of the two sides, whose difference `mean` is.
    """

    mean: float
    half_width: float | None
    n: int
    means: tuple[float, float]

    def rounded(self, digits: int) -> float:
        """Return the difference as it is printed: of one pair, that of the two values as they are printed."""
        # 96.94 − 96.39 is .55, but beside 96.9 and 96.4 a reader expects .5; with its interval .02 ± .01 isn't .1
        if self.half_width is not None:
            return self.mean
        return round(self.means[0], digits) - round(self.means[1], digits)


def paired_difference(first: Sequence[float | None], second: Sequence[float | None]) -> Difference | None:
    """Return first − second, paired by position; None where a value is missing."""
    pairs = _pair(first, second)
    n, differences = len(pairs), [a - b for a, b in pairs]
    if n == 0:
        return None
    mean = statistics.fmean(differences)
    means = (statistics.fmean(a for a, _ in pairs), statistics.fmean(b for _, b in pairs))
    if n < 2:
        return Difference(mean, None, n, means)
    # the standard error of the mean difference
    error = statistics.stdev(differences) / math.sqrt(n)
    # two-sided: 2.5 % at each end
    return Difference(mean, float(stats.t.ppf(0.975, n - 1)) * error, n, means)


def _pair(first: Sequence[float | None], second: Sequence[float | None]) -> list[tuple[float, float]]:
    """Return the pairs of two columns, by position; none where any value is missing."""
    if None in first or None in second or not first:
        return []
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]


@dataclass(frozen=True)
class Power:
    """What pairs of a known spread can tell from zero.

    Attributes:
        std: the sample standard deviation of the paired differences.
        n: pairs that there are.
        smallest: the difference that n pairs tell from zero.
        half_point: pairs that tell a difference of `HALF_POINT`; None where it takes more than `MOST`.
    """

    std: float
    n: int
    smallest: float
    half_point: int | None


@dataclass(frozen=True)
class Agreement:
    """How far two rankings of n things agree: Kendall's τ_b, the two-sided p-value of no association, Spearman's ρ."""

    n: int
    tau: float
    tau_p: float
    rho: float


def find_agreement(first: Sequence[float], second: Sequence[float]) -> Agreement | None:
    """Return how far two lists rank the same things alike; None below three, or where one has no order.

    The p-value is τ's, exact where nothing is tied; scipy's of ρ is that of the t distribution, too small for a few.
    """
    if len(first) < LEAST_RANKED or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    tau, rho = stats.kendalltau(first, second), stats.spearmanr(first, second)
    return Agreement(len(first), float(tau.statistic), float(tau.pvalue), float(rho.statistic))


LEAST_RANKED = 3
"""Two things are ranked alike, or the other way round: no measure of agreement."""


def rank(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, 1 for the greatest; equal ones share the mean of their ranks."""
    return [float(one) for one in stats.rankdata([-value for value in values])]


MOST = 100_000
ROUNDING = 1e-9
"""Differences that vary by less are the same one, but for the rounding of floating-point numbers."""


def power_of(first: Sequence[float | None], second: Sequence[float | None]) -> Power | None:
    """Return what the pairs can tell by the paired t test; None below two, or where a value is missing.

    A true mean difference δ of n pairs, whose differences have the standard deviation s, is told from zero with

        power = P(t > t₀),   t noncentral with n − 1 degrees of freedom, centred at δ √n / s,

    where t₀ leaves `LEVEL` / 2 on each side of the central t distribution (J. Cohen, Statistical Power Analysis for the
    Behavioral Sciences, 2nd edition, 1988, chapter 2; R's `power.t.test(type = "paired")`). s is the observed
    one, which few pairs know badly: at n = 5 it is from 0.6 to 2.9 times what was seen, at 95 %.
    """
    differences = [a - b for a, b in _pair(first, second)]
    if len(differences) < 2:
        return None
    n, std = len(differences), statistics.stdev(differences)
    if std < ROUNDING:
        return Power(0.0, n, 0.0, 2)
    return Power(std, n, smallest_difference(n) * std, pairs_needed(HALF_POINT / std))


def power(effect: float, n: int) -> float:
    """Return the power of the paired t test of n pairs, for a difference in units of its standard deviation."""
    limit, centre = stats.t.ppf(1 - LEVEL / 2, n - 1), effect * math.sqrt(n)
    return float(stats.nct.sf(limit, n - 1, centre))


def smallest_difference(n: int) -> float:
    """Return the difference that n pairs tell from zero with `POWER`, in units of its standard deviation."""
    high = 1.0
    while power(high, n) < POWER:
        high *= 2
    return float(optimize.brentq(lambda effect: power(effect, n) - POWER, 0, high))


def pairs_needed(effect: float) -> int | None:
    """Return the least number of pairs that tells a difference, in units of its standard deviation; None above `MOST`.

    The number for the normal distribution is a lower bound, from which a few steps lead to that of the t test.
    """
    quantiles = float(stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER))
    start = max(2, math.floor((quantiles / effect) ** 2))
    if start > MOST:
        return None
    return next(n for n in itertools.count(start) if power(effect, n) >= POWER)
