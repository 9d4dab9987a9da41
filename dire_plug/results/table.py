"""Show a comparison in the terminal, store it in compare.json and load it again, and draw its images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.text import Text
from torch import Tensor
from torchvision.utils import make_grid

from dire_plug.data.validation import JUDGED_ON_VALIDATION
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, read_json, write_json
from dire_plug.measures import (
    ACCURACY,
    SPACES,
    STUDENTS,
    Measure,
    diversity_measures,
    find_best,
    run_measures,
)
from dire_plug.pipeline import FinishedRun
from dire_plug.recipe.model import RDED
from dire_plug.results.comparison import Comparison
from dire_plug.results.figures import new_figure, save_figure
from dire_plug.results.ladder import Step, save_steps
from dire_plug.results.statistics import (
    FEW,
    LEVEL,
    MOST,
    POWER,
    Difference,
    Power,
    Summary,
    paired_difference,
    power_of,
    summarise,
)
from dire_plug.stages.artefacts import CHOSEN, FULL
from dire_plug.stages.images import TENSORS, read_tensors
from dire_plug.store.runs import COMPARISON, RunFolder
from dire_plug.tables import Table, with_minus, with_notes

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
    if RDED in metrics:
        lines.append(
            "rded: images of real patches, chosen by the teacher's loss by RDED's rule, not by its own code; I judges "
            "them more fairly"
        )
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
        make_table("accuracy of students", comparison, accuracy_columns(comparison)),
    ]
    for space, meaning in SPACES.items():
        parts.append(make_table(f"diversity in {space}: {meaning}", comparison, diversity_measures(space), space=space))
    lines = [*notes(comparison, n, pairs=_pairs(comparison)), *power_notes(comparison)]
    return with_notes(*parts, title=title, notes=lines, bold=describe_bold(comparison))


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
        lines = ["one synthesis per arm: neither a spread nor a best; --seeds 5 gives both"]
    for arm, other in comparison.same.items():
        lines.append(f"{arm} equals {other} here, so it was run once")
    if pairs:
        interval = " before rounding, ± half of the 95 % interval of the paired t test"
        interval = interval if max(pairs.values()) > 1 else ""
        lines.append(f"{next(iter(pairs)) if len(pairs) == 1 else '…'} − control: paired by seed{interval}")
    if few := {arm: count for arm, count in pairs.items() if count < FEW}:
        alike = len(set(pairs.values())) == 1
        numbers = f"n = {min(few.values())}" if alike else ", ".join(f"{arm} n = {count}" for arm, count in few.items())
        lines.append(f"{numbers}: below {FEW} pairs a difference says little, since its spread can't be told; take more --seeds")
    lines += step_notes(comparison)
    for arm in comparison.uncontrolled:
        lines.append(f"{arm}: differs from control in more than its term, so no difference is formed")
    if _is_known(comparison, STUDENTS[0]):
        lines.append("± students: standard deviation over the students of one synthesis, mean over syntheses")
    lines += real_image_notes({arm: runs[0].metrics for arm, runs in comparison.runs.items()}, seeds=n)
    several = len(_real_references(comparison, "T")) > 1
    label = "real, as many as ARM: that arm's number of" if several else "real reference: as many"
    lines.append(f"{label} real held-out images, mean over draws")
    if any(run.metrics.get("judged") == "validation" for runs in comparison.runs.values() for run in runs):
        lines.append(JUDGED_ON_VALIDATION)
    lines += dict.fromkeys(note for runs in comparison.runs.values() for run in runs for note in run.notes)  # each once
    return lines


def describe_bold(comparison: Comparison) -> str:
    """Return the line on what is bold, for where something is; empty where there is one arm or one synthesis."""
    if len(comparison.runs) == 1 or len(comparison.seeds) == 1:
        return ""
    return (
        f"bold: the best mean of a column, {FULL} aside; no test of significance. Vendi and similarity have no best: "
        "noise is the most diverse"
    )


def _powers(comparison: Comparison, arms: Sequence[str]) -> dict[str, Power | None]:
    """Return arm → what its pairs with control can tell in accuracy, of those arms that were run."""
    read = partial(read_column, comparison, measure=ACCURACY[0])
    known = [arm for arm in arms if {arm, "control"} <= comparison.runs.keys()]
    return {arm: power_of(read(arm), read("control")) for arm in known}


def power_notes(comparison: Comparison, arms: Sequence[str] | None = None) -> list[str]:
    """Return a line for each arm on the difference in accuracy that its pairs tell from zero; of few they tell none.

    Args:
        arms: those whose seeds are control's; None: all with a term.
    """
    lines = []
    for arm, found in _powers(comparison, comparison.controlled if arms is None else arms).items():
        if found is None or not found.std or found.n < FEW:
            continue
        most = f"more than {MOST:,}" if found.half_point is None else f"{found.half_point:,}"
        lines.append(
            f"{arm} − control: differences in accuracy vary by {found.std:.2f}, so {found.n} seeds find a true difference "
            f"of {found.smallest:.1f} points {100 * POWER:.0f} times in 100, and half a point takes {most} seeds "
            f"(paired t test, two-sided at {LEVEL:g})"
        )
    return lines


def make_table(
    title: str,
    comparison: Comparison,
    measures: Sequence[Measure],
    *,
    space: str | None = None,
    pair: Callable[[str, str | None], Comparison] | None = None,
) -> Table:
    """Return a table of arms and of their differences from control; the arguments are those of `make_rows`."""
    table = Table("arm", title=title)
    table.add_numbers(*(measure.title for measure in measures))
    rows, best = make_rows(comparison, measures, space=space, pair=pair), best_cells(comparison, measures)
    for kind, label, cells in rows:
        if kind != DIFFERENCE:
            table.add_row(label, *cells, style="dim" if kind == REFERENCE else "", best=best.get(kind, ()))
    table.add_section()  # differences are no rows of an arm
    for kind, label, cells in rows:
        if kind == DIFFERENCE:
            table.add_row(label, *cells)
    return table


def best_cells(comparison: Comparison, measures: Sequence[Measure]) -> dict[str, frozenset[int]]:
    """Return arm → the columns in which its mean is the best; `full` is the ceiling, which no set is to reach.

    A single synthesis says too little for a best.
    """
    summaries = {arm: [summarise(read_column(comparison, arm, one)) for one in measures] for arm in comparison.runs}
    means = {
        arm: [None if one is None or one.n == 1 else one.mean for one in of_arm] for arm, of_arm in summaries.items()
    }
    return find_best(means, measures, leaving_out=(FULL,))


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
        references = _real_references(comparison, space)
        for arm, real in references:
            label = "real reference" if len(references) == 1 else f"real, as many as {arm}"
            rows.append((REFERENCE, label, tuple(diversity_cells(space, real))))
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


def _real_references(comparison: Comparison, space: str) -> list[tuple[str, Any]]:
    """Return each real reference of one embedding with the first arm whose set is as large."""
    # draws have a seed of their own, and arms one dataset, IPC and network; but INFER saves more images than IPC
    found: list[tuple[str, Any]] = []
    for arm, runs in comparison.runs.items():
        real = runs[0].metrics["diversity"][space]["real"]
        if real not in (known for _, known in found):
            found.append((arm, real))
    return found


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
    """Return a paired difference, with a minus sign, ± half of its interval; nothing where there is none."""
    if gap is None:
        return ""
    digits = measure.digits
    interval = "" if gap.half_width is None else f" ± {gap.half_width:.{digits}f}"
    return with_minus(f"{gap.rounded(digits):+.{digits}f}{interval}")


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison for compare.json: every value of every run, and the statistics."""
    named = {measure.key: measure for measure in run_measures()}
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
        "power": {
            arm: None if found is None else vars(found)
            for arm, found in _powers(comparison, comparison.controlled).items()
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
        "uncontrolled": list(comparison.uncontrolled),
        "notes": notes(comparison, len(comparison.seeds), pairs=_pairs(comparison)),
    }


def store_comparison(comparison: Comparison, root: Path) -> Path:
    """Write compare.json and the figure of images; return their folder.

    Args:
        root: the folder of run directories.
    """
    folder = comparison_folder(comparison, root)
    write_json(folder / COMPARISON, to_json(comparison))
    draw(comparison, folder / "images.png")
    return folder


def comparison_folder(comparison: Comparison, root: Path) -> Path:
    """Return where a comparison is stored."""
    # the same runs are the same comparison, whatever the command line
    runs = [run.folder.path.name for of_arm in comparison.runs.values() for run in of_arm]
    return root / comparison.method / comparison.recipe / f"compare-{digest(runs)[:8]}"


def load_comparison(name: str, root: Path) -> tuple[Path, Comparison]:
    """Return the folder of a stored comparison, and the comparison with its runs as they are now.

    Args:
        name: the path of its folder or file, or the folder's name.
        root: the folder of run directories.

    Raises:
        DirePlugError: there is no such comparison, or one of its runs is missing or damaged.
    """
    path = find_stored(name, root, pattern="*/*", file=COMPARISON, what="comparisons")
    with reading(path, "comparison", command="compare"):
        return path.parent, from_json(read_json(path), path.parents[1])


def from_json(content: Mapping[str, Any], folder: Path) -> Comparison:
    """Return the comparison of which `to_json` made the content, with its runs as they are now.

    Args:
        folder: holds the runs.
    """
    arms = content["arms"]
    return Comparison(
        method=content["method"],
        recipe=content["recipe"],
        ipc=content["ipc"],
        seeds=tuple(content["seeds"]),
        engine=content["engine"],
        runs={arm: [read_finished(folder / run) for run in of_arm["runs"]] for arm, of_arm in arms.items()},
        same={arm: of_arm["same_as"] for arm, of_arm in arms.items() if of_arm["same_as"]},
        controlled=tuple(content["minus_control"]),
        uncontrolled=tuple(content["uncontrolled"]),
        changes=tuple(content["changes"]),
        steps=tuple(_read_step(step) for step in content["ladder"]),
    )


def find_stored(name: str, root: Path, *, pattern: str, file: str, what: str) -> Path:
    """Return the one stored file that a path or a part of its folder's name stands for.

    Args:
        name: the path of the file or its folder, or the folder's name.
        root: the folder of run directories.
        pattern: of the folders in `root` that hold such folders.
        what: what such files are, as the error says.

    Raises:
        DirePlugError: there is none, or there are several.
    """
    given = [path for path in (Path(name), Path(name) / file) if path.is_file() and path.name == file]
    found = given or sorted(root.glob(f"{pattern}/*{Path(name).name}*/{file}"))
    if len(found) != 1:
        which = f": {', '.join(path.parent.name for path in found[:5])}" if found else ""
        raise DirePlugError(f"{name}: names {len(found)} {what} below {root}{which}")
    return found[0].absolute()


@contextlib.contextmanager
def reading(path: Path, what: str, *, command: str) -> Iterator[None]:
    """Turn what a file with another content raises into an error that names the file and the command that writes it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DirePlugError(f"{path}: holds no {what}; run `dire-plug {command}` again") from error


def read_finished(folder: Path) -> FinishedRun:
    """Return a finished run by its folder."""
    run = RunFolder(folder)
    return FinishedRun(run, run.metrics(), reused=True)


def _read_step(step: dict[str, Any]) -> Step:
    keys = {key: (old, new) for key, (old, new) in step["keys"].items()}
    return Step(step["arm"], step["before"], step["change"], keys)


def _summary_json(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else vars(summary)


CLASSES, IMAGES = 10, 10
"""The most classes, and images of each, that are drawn."""
INCHES = 3.2
"""Width of one arm's panel."""


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the first seed's images of every arm that was run into a file (see `save_figure`).

    Nothing is drawn where a set is too large for one tensor file; the arm `full` has no images of its own.
    """
    if (figure := images_figure(image_folders(comparison))) is not None:
        save_figure(figure, path, dpi=120)


def image_folders(comparison: Comparison) -> dict[str, Path]:
    """Return arm → the folder of its first run, of those arms that were run and have images."""
    arms = [arm for arm in comparison.runs if arm not in comparison.same and arm != FULL]
    return {arm: comparison.runs[arm][0].folder.path for arm in arms}


def images_figure(folders: Mapping[str, Path]) -> Figure | None:
    """Return images of runs side by side, a row a class; None where a set is too large for one tensor file.

    Args:
        folders: title → folder of a run.
    """
    if not folders or not all((folder / TENSORS).is_file() for folder in folders.values()):
        return None
    figure, panels = new_figure(INCHES * len(folders), INCHES + 0.4, panels=len(folders))
    for axes, (title, folder) in zip(panels, folders.items(), strict=True):
        axes.imshow(_grid(folder).permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    return figure


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
