"""Draw loss curves: upstream's loss, each term, and each value that plugins recorded, a panel each; and dot plots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dire_plug.measures import ACCURACY, Measure, diversity_measures
from dire_plug.results.comparison import Comparison
from dire_plug.results.figures import INK, MARKERS, colour, new_figure, plain
from dire_plug.results.report.drawing import PageFigure, listed, to_svg
from dire_plug.results.report.groups import Group
from dire_plug.results.report.runs import ReportRun
from dire_plug.results.table import read_column

UPSTREAM = "upstream"
LOG_RATIO = 30
"""A panel whose values span more than this factor is drawn on a logarithmic scale."""


def curves_figure(runs: Mapping[str, ReportRun], *, name: str) -> PageFigure:
    """Return the loss curves of runs for a page, a panel for each loss; without any record, why they are missing."""
    title = "Loss curves, term by term"
    records = {label: record for label, run in runs.items() if (record := run.losses) is not None}
    if not records:
        return PageFigure(
            title,
            "This figure is missing: these runs have no losses.json; real images have no loss, and runs made "
            "by an older version no record of it.",
        )
    names = list(dict.fromkeys(one for record in records.values() for one in record["mean"]))
    panels = {}
    for number, term in enumerate(names):
        drawn = {label: record for label, record in records.items() if term in record["mean"]}
        figure, (axes,) = new_figure(3.6, 2.5)
        for label, record in drawn.items():
            _draw(axes, record, term, colour(runs[label].arm, [run.arm for run in runs.values()]), label)
        _finish(axes, drawn, term)
        panels[_words(term)] = to_svg(figure, name=f"{name}-{number}", alt=_alt(drawn, term))
    slots = listed([f"{label} {record['slots_run']}" for label, record in records.items()])
    caption = (
        f"Mean over the batches that the synthesis optimised ({slots}), first synthesis; pale lines are single "
        "batches. A term is shown as it was added to upstream's loss, its weight included; its parts add up to it."
    )
    return PageFigure(title, caption, panels)


def _draw(axes: Axes, record: Mapping[str, Any], term: str, tint: str, label: str) -> None:
    steps = record["steps"]
    # one batch is its own mean
    if record["slots_run"] > 1:
        for slot in record["slots"]:
            axes.plot(steps, _gaps(slot["values"].get(term, [])), color=tint, alpha=0.15, linewidth=0.6)
    axes.plot(steps, _gaps(record["mean"][term]), color=tint, linewidth=1.7, label=label)


def _finish(axes: Axes, drawn: Mapping[str, Mapping[str, Any]], term: str) -> None:
    known = [value for record in drawn.values() for value in record["mean"][term] if value is not None]
    if known and min(known) > 0 and max(known) / min(known) > LOG_RATIO:
        axes.set_yscale("log")
    plain(axes)
    axes.set_xlabel("step", fontsize=9)
    axes.legend(fontsize=9, frameon=False, labelcolor=INK)


def _alt(drawn: Mapping[str, Mapping[str, Any]], term: str) -> str:
    parts = []
    for label, record in drawn.items():
        known = [value for value in record["mean"][term] if value is not None]
        parts.append(f"{label} from {known[0]:.3g} to {known[-1]:.3g}" if known else f"{label} never finite")
    return f"Line plot of {_words(term)} over {drawn[next(iter(drawn))]['steps'][-1] + 1} steps: {listed(parts)}."


def _words(term: str) -> str:
    if term == UPSTREAM:
        return "upstream’s loss"
    plugin, _, recorded = term.partition("/")
    return f"{plugin}: {recorded}" if recorded else f"term of {plugin}"


def _gaps(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]  # drawn as a gap


# Every synthesis as a dot, arm by arm: the values behind the means of the tables.


SHOWN = (
    ("accuracy, last %", ACCURACY[0]),
    ("coverage in T, %", diversity_measures("T")[0]),
    ("coverage in I, %", diversity_measures("I")[0]),
)


def draw_strips(comparison: Comparison) -> Figure:
    """Return accuracy and coverage of every run as one figure, a panel for each measure."""
    shown = {words: found for words, measure in SHOWN if (found := _known(comparison, measure))}
    rows = max(map(len, shown.values()), default=1)
    figure, panels = new_figure(3.2 * max(1, len(shown)), 0.9 + 0.32 * rows, panels=max(1, len(shown)))
    for axes, (words, values) in zip(panels, shown.items(), strict=False):
        _draw_strip(axes, values)
        axes.set_title(words, fontsize=10, color=INK)
    return figure


def strips_figure(group: Group, *, name: str) -> PageFigure:
    """Return accuracy and coverage of every run for a page, a panel for each measure."""
    panels = {}
    for number, (words, measure) in enumerate(SHOWN):
        values = _known(group.comparison(), measure)
        if not values:
            continue
        figure, (axes,) = new_figure(3.6, 0.7 + 0.32 * len(values))
        _draw_strip(axes, values)
        digits = measure.digits
        alt = f"Dot plot of {words}: {listed([_range(arm, found, digits) for arm, found in values.items()])}."
        panels[words] = to_svg(figure, name=f"{name}-{number}", alt=alt)
    return PageFigure("Every synthesis", "A dot is a synthesis, the bar the mean of an arm.", panels)


def _known(comparison: Comparison, measure: Measure) -> dict[str, list[float]]:
    columns = {arm: read_column(comparison, arm, measure) for arm in comparison.runs if arm not in comparison.same}
    known = {arm: [value for value in column if value is not None] for arm, column in columns.items()}
    return {arm: values for arm, values in known.items() if values}


def _draw_strip(axes: Axes, values: dict[str, list[float]]) -> None:
    arms = list(values)
    for row, (arm, found) in enumerate(values.items()):
        tint = colour(arm, arms)
        mark = MARKERS.get(arm, "o")
        axes.scatter(found, [row] * len(found), color=tint, marker=mark, s=26, alpha=0.75, linewidths=0)
        mean = statistics.fmean(found)
        axes.plot([mean, mean], [row - 0.32, row + 0.32], color=tint, linewidth=2)
    plain(axes, grid="x")
    axes.locator_params(axis="x", nbins=4)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _range(arm: str, found: list[float], digits: int) -> str:
    if len(found) == 1:
        return f"{arm} {found[0]:.{digits}f}"
    return f"{arm} {min(found):.{digits}f} to {max(found):.{digits}f}"
