"""Show, store and draw a sweep: the ranking on validation images, and the test of the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from rich.console import RenderableType
from rich.text import Text

from dire_plug.measures import ACCURACY, Measure
from dire_plug.paper.ablate.components import spread_notes, table_measures, trial_json
from dire_plug.paper.ablate.sweep import BEST, DEFAULT, Sweep
from dire_plug.paper.ablate.trials import Trial
from dire_plug.results.figures import new_figure, save_figure
from dire_plug.results.statistics import Difference, paired_difference
from dire_plug.results.table import format_difference, format_summary
from dire_plug.tables import Table, with_notes

LAST = ACCURACY[0]
COLUMNS: dict[str, Measure] = {
    "cov T %": table_measures("T")["coverage"],
    "cov I %": table_measures("I")["coverage"],
    "Vendi T": table_measures("T")["vendi"],
    "sim T": table_measures("T")["similarity"],
}


def render_sweep(sweep: Sweep) -> RenderableType:
    """Return the table of settings on validation images, that of the test, and the caveats."""
    title = f"{sweep.method} · {sweep.recipe} · IPC {sweep.ipc} · engine {sweep.engine} · settings of DiRe"
    sentences = [Text(f"  {line}") for line in verdict(sweep)]
    return with_notes(_tried_table(sweep), _final_table(sweep), *sentences, title=title, notes=sweep_notes(sweep))


def ranked(sweep: Sweep) -> list[str]:
    """Return the names of the settings, the best on validation images first, those in problem last."""

    def rank(name: str) -> float:
        trial = sweep.tried[name]
        return math.inf if trial.problem or trial.accuracy is None else -trial.accuracy

    return sorted(sweep.tried, key=rank)  # stable, so the earlier one of equals is first here as in `sweep.choose`


def gap_between(first: Trial | None, second: Trial | None) -> Difference | None:
    """Return first − second in last accuracy, paired by seed; None where one of them has no runs."""
    if first is None or second is None or not first.runs or not second.runs:
        return None
    return paired_difference(first.column(LAST), second.column(LAST))


def _tried_table(sweep: Sweep) -> Table:
    table = _table(
        f"on {sweep.validation} validation images, {seeds_in_words(sweep.seeds)}", "setting", "accuracy, last %"
    )
    default = sweep.tried[DEFAULT]
    for name in ranked(sweep):
        trial = sweep.tried[name]
        label = f"{name} ← best" if name == sweep.best else name
        label = f"{label}, collapsed" if trial.problem and trial.runs else label
        gaps = gap_between(trial, None if name == DEFAULT else default), gap_between(trial, sweep.controls[name])
        table.add_row(label, *(_cells(trial, *gaps) if trial.runs else ["failed"]))
    table.add_section()
    for control in sweep.controls.values():
        if control.same_as is None:
            table.add_row(control.setting.name, *_cells(control, None, None))
    return table


def seeds_in_words(seeds: tuple[int, ...]) -> str:
    """Return which seeds there are, one after another."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def _final_table(sweep: Sweep) -> Table:
    table = _table(f"on the test set, {seeds_in_words(sweep.final_seeds)}", "arm", "accuracy, last %")
    for name, trial in sweep.final.items():
        label = f"{name}: {sweep.best}" if name == BEST else name
        label = f"{label} = {trial.same_as}" if trial.same_as else label
        default = sweep.final[DEFAULT] if name == BEST else None
        own = sweep.final[sweep.final_controls[name]] if name in sweep.final_controls else None
        gaps = gap_between(trial, default), gap_between(trial, own)
        table.add_row(label, *(_cells(trial, *gaps) if trial.runs else ["failed"]))
    return table


def _table(title: str, *columns: str) -> Table:
    first, *others = columns
    table = Table(first, title=title)
    table.add_numbers(*others, f"− {DEFAULT}", "− its control", *COLUMNS)
    return table


def _cells(trial: Trial, *gaps: Difference | None) -> list[str]:
    cells = [format_summary(trial.summary(LAST), LAST), *(format_difference(gap, LAST) for gap in gaps)]
    return cells + [format_summary(trial.summary(measure), measure) for measure in COLUMNS.values()]


def verdict(sweep: Sweep) -> list[str]:
    """Return the outcome in sentences, also where the best setting loses on the test set."""
    tried = len([trial for trial in sweep.tried.values() if trial.problem is None])
    best, control = sweep.tried[sweep.best], sweep.controls[sweep.best]
    lines = [f"best of {tried} on validation images: {sweep.best}"]
    if best.accuracy is not None and control.accuracy is not None and best.accuracy <= control.accuracy:
        lines.append("on validation images no more accurate than its own control: the term did not help there")
    if sweep.best == DEFAULT:
        against = _against(sweep, DEFAULT, sweep.final_controls[DEFAULT])
        return [*lines, f"that is the recipe's own setting; on the test set it {against}"]
    both = [_against(sweep, BEST, DEFAULT), _against(sweep, BEST, sweep.final_controls[BEST])]
    return [*lines, f"on the test set it {' and '.join(both)}"]


def _against(sweep: Sweep, name: str, other: str) -> str:
    return describe_gap(gap_between(sweep.final[name], sweep.final[other]), other)


def describe_gap(found: Difference | None, other: str) -> str:
    """Return what a difference in accuracy from something else says, in words."""
    if found is None:
        return f"can't be compared with {other}"
    word = "gains on" if found.mean > 0 else "loses to" if found.mean < 0 else "equals"
    # the half width is None of one pair
    doubt = "; the interval includes 0" if found.half_width and abs(found.mean) < found.half_width else ""
    return f"{word} {other} ({format_difference(found, LAST)} points{doubt})"


def sweep_notes(sweep: Sweep) -> list[str]:
    """Return the lines below the tables."""
    lines = [
        *spread_notes(len(sweep.seeds)),
        "each setting changes one thing of the recipe's own; its control is the same without the term, so it "
        "differs from `control` only where the plan does",
        f"the best of {len(sweep.tried)} settings looks better on validation images than it is, since the luckiest "
        f"is chosen{_luck(sweep)}",
        "the test has no such bias: new seeds, and images by which nothing was chosen; all its rows learned without "
        "the validation images, so they aren't the runs of `compare`",
    ]
    tested = {**sweep.tried, **{f"{name}, tested": trial for name, trial in sweep.final.items()}}
    lines += [f"{name}: {trial.problem}" for name, trial in tested.items() if trial.problem]
    return lines + [f"not tried: {line}" for line in sweep.left_out]


def _luck(sweep: Sweep) -> str:
    accuracy = sweep.tried[sweep.best].accuracy
    return "" if accuracy is None else describe_luck(accuracy, sweep.validation)


def describe_luck(accuracy: float, images: int) -> str:
    """Return how uncertain an accuracy, in percent, on so many images is, in brackets."""
    share = accuracy / 100
    # binomial: each validation image is right or wrong
    error = 100 * math.sqrt(share * (1 - share) / images)
    return f" (one accuracy on {images} images is uncertain by ± {error:.1f} points, binomial)"


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """Return the sweep for ablate.json: every value of every run, the ranking, the test."""
    tried, final = sweep.tried, sweep.final
    gaps = {name: gap_between(trial, sweep.controls[name]) for name, trial in tried.items()}
    final_gaps = {f"{BEST} − {DEFAULT}": gap_between(final.get(BEST), final[DEFAULT])}
    final_gaps |= {
        f"{name} − {control}": gap_between(final[name], final[control])
        for name, control in sweep.final_controls.items()
    }
    return {
        "method": sweep.method,
        "recipe": sweep.recipe,
        "ipc": sweep.ipc,
        "engine": sweep.engine,
        "validation_images": sweep.validation,
        "seeds": list(sweep.seeds),
        "ranking": ranked(sweep),
        "tried": {name: trial_json(trial) for name, trial in tried.items()},
        "controls": {name: trial_json(trial) for name, trial in sweep.controls.items()},
        "minus_default": _json({name: gap_between(trial, tried[DEFAULT]) for name, trial in tried.items()}),
        "minus_control": _json(gaps),
        "best": sweep.best,
        "final_seeds": list(sweep.final_seeds),
        "final": {name: trial_json(trial) for name, trial in final.items()},
        "final_differences": _json(final_gaps),
        "not_tried": sweep.left_out,
        "notes": [*verdict(sweep), *sweep_notes(sweep)],
    }


def _json(gaps: Mapping[str, Difference | None]) -> dict[str, Any]:
    return {name: None if gap is None else vars(gap) for name, gap in gaps.items()}


# Accuracy and coverage of each setting beside its control, as one picture.


INK, SOFT, ACCENT, OTHER = "#222222", "#9a9a9a", "#b5382a", "#2f6690"


def draw_trials(trials: Mapping[str, Trial], control: Trial, path: Path, *, title: str, accuracy: str) -> None:
    """Draw a PNG file: a row a setting, with accuracy on the left and coverage in T and I on the right.

    Args:
        trials: the first one at the top; one without runs has an empty row that says so.
        control: drawn as lines.
        accuracy: the label of the left axis.
    """
    figure, (left, right) = new_figure(9.0, 1.6 + 0.32 * len(trials), panels=2, sharey=True)
    coverages = {space: table_measures(space)["coverage"] for space in ("T", "I")}
    _panel(left, trials, control, [("accuracy", ACCURACY[0], INK)])
    _panel(right, trials, control, [("in T", coverages["T"], ACCENT), ("in I", coverages["I"], OTHER)])
    left.set_xlabel(accuracy)
    right.set_xlabel("coverage %")
    right.legend(frameon=False, fontsize=8, loc="best")
    left.set_yticks(range(len(trials)), [_label(name, trial) for name, trial in trials.items()], fontsize=9)
    # the first setting at the top
    left.invert_yaxis()
    shown = "mean ± standard deviation" if len(control.runs) > 1 else "one synthesis"
    figure.suptitle(f"{title}\n{shown}; dashed: control", fontsize=10, x=0.01, ha="left")
    save_figure(figure, path, dpi=130)


def _panel(axes: Axes, trials: Mapping[str, Trial], control: Trial, series: Sequence[tuple[str, Measure, str]]) -> None:
    """Draw label, measure and colour of each series: dots ± one standard deviation, and a dashed line for the control.

    Several series stand side by side within a row.
    """
    for number, (label, measure, colour) in enumerate(series):
        shift = 0.18 * (number - (len(series) - 1) / 2)
        if (own := control.summary(measure)) is not None:
            axes.axvline(own.mean, color=colour, linewidth=0.9, linestyle="--", alpha=0.6)
        # an empty curve for the legend: error bars would have one entry a row
        axes.plot([], [], color=colour, marker="o", markersize=4, linestyle="", label=label)
        for row, trial in enumerate(trials.values()):
            if (found := trial.summary(measure)) is not None:
                axes.errorbar(found.mean, row + shift, xerr=found.std, color=colour, marker="o", markersize=4)
    _widen(axes)
    axes.grid(axis="y", color=SOFT, linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)


def _widen(axes: Axes) -> None:
    """Give an axis on which all values are equal a width that has readable ticks."""
    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 1, high + 1)


def _label(name: str, trial: Trial) -> str:
    if trial.problem is None:
        return name
    return f"{name} (collapsed)" if trial.runs else f"{name} (failed)"
