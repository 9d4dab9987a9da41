"""Store a comparison as compare.json with the pictures of its images, and load it again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, read_json, write_json
from dire_plug.image_files import TENSORS
from dire_plug.measures import run_measures
from dire_plug.recipe.check import FULL
from dire_plug.results.comparison import Comparison
from dire_plug.results.figures import new_figure, save_figure
from dire_plug.results.ladder import Step, save_steps
from dire_plug.results.statistics import Summary, summarise
from dire_plug.results.table import difference, notes, pairs_of, powers_of, read_column, step_difference
from dire_plug.stages.images import read_tensors
from dire_plug.store.runs import COMPARISON, FinishedRun, RunFolder


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
            for arm, found in powers_of(comparison, comparison.controlled).items()
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
        "notes": notes(comparison, len(comparison.seeds), pairs=pairs_of(comparison)),
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
