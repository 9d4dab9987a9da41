"""Every synthesis as a dot, arm by arm: what the means of the tables are made of."""

from __future__ import annotations

import statistics

from matplotlib.axes import Axes

from dire_plug.report.drawing import INK, MARKERS, PageFigure, Panel, colour, listed, new_figure, plain, to_svg
from dire_plug.report.groups import Group
from dire_plug.results.statistics import ACCURACY, Measure, diversity_measures
from dire_plug.results.table import read_column

SHOWN = (
    ("accuracy, last %", ACCURACY[0]),
    ("coverage in T, %", diversity_measures("T")[0]),
    ("coverage in I, %", diversity_measures("I")[0]),
)


def strips_figure(group: Group, *, name: str) -> PageFigure:
    """Return accuracy and coverage of every run for a page, a panel a measure."""
    panels = []
    for number, (words, measure) in enumerate(SHOWN):
        values = _known(group, measure)
        if not values:
            continue
        figure, (axes,) = new_figure(3.6, 0.7 + 0.32 * len(values))
        _draw(axes, values)
        digits = measure.digits
        alt = f"Dot plot of {words}: {listed([_range(arm, found, digits) for arm, found in values.items()])}."
        panels.append(Panel(to_svg(figure, name=f"{name}-{number}", alt=alt), alt, words))
    return PageFigure("Every synthesis", "A dot is a synthesis, the bar the mean of an arm.", tuple(panels))


def _known(group: Group, measure: Measure) -> dict[str, list[float]]:
    comparison = group.comparison()
    columns = {arm: read_column(comparison, arm, measure) for arm in comparison.runs if arm not in comparison.same}
    known = {arm: [value for value in column if value is not None] for arm, column in columns.items()}
    return {arm: values for arm, values in known.items() if values}


def _draw(axes: Axes, values: dict[str, list[float]]) -> None:
    arms = list(values)
    for place, (arm, found) in enumerate(values.items()):
        tint = colour(arm, arms)
        mark = MARKERS.get(arm, "o")
        axes.scatter(found, [place] * len(found), color=tint, marker=mark, s=26, alpha=0.75, linewidths=0)
        mean = statistics.fmean(found)
        axes.plot([mean, mean], [place - 0.32, place + 0.32], color=tint, linewidth=2)
    plain(axes, grid="x")
    axes.locator_params(axis="x", nbins=4)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _range(arm: str, found: list[float], digits: int) -> str:
    if len(found) == 1:
        return f"{arm} {found[0]:.{digits}f}"
    return f"{arm} {min(found):.{digits}f} to {max(found):.{digits}f}"
