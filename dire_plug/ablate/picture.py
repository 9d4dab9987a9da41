"""Accuracy and coverage of each setting beside its control, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dire_plug.ablate.components import table_measures
from dire_plug.ablate.trials import Trial
from dire_plug.files import make_folder
from dire_plug.results.statistics import ACCURACY, Measure

INK, SOFT, ACCENT, OTHER = "#222222", "#9a9a9a", "#b5382a", "#2f6690"


@dataclass(frozen=True)
class Series:
    """One measure of all rows: dots with bars of one standard deviation, and a dashed line where the control is."""

    label: str
    measure: Measure
    colour: str


def draw_trials(trials: Mapping[str, Trial], control: Trial, path: Path, *, title: str, accuracy: str) -> None:
    """Draw a PNG file: a row a setting, with accuracy on the left and coverage in T and I on the right.

    Args:
        trials: the first one at the top; one without runs has an empty row that says so.
        control: drawn as lines.
        accuracy: what the left axis is called.
    """
    figure = Figure(figsize=(9.0, 1.6 + 0.32 * len(trials)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    coverages = {space: table_measures(space)["coverage"] for space in ("T", "I")}
    _panel(left, trials, control, [Series("accuracy", ACCURACY[0], INK)])
    _panel(right, trials, control, [Series(f"in {s}", coverages[s], c) for s, c in (("T", ACCENT), ("I", OTHER))])
    left.set_xlabel(accuracy)
    right.set_xlabel("coverage %")
    right.legend(frameon=False, fontsize=8, loc="best")
    left.set_yticks(range(len(trials)), [_label(name, trial) for name, trial in trials.items()], fontsize=9)
    left.invert_yaxis()
    shown = "mean ± standard deviation" if len(control.runs) > 1 else "one synthesis"
    figure.suptitle(f"{title}\n{shown}; dashed: control", fontsize=10, x=0.01, ha="left")
    make_folder(path.parent)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, trials: Mapping[str, Trial], control: Trial, series: Sequence[Series]) -> None:
    """Draw the measures of one panel, those of several side by side within a row."""
    for number, one in enumerate(series):
        shift = 0.18 * (number - (len(series) - 1) / 2)
        if (own := control.summary(one.measure)) is not None:
            axes.axvline(own.mean, color=one.colour, linewidth=0.9, linestyle="--", alpha=0.6)
        axes.plot([], [], color=one.colour, marker="o", markersize=4, linestyle="", label=one.label)
        for row, trial in enumerate(trials.values()):
            if (found := trial.summary(one.measure)) is not None:
                axes.errorbar(found.mean, row + shift, xerr=found.std, color=one.colour, marker="o", markersize=4)
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
    if trial.trouble is None:
        return name
    return f"{name} (collapsed)" if trial.runs else f"{name} (failed)"
