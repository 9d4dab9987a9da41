"""Take a ladder's steps apart: what each arm changes on the one before, in words, and by how much the measures move."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dire_plug.measures import ACCURACY, Measure, diversity_measures
from dire_plug.recipe import without_terms
from dire_plug.recipe.ladder import rung_number
from dire_plug.recipe.loading import Tree, flatten
from dire_plug.results.figures import COLOURS, INK, new_figure, plain, save_figure
from dire_plug.results.statistics import Difference
from dire_plug.tables import with_minus

SUMMED_UP = (
    ("accuracy", ACCURACY[0], " points"),
    ("coverage in T", diversity_measures("T")[0], " points"),
    ("coverage in I", diversity_measures("I")[0], " points"),
    ("similarity in T", diversity_measures("T")[4], ""),
)
"""The differences that are shown beside each other: words, measure, unit."""
STARTS = {
    "real": "real start",
    "rded": "start from RDED's images",
    "noise": "start from noise",
    "own": "the script's own start",
}
TERM = "the term"
PLAN = "recover.plan"


@dataclass(frozen=True)
class Step:
    """One step of a ladder.

    Attributes:
        arm, before: the arm, and the one before it.
        change: what `arm` changes on `before`, in words.
        keys: dotted key → its values in both; None where it is missing.
    """

    arm: str
    before: str
    change: str
    keys: dict[str, tuple[Any, Any]]


def order_arms(arms: Collection[str]) -> list[str]:
    """Return those of some arms that stand on a ladder, from baseline to `dire`."""
    rungs = sorted((arm for arm in arms if rung_number(arm) is not None), key=lambda arm: rung_number(arm) or 0)
    return [arm for arm in ("baseline", *rungs, "control", "dire") if arm in arms]


def find_steps(recipes: Mapping[str, Tree]) -> tuple[Step, ...]:
    """Return the steps between arms, given their resolved recipes in the order of the ladder."""
    return tuple(_step(arm, before, recipes) for before, arm in itertools.pairwise(recipes))


def _step(arm: str, before: str, recipes: Mapping[str, Tree]) -> Step:
    old, new = (flatten(without_terms(recipes[one])) for one in (before, arm))
    keys = {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}
    words = [word for word in (_describe(key, value) for key, (_, value) in keys.items()) if word]
    if arm == "dire":
        words.append(TERM)
    return Step(arm, before, ", ".join(words) or "no change", keys)


def _describe(key: str, value: Any) -> str:
    """Return a changed key in words; nothing where a second key of the same change says it."""
    if key == "recover.start":
        return STARTS.get(value, f"start {value}")
    if key == f"{PLAN}.per_class":
        return "" if value is None else f"{value} of a class in a batch"
    if key == PLAN:
        return "" if value is None else "upstream's batches"
    return f"{key.removeprefix('recover.').removeprefix('flags.')} {value}"


Gap = Callable[[Step, Measure], Difference | None]
"""From a step and a measure to the paired difference; None where a value is missing."""


def draw_steps(steps: Sequence[Step], gap: Gap) -> Figure:
    """Return a figure: a row a step, a panel a measure, dots with the interval of the paired difference."""
    figure, panels = new_figure(9.6, 1.1 + 0.42 * len(steps), panels=len(SUMMED_UP), sharey=True)
    for number, (axes, (words, measure, unit)) in enumerate(zip(panels, SUMMED_UP, strict=True)):
        _panel(axes, [gap(step, measure) for step in steps], digits=measure.digits)
        axes.set_title(f"{words}{',' if unit else ''}{unit}", fontsize=9, color=INK)
        if number == 0:
            axes.set_yticks(range(len(steps)), [f"+ {step.change}" for step in steps])
            axes.invert_yaxis()  # the first step at the top; all panels share the axis
    return figure


def _panel(axes: Axes, gaps: Sequence[Difference | None], *, digits: int) -> None:
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, found in enumerate(gaps):
        if found is None:
            continue
        axes.errorbar(
            found.mean, row, xerr=found.half_width, color=COLOURS["dire"], marker="o", markersize=5, capsize=2.5
        )
        axes.annotate(
            with_minus(f"{found.rounded(digits):+.{digits}f}"), (found.mean, row), (0, 6),
            textcoords="offset points", ha="center", fontsize=8, color=INK,
        )  # fmt: skip
    plain(axes, grid="x")
    axes.margins(x=0.18)
    axes.set_ylim(len(gaps) - 0.5, -0.7)


def save_steps(steps: Sequence[Step], gap: Gap, path: Path) -> None:
    """Write the figure of a ladder as a PNG file."""
    save_figure(draw_steps(steps, gap), path, dpi=130)
