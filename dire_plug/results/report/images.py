"""Read the condensed images of a run as students see them, one class at a time: a set may not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dire_plug.data import class_count
from dire_plug.errors import DirePlugError
from dire_plug.results.report.runs import ADVICE, PlanFile, ReportRun, read_file
from dire_plug.stages.artefacts import FULL
from dire_plug.stages.images import read_image, read_tensors

CLASSES, IMAGES = 100, 50
"""The most classes, evenly spaced, and images of each that figures show."""


def has_images(run: ReportRun) -> bool:
    """Return whether a run has images of its own: the arm `full` has none."""
    return run.arm != FULL and (run.folder.path / "images").is_dir()


def count_classes(run: ReportRun) -> int:
    """Return the number of classes of a run's dataset."""
    return class_count(run.recipe["dataset"]["name"])


def shown_classes(run: ReportRun) -> list[int]:
    """Return the labels that figures show: all, or `CLASSES` of them evenly spaced."""
    count = count_classes(run)
    return list(range(count)) if count <= CLASSES else [number * count // CLASSES for number in range(CLASSES)]


def find_class(run: ReportRun, name: str) -> int:
    """Return the label of a class by its name or number.

    Raises:
        DirePlugError: there is no such class.
    """
    names: list[Any] = run.provenance.get("classes", [])
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < count_classes(run):
        return int(name)
    known = ", ".join(map(str, names[:12])) or "its number"
    raise DirePlugError(
        f"--class {name}: {run.dataset} has no such class; give a number from 0 to {count_classes(run) - 1}, or a "
        f"name: {known}{' …' if len(names) > 12 else ''}"
    )


def read_condensed(run: ReportRun, labels: Sequence[int]) -> Iterator[Tensor]:
    """Yield the first images of each class, at most `IMAGES`: uint8, or float in [0, 1], [n, 3, h, w].

    They are those that students learned from: the files, or the tensors where `evaluate.source` says so.

    Raises:
        DirePlugError: an image is missing or damaged.
    """
    if run.recipe["evaluate"]["source"] == "tensor":
        images, of = read_tensors(run.folder.path)
        yield from (images[of == label][:IMAGES] for label in labels)
        return
    folder, adapter = run.folder.path / "images", run.adapter
    if (script := run.recipe["recover"]["script"]) not in adapter.scripts:
        raise DirePlugError(f"{run.folder.path / 'recipe.yaml'}: {run.method} has no script '{script}'; {ADVICE}")
    suffix = adapter.scripts[script].suffix
    # the plan decides how many are saved
    numbers = range(min(_saved_per_class(run), IMAGES))
    for label in labels:
        yield torch.stack([read_image(folder, adapter, label=label, number=one, suffix=suffix) for one in numbers])


def _saved_per_class(run: ReportRun) -> int:
    """Return how many images of a class lie in images/: IPC of real ones, else what the plan says."""
    if run.engine == "none":
        return run.ipc
    return int(read_file(run.folder.path / "plan.json", PlanFile)["ipc"])
