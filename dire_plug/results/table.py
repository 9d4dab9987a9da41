"""Show a comparison in the terminal, store it in compare.json, and draw its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType
from rich.text import Text
from torch import Tensor
from torchvision.utils import make_grid

from dire_plug.results.comparison import Comparison
from dire_plug.results.figures import new_figure, save_png
from dire_plug.results.ladder import Step, save_steps
from dire_plug.results.statistics import (
    ACCURACY,
    FEW,
    STUDENTS,
    Difference,
    Measure,
    Summary,
    diversity_measures,
    paired_difference,
    summarise,
)
from dire_plug.stages.artefacts import FULL
from dire_plug.stages.images import TENSORS, read_tensors
from dire_plug.tables import Table, with_notes

CHOSEN = ("herding", "k-center", "k-means")
# k-means starts from the seed, these two draw nothing
SEEDLESS = ("herding", "k-center")
"""Arms that choose the same images with every seed."""


def real_image_notes(metrics: Mapping[str, Mapping[str, Any]], *, seeds: int) -> list[str]:
    """Return the lines below the tables.

    Args:
        metrics: arm → metrics.json of its first run.
        seeds: how many runs each arm has.
    """
    lines = []
    if "random" in metrics:
        lines.append("random: as many real training images under the same protocol")
    if chosen := [arm for arm in CHOSEN if arm in metrics]:
        lines.append(f"{', '.join(chosen)}: likewise, chosen by the teacher's embeddings, so I judges them more fairly")
    if seeds > 1 and (same := [arm for arm in SEEDLESS if arm in metrics]):
        lines.append(f"{', '.join(same)}: the same images with every seed, so the spread is over students alone")
    if "full" in metrics:
        lines += full_notes(metrics["full"])
    return lines


def full_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return the notes on the arm `full`: how long its students trained, and why it has no coverage."""
    lines = ["full: no coverage (–): its images are the ones to be covered, so each covers itself"]
    if budget := metrics["accuracy"].get("full"):
        epochs = f"{budget['epochs']} epoch{'' if budget['epochs'] == 1 else 's'}"
        steps = f"{budget['steps']:,} steps; IPC images per class get {budget['subset_steps']:,}"
        lines.insert(0, f"full: all {budget['images']:,} training images, in {epochs} ({steps})")
    return lines


JUDGED_ON_VALIDATION = (
    "tested on validation images, held out of the training set, not on the test set: 'best on test' is best on those"
)
SPACES = {"T": "the teacher's embedding, in which the term works", "I": "an independently trained network's"}


def read_column(comparison: Comparison, arm: str, measure: Measure) -> list[float | None]:
    """Return one measure of one arm for every seed."""
    return [measure.read(run.metrics) for run in comparison.runs[arm]]


def difference(comparison: Comparison, measure: Measure, *, arm: str = "dire") -> Difference | None:
    """Return arm − control in one measure, or None without both, or where control isn't the arm's control."""
    if arm not in comparison.controlled or not {arm, "control"} <= comparison.runs.keys():
        return None
    return paired_difference(read_column(comparison, arm, measure), read_column(comparison, "control", measure))


def step_difference(comparison: Comparison, step: Step, measure: Measure) -> Difference | None:
    """Return an arm of a ladder − the one before it in one measure, paired by seed; None where a value is missing."""
    if measure in STUDENTS or not {step.arm, step.before} <= comparison.runs.keys():
        return None
    return paired_difference(*(read_column(comparison, arm, measure) for arm in (step.arm, step.before)))


def render(comparison: Comparison) -> RenderableType:
    """Return the tables of accuracy and of diversity in T and I, with their caveats."""
    n = len(comparison.seeds)
    title = f"{comparison.method} · {comparison.recipe} · IPC {comparison.ipc} · engine {comparison.engine}"
    parts: list[RenderableType] = [
        *(Text(f"with {change}") for change in comparison.changes),
        _table("accuracy of students", comparison, accuracy_columns(comparison)),
    ]
    for space, meaning in SPACES.items():
        parts.append(_table(f"diversity in {space}: {meaning}", comparison, diversity_measures(space), space=space))
    lines = notes(comparison, n, pairs=_pairs(comparison))
    return with_notes(*parts, title=title, notes=lines)


def accuracy_columns(comparison: Comparison) -> tuple[Measure, ...]:
    """Return the columns of accuracy: the best where it is known, the spread where a synthesis has several students."""
    return (ACCURACY[0], *(one for one in (*ACCURACY[1:], *STUDENTS) if _is_known(comparison, one)))


def _is_known(comparison: Comparison, measure: Measure) -> bool:
    return any(value is not None for arm in comparison.runs for value in read_column(comparison, arm, measure))


def count_pairs(comparison: Comparison, arm: str) -> int:
    """Return the number of pairs behind an arm's difference from control; 0 where there is none."""
    gap = difference(comparison, ACCURACY[0], arm=arm)
    return 0 if gap is None else gap.n


def _pairs(comparison: Comparison) -> dict[str, int]:
    return {arm: count_pairs(comparison, arm) for arm in comparison.controlled}


def step_notes(comparison: Comparison) -> list[str]:
    """Return the lines that say which arms the steps of a ladder are between."""
    if not comparison.steps:
        return []
    shown = "; ".join(f"{step.change}: {step.arm} − {step.before}" for step in comparison.steps)
    return [f"+: an arm − the one before it on the ladder, paired by seed: {shown}"]


def notes(comparison: Comparison, n: int, *, pairs: Mapping[str, int]) -> list[str]:
    """Return the lines below the tables.

    Args:
        n: syntheses of each arm.
        pairs: arm → the number of pairs behind its difference from control; 0 where there is none.
    """
    pairs = {arm: count for arm, count in pairs.items() if count}
    lines = [f"mean ± standard deviation over {n} synthes{'is' if n == 1 else 'es'}"]
    if n == 1:
        lines = ["one synthesis per arm: no spread; --seeds 5 gives one"]
    for arm, other in comparison.same.items():
        lines.append(f"{arm} equals {other} here, so it was run once")
    if pairs:
        interval = ", ± half of the 95 % interval of the paired t test" if max(pairs.values()) > 1 else ""
        lines.append(f"{next(iter(pairs)) if len(pairs) == 1 else '…'} − control: paired by seed{interval}")
    if few := {arm: count for arm, count in pairs.items() if count < FEW}:
        alike = len(set(pairs.values())) == 1
        numbers = f"n = {min(few.values())}" if alike else ", ".join(f"{arm} n = {count}" for arm, count in few.items())
        lines.append(f"{numbers}: below {FEW} pairs the interval says little")
    lines += step_notes(comparison)
    for arm in comparison.uncontrolled:
        lines.append(f"{arm}: differs from control in more than its term, so no difference is formed")
    if _is_known(comparison, STUDENTS[0]):
        lines.append("± students: standard deviation over the students of one synthesis, mean over syntheses")
    lines += real_image_notes({arm: runs[0].metrics for arm, runs in comparison.runs.items()}, seeds=n)
    lines.append("real reference: as many real held-out images, mean over draws")
    if any(run.metrics.get("judged") == "validation" for runs in comparison.runs.values() for run in runs):
        lines.append(JUDGED_ON_VALIDATION)
    lines += dict.fromkeys(note for runs in comparison.runs.values() for run in runs for note in run.notes)  # each once
    return lines


def _table(title: str, comparison: Comparison, measures: tuple[Measure, ...], *, space: str | None = None) -> Table:
    table = Table("arm", title=title)
    table.add_numbers(*(measure.title for measure in measures))
    rows = make_rows(comparison, measures, space=space)
    for kind, label, cells in rows:
        if kind != DIFFERENCE:
            table.add_row(label, *cells, style="dim" if kind == REFERENCE else "")
    table.add_section()  # differences are no rows of an arm
    for kind, label, cells in rows:
        if kind == DIFFERENCE:
            table.add_row(label, *cells)
    return table


REFERENCE, DIFFERENCE = "reference", "difference"


def make_rows(
    comparison: Comparison,
    measures: Sequence[Measure],
    *,
    space: str | None = None,
    pair: Callable[[str, str | None], Comparison] | None = None,
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the rows of a table: the kind (an arm, `REFERENCE` or `DIFFERENCE`), the label, the cells.

    Args:
        space: T or I, where the measures are of an embedding, which has a real reference.
        pair: an arm and the one that it is compared with (None: its control) → the comparison that has the seeds of
            both; None: `comparison` for all.
    """
    rows = []
    for arm in comparison.runs:
        label = f"{arm} = {comparison.same[arm]}" if arm in comparison.same else arm
        summaries = [summarise(read_column(comparison, arm, measure)) for measure in measures]
        cells = (format_summary(found, one) for found, one in zip(summaries, measures, strict=True))
        rows.append((arm, label, tuple(cells)))
    if space is not None:
        # the same for all runs: its draws have a seed of their own, and arms have one dataset, IPC and network
        real = next(iter(comparison.runs.values()))[0].metrics["diversity"][space]["real"]
        rows.append((REFERENCE, "real reference", tuple(diversity_cells(space, real))))
    for step in comparison.steps:
        paired = comparison if pair is None else pair(step.arm, step.before)
        found = [step_difference(paired, step, one) for one in measures]
        cells = (format_difference(gap, one) for gap, one in zip(found, measures, strict=True))
        rows.append((DIFFERENCE, f"+ {step.change}", tuple(cells)))
    for arm in comparison.controlled:
        if comparison.steps and arm == comparison.steps[-1].arm:
            continue  # the last step is this difference
        paired = comparison if pair is None else pair(arm, None)
        if gaps := difference_cells(paired, measures, arm):
            rows.append((DIFFERENCE, f"{arm} − control", gaps))
    return rows


def difference_cells(comparison: Comparison, measures: Sequence[Measure], arm: str) -> tuple[str, ...] | None:
    """Return the cells of arm − control; None where no measure can be compared."""
    # a difference of spreads has no meaning
    gaps = [None if one in STUDENTS else difference(comparison, one, arm=arm) for one in measures]
    if not any(gaps):
        return None
    return tuple(format_difference(gap, one) for gap, one in zip(gaps, measures, strict=True))


def diversity_cells(space: str, values: Mapping[str, Any]) -> list[str]:
    """Return one value in each column of one embedding; a dash where it is missing."""
    measures = diversity_measures(space)
    found = [measure.read({"diversity": {space: values}}) for measure in measures]
    return ["–" if value is None else f"{value:.{one.digits}f}" for value, one in zip(found, measures, strict=True)]


def format_summary(summary: Summary | None, measure: Measure) -> str:
    """Return mean ± standard deviation in the measure's digits; a dash where a value is missing."""
    if summary is None:
        return "–"
    spread = "" if summary.std is None else f" ± {summary.std:.{measure.digits}f}"
    return f"{summary.mean:.{measure.digits}f}{spread}"


def format_difference(gap: Difference | None, measure: Measure) -> str:
    """Return a paired difference ± half of its interval; nothing where there is none."""
    if gap is None:
        return ""
    digits = measure.digits
    interval = "" if gap.half_width is None else f" ± {gap.half_width:.{digits}f}"
    return f"{gap.mean:+.{digits}f}{interval}"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison for compare.json: every value of every run, and the statistics."""
    named = {f"accuracy/{measure.title}": measure for measure in (*ACCURACY, *STUDENTS)}
    for space in SPACES:
        for key, measure in zip(
            ("coverage", "class_coverage", "vendi", "class_vendi", "similarity"), diversity_measures(space), strict=True
        ):
            named[f"{space}/{key}"] = measure
    arms = {}
    for arm, runs in comparison.runs.items():
        values = {name: read_column(comparison, arm, measure) for name, measure in named.items()}
        arms[arm] = {
            "same_as": comparison.same.get(arm),
            "runs": [str(run.folder.path.name) for run in runs],
            "values": values,
            "summary": {name: _summary_json(summarise(column)) for name, column in values.items()},
        }
    gaps = {
        arm: {name: difference(comparison, measure, arm=arm) for name, measure in named.items()}
        for arm in comparison.controlled
    }
    return {
        "method": comparison.method,
        "recipe": comparison.recipe,
        "ipc": comparison.ipc,
        "engine": comparison.engine,
        "seeds": list(comparison.seeds),
        "changes": list(comparison.changes),
        "arms": arms,
        "minus_control": {
            arm: {name: None if gap is None else vars(gap) for name, gap in of_arm.items()}
            for arm, of_arm in gaps.items()
        },
        "ladder": [
            {
                "arm": step.arm,
                "before": step.before,
                "change": step.change,
                "keys": {key: list(values) for key, values in step.keys.items()},
                "difference": {
                    name: None if (gap := step_difference(comparison, step, measure)) is None else vars(gap)
                    for name, measure in named.items()
                },
            }
            for step in comparison.steps
        ],
        "notes": notes(comparison, len(comparison.seeds), pairs=_pairs(comparison)),
    }


def _summary_json(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else vars(summary)


CLASSES, IMAGES = 10, 10
"""The most classes, and images of each, that are drawn."""
INCHES = 3.2
"""Width of one arm's panel."""


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the first seed's images of every arm that was run into a PNG file.

    Nothing is drawn where a set is too large for one tensor file; the arm `full` has no images of its own.
    """
    arms = [arm for arm in comparison.runs if arm not in comparison.same and arm != FULL]
    if not arms or not all((comparison.runs[arm][0].folder.path / TENSORS).is_file() for arm in arms):
        return
    figure, panels = new_figure(INCHES * len(arms), INCHES + 0.4, panels=len(arms))
    for axes, arm in zip(panels, arms, strict=True):
        axes.imshow(_grid(comparison.runs[arm][0].folder.path).permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(arm)
        axes.set_axis_off()
    save_png(figure, path, dpi=120)


def draw_ladder(comparison: Comparison, path: Path) -> None:
    """Draw the steps of a ladder, each with its differences, into a PNG file; nothing where there is no ladder."""
    if comparison.steps:
        save_steps(comparison.steps, lambda step, measure: step_difference(comparison, step, measure), path)


def _grid(folder: Path) -> Tensor:
    """Return the images of a run as one, [3, H, W] in [0, 1], a row a class."""
    images, labels = read_tensors(folder)
    rows = [images[labels == label][:IMAGES] for label in torch.unique(labels)[:CLASSES]]
    grid: Tensor = make_grid(torch.cat(rows), nrow=len(rows[0]), padding=1, pad_value=1.0)
    return grid
