"""Make the analysis that docs/preregistered.md fixes, of finished comparisons.

    python benchmarks/preregistered.py digits=COMPARISON fashion-mnist=COMPARISON [cda=COMPARISON]

COMPARISON is the name that `dire-plug compare` printed for the report, or its folder. The primary test of a term: for
each seed, the mean over digits and Fashion-MNIST of the term's last accuracy minus control's (each the mean over three
students), and the two-sided one-sample t test of these ten values against zero, at 5 % divided by the two terms. All
other rows are secondary: their intervals are of 95 %, without a correction.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence

from scipy import stats

import dire_plug

TERMS = ("energy-auto", "dire-two-networks")
PRIMARY = ("digits", "fashion-mnist")
SEEDS = tuple(range(200, 210))
STUDENTS = 3
LEVEL = 0.05
SECONDARY = ("coverage_independent", "vendi_independent", "similarity_independent")


def main() -> None:
    """Read the comparisons, check that they are the registered ones, print the tables."""
    named = dict(argument.split("=", 1) for argument in sys.argv[1:])
    found = {setting: read(name) for setting, name in named.items()}
    if set(PRIMARY) <= set(found):
        print(f"primary: last accuracy − control, mean of {' and '.join(PRIMARY)}, level {LEVEL} / {len(TERMS)}\n")
        for term in TERMS:
            gaps = [differences(found[setting], term, "accuracy_last") for setting in PRIMARY]
            print(verdict(term, [statistics.fmean(pair) for pair in zip(*gaps, strict=True)]))
    for setting, values in found.items():
        print(f"\nsecondary: {setting}, − control, 95 % intervals without correction\n")
        for term in (*TERMS, "dire"):
            for key in ("accuracy_last", *SECONDARY):
                print(line(f"{term}, {key}", differences(values, term, key), level=LEVEL))


def read(name: str) -> Mapping[str, Sequence[Mapping[str, float | None]]]:
    """Return arm → the metrics of its runs, by seed; raise where they aren't those that were registered."""
    comparison = dire_plug.load_comparison(name)
    if comparison.seeds != SEEDS:
        raise SystemExit(f"{name}: its seeds are {comparison.seeds}; registered were {SEEDS}")
    for runs in comparison.runs.values():
        for run in runs:
            students = run.details["accuracy"]["students"]
            if any(len(of_one["last"]) != STUDENTS for of_one in students.values()):
                raise SystemExit(f"{run.path}: registered were {STUDENTS} students of each synthesis")
    return {arm: [run.metrics for run in runs] for arm, runs in comparison.runs.items()}


def differences(values: Mapping[str, Sequence[Mapping[str, float | None]]], term: str, key: str) -> list[float]:
    """Return term − control by seed; raise where a value is missing, since no seed may be left out."""
    pairs = [(made[key], plain[key]) for made, plain in zip(values[term], values["control"], strict=True)]
    if any(first is None or second is None for first, second in pairs):
        raise SystemExit(f"{term}: {key} is missing for a seed")
    return [first - second for first, second in pairs if first is not None and second is not None]


def line(title: str, gaps: Sequence[float], *, level: float) -> str:
    """Return mean, interval, n and p of paired differences in one line."""
    test = stats.ttest_1samp(gaps, 0.0)
    low, high = test.confidence_interval(1 - level)
    half = (high - low) / 2
    found = f"{statistics.fmean(gaps):+.3f} ± {half:.3f}  [{low:+.3f}, {high:+.3f}]"
    return f"{title:44} {found}  n = {len(gaps)}  p = {test.pvalue:.2g}"


def verdict(term: str, gaps: Sequence[float]) -> str:
    """Return the line of the primary test: confirmed where the corrected interval lies above zero."""
    level = LEVEL / len(TERMS)
    low, _ = stats.ttest_1samp(gaps, 0.0).confidence_interval(1 - level)
    return f"{line(term, gaps, level=level)}  {'confirmed' if low > 0 else 'not confirmed'}"


if __name__ == "__main__":
    main()
