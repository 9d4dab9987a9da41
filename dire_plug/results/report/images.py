"""Read the condensed images of runs as students see them, and find in the store what embeds them in T.

Images are read one class at a time: a set may not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dire_plug import home
from dire_plug.errors import DirePlugError
from dire_plug.image_files import read_arrays, read_image
from dire_plug.recipe.check import FULL
from dire_plug.results.report.runs import ADVICE, PlanFile, ReportRun, read_file
from dire_plug.store.artefacts import ENTRY

CLASSES, IMAGES = 100, 50
"""The most classes, evenly spaced, and images of each that figures show."""


def has_images(run: ReportRun) -> bool:
    """Return whether a run has images of its own: the arm `full` has none."""
    return run.arm != FULL and (run.folder.path / "images").is_dir()


def count_classes(run: ReportRun) -> int:
    """Return the number of classes of a run's dataset."""
    return len(run.provenance["classes"])


def shown_classes(run: ReportRun) -> list[int]:
    """Return the labels that figures show: all, or `CLASSES` of them evenly spaced."""
    count = count_classes(run)
    return list(range(count)) if count <= CLASSES else [number * count // CLASSES for number in range(CLASSES)]


def find_class(run: ReportRun, name: str) -> int:
    """Return the label of a class by its name or number.

    Raises:
        DirePlugError: there is no such class.
    """
    return find_label(name, run.provenance["classes"], dataset=run.dataset)


def find_label(name: str, classes: Sequence[str], *, dataset: str) -> int:
    """Return the label of a class by its name or number, given the names of all; `dataset` names theirs in errors.

    Raises:
        DirePlugError: there is no such class.
    """
    if name in classes:  # before numbers: a class may be called by one
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    known = ", ".join(classes[:12])
    raise DirePlugError(
        f"--class {name}: {dataset} has no such class; give a number from 0 to {len(classes) - 1}, or a "
        f"name: {known}{' …' if len(classes) > 12 else ''}"
    )


def read_condensed(run: ReportRun, labels: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Yield the first images of each class, at most `IMAGES`: uint8, or float in [0, 1], [n, h, w, 3].

    They are those that students learned from: the files, or the tensors where `evaluate.source` says so.

    Raises:
        DirePlugError: an image is missing or damaged.
    """
    if run.recipe["evaluate"]["source"] == "tensor":
        images, of = read_arrays(run.folder.path)
        yield from (images[of == label][:IMAGES].transpose(0, 2, 3, 1) for label in labels)
        return
    folder, adapter = run.folder.path / "images", run.adapter
    if (script := run.recipe["recover"]["script"]) not in adapter.scripts:
        raise DirePlugError(f"{run.folder.path / 'recipe.yaml'}: {run.method} has no script '{script}'; {ADVICE}")
    suffix = adapter.scripts[script].suffix
    # the plan decides how many are saved
    numbers = range(min(saved_per_class(run), IMAGES))
    for label in labels:
        yield np.stack([read_image(folder, adapter, label, number, suffix) for number in numbers])


def saved_per_class(run: ReportRun) -> int:
    """Return how many images of a class lie in images/: IPC of real ones, else what the plan says."""
    if run.engine == "none":
        return run.ipc
    return int(read_file(run.folder.path / "plan.json", PlanFile)["ipc"])


SIMILARITY, PLANE = "Similarity within each class", "Real and condensed images by t-SNE"
"""Titles of the figures that need the teacher."""
MISSING = "none of the runs has images of its own"
"""Why there is nothing to draw."""
REMADE = "run its command again, or make the report on the machine of the run"


def find_embedded(run: ReportRun) -> tuple[Path, Path]:
    """Return the store's entries of a run's teacher T, and of the embeddings of the real training images in it.

    Raises:
        DirePlugError: one isn't there, as when the run was made elsewhere.
    """
    teacher, real = find_entry(run, "teacher"), find_entry(run, "real in T")
    for entry, what in ((teacher, "the teacher"), (real, "what embeds the real images in the teacher")):
        if not (entry / ENTRY).is_file():
            raise DirePlugError(f"{what} of {run.name} isn't in this store ({entry}); {REMADE}")
    return teacher, real


def find_entry(run: ReportRun, role: str) -> Path:
    """Return the store's folder of the artefact with this role in a run; the folder may have been removed.

    Raises:
        DirePlugError: the run's artefacts.json names none, or several.
    """
    names = [name for name, what in run.folder.artefacts().items() if what == role]
    if len(names) != 1:
        raise DirePlugError(f"{run.folder.path}: its artefacts.json doesn't name one {role}; run its command again")
    return home.store() / names[0]
