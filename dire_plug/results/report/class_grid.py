"""Draw Figure 3: the condensed images of one class, a row for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dire_plug.errors import DirePlugError
from dire_plug.results.comparison import Comparison
from dire_plug.results.figures import INK, new_figure
from dire_plug.results.report.drawing import GivenRun, PageFigure, read_given, save, to_image
from dire_plug.results.report.images import (
    MISSING,
    count_classes,
    find_class,
    has_images,
    read_condensed,
    shown_classes,
)
from dire_plug.results.report.runs import ReportRun, read_run

IMAGES = 10
"""Images in a row, at most."""
SHEET_CLASSES = 10
"""Rows of a sheet of several classes, at most."""
SHEET_SIZE = 64
"""Larger images make no sheet: the page would be too large."""
WIDTH = 560
"""Of a row or a sheet, in CSS pixels."""


def draw_class_grid(runs: Sequence[GivenRun], path: Path, *, label: int = 0) -> dict[str, Any]:
    """Draw Figure 3 as a PNG file, and write its content beside it as JSON; return that.

    Args:
        label: the class.

    Raises:
        DirePlugError: a run isn't finished, its images are damaged, or there is no such class.
    """
    named = read_given(runs)
    if not named:
        raise DirePlugError(MISSING)
    first = next(iter(named.values()))
    if not 0 <= label < count_classes(first):
        raise DirePlugError(f"class {label}: {first.dataset} has the classes 0 to {count_classes(first) - 1}")
    rows = {name: _row(run, label) for name, run in named.items()}
    figure, panels = new_figure(7.2, 0.95 * len(rows), rows=len(rows))
    for axes, (name, images) in zip(panels, rows.items(), strict=True):
        # matplotlib would smooth the pixels
        axes.imshow(join([images]), interpolation="nearest")
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.set_axis_off()
    numbers = {"figure": "images of one class", "class": first.class_name(label), "label": label}
    shown = {name: {"run": named[name].name, "images": len(images)} for name, images in rows.items()}
    return save(figure, path, {**numbers, "runs": shown})


def draw_class(comparison: Comparison, path: Path, *, class_name: str | None = None) -> None:
    """Draw one class of the first seed of every arm of a comparison as a PNG file; nothing where none has images.

    Args:
        class_name: name or number; None for the first one.

    Raises:
        DirePlugError: there is no such class, or images are damaged.
    """
    found = [read_run(runs[0]) for arm, runs in comparison.runs.items() if arm not in comparison.same]
    if shown := [run for run in found if has_images(run)]:
        draw_class_grid(shown, path, label=0 if class_name is None else find_class(shown[0], class_name))


def class_figure(runs: Mapping[str, ReportRun], label: int) -> PageFigure:
    """Return the images of one class for a page, a panel a run."""
    first = next(iter(runs.values()))
    title = f"Images of class “{first.class_name(label)}”"
    panels = {}
    try:
        for name, run in runs.items():
            images = _row(run, label)
            alt = f"{len(images)} images of class {run.class_name(label)} in the arm {name}{_similarity(run)}"
            panels[name] = to_image(join([images]), alt=alt, width=WIDTH)
    except DirePlugError as error:
        return PageFigure(title, f"This figure is missing: {error}.")
    return PageFigure(title, "The images that students learned from, first synthesis.", panels)


def sheet_figure(runs: Mapping[str, ReportRun]) -> PageFigure | None:
    """Return several classes for a page, a row a class and a panel a run; None where images are large."""
    title = "Images of every class"
    first = next(iter(runs.values()))
    labels = shown_classes(first)[:SHEET_CLASSES]
    panels = {}
    try:
        for name, run in runs.items():
            rows = [to_bytes(images[:IMAGES]) for images in read_condensed(run, labels)]
            # known only now: images are read class by class
            if rows[0].shape[2] > SHEET_SIZE:
                return None
            alt = f"{len(rows)} classes, a row each with {len(rows[0])} images, of the arm {name}"
            panels[name] = to_image(join(rows), alt=alt, width=WIDTH)
    except DirePlugError as error:
        return PageFigure(title, f"This figure is missing: {error}.")
    names = ", ".join(first.class_name(label) for label in labels)
    return PageFigure(title, f"A row a class: {names}.", panels)


def join(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join rows of images, each [n, h, w, 3] in uint8, with clear gaps: [H, W, 4], the last channel is opacity."""
    height, width = rows[0].shape[1:3]
    gap = max(1, height // 16)
    most = max(len(row) for row in rows)
    sheet = np.zeros((len(rows) * (height + gap) - gap, most * (width + gap) - gap, 4), dtype=np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            sheet[top : top + height, left : left + width, :3] = image
            sheet[top : top + height, left : left + width, 3] = 255
    return sheet


def to_bytes(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert images to uint8; those in [0, 1] are rounded."""
    return images if images.dtype == np.uint8 else np.rint(images.clip(0, 1) * 255).astype(np.uint8)


def _row(run: ReportRun, label: int) -> NDArray[np.uint8]:
    return to_bytes(next(read_condensed(run, [label]))[:IMAGES])


def _similarity(run: ReportRun) -> str:
    found = run.metrics["diversity"]["T"].get("similarity")
    return "" if found is None else f"; mean similarity within a class, over all classes, {found:.3f}"
