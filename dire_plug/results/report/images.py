"""Read the condensed images of runs as students see them, and embed them in T.

Images are read one class at a time: a set may not fit in memory. Real embeddings come from the store; nothing is
trained or fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.recipe.check import FULL
from dire_plug.results.report.runs import ADVICE, PlanFile, ReportRun, read_file
from dire_plug.stages.embed import FILE, embedder
from dire_plug.stages.images import read_image, read_saved, read_tensors
from dire_plug.stages.squeeze import FILE as NETWORK

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


def read_pixels(run: ReportRun) -> tuple[Tensor, Tensor]:
    """Return all images that a run's students learned from, [n, 3, h, w] in uint8, and their labels, [n] in int64.

    Class by class. Tensors, which a recipe may prefer to the saved files, are rounded.

    Raises:
        DirePlugError: the run has no images, or one is missing or damaged.
    """
    if not has_images(run):
        raise DirePlugError(f"{run.name}: this run has no images of its own; name one of another arm than {run.arm}")
    if run.recipe["evaluate"]["source"] == "tensor":
        images, labels = read_tensors(run.folder.path)
        order = torch.argsort(labels, stable=True)
        return (images[order] * 255).round().to(torch.uint8), labels[order].long()
    suffix = run.adapter.scripts[run.recipe["recover"]["script"]].suffix
    folder, count = run.folder.path / "images", count_classes(run)
    return read_saved(folder, run.adapter, classes=count, ipc=_saved_per_class(run), suffix=suffix)


def _saved_per_class(run: ReportRun) -> int:
    """Return how many images of a class lie in images/: IPC of real ones, else what the plan says."""
    if run.engine == "none":
        return run.ipc
    return int(read_file(run.folder.path / "plan.json", PlanFile)["ipc"])


MISSING = "none of the runs has images of its own"
_ADVICE = "run its command again, or make the report on the machine of the run"


Embedded = tuple[Tensor, Tensor]
"""Embeddings of images in one network, [n, D] in float32, and their labels, [n] in int64, ascending."""


def embed_runs(runs: Mapping[str, ReportRun], *, device: str = "cpu") -> tuple[dict[str, Embedded], Embedded]:
    """Embed the images of runs, by label, and the real training images in the teacher of the first run.

    Raises:
        DirePlugError: the teacher, or the real images in it, aren't in the store, an image is damaged, or there is no
            run.
    """
    if not runs:
        raise DirePlugError(MISSING)
    first = next(iter(runs.values()))
    teacher, real = find_teacher(first), find_real(first)
    return {name: embed_condensed(run, teacher, device=device) for name, run in runs.items()}, real


def find_teacher(run: ReportRun) -> Path:
    """Return the file of a run's teacher T in the store.

    Raises:
        DirePlugError: it isn't there, as when the run was made elsewhere.
    """
    file = find_entry(run, "teacher") / NETWORK
    if file.is_file():
        return file
    raise DirePlugError(f"the teacher of {run.name} isn't in this store ({file}); {_ADVICE}")


def find_real(run: ReportRun) -> Embedded:
    """Return the embeddings of the real training images in the teacher of a run, from the store.

    Raises:
        DirePlugError: they aren't there, or are damaged.
    """
    file = find_entry(run, "real in T") / FILE
    if not file.is_file():
        raise DirePlugError(
            f"the embeddings of the real images in the teacher of {run.name} aren't in this store ({file}); {_ADVICE}"
        )
    try:
        found = load_file(file)
        return found["values"], found["labels"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DirePlugError(f"{file}: cannot be read ({error}); {_ADVICE}") from error


def find_entry(run: ReportRun, role: str) -> Path:
    """Return the store's folder of the artefact with this role in a run; the folder may have been removed.

    Raises:
        DirePlugError: the run's artefacts.json names none, or several.
    """
    names = [name for name, what in run.folder.artefacts().items() if what == role]
    if len(names) != 1:
        raise DirePlugError(f"{run.folder.path}: its artefacts.json doesn't name one {role}; run its command again")
    return home.store() / names[0]


def embed_condensed(run: ReportRun, teacher: Path, *, device: str = "cpu") -> Embedded:
    """Embed the condensed images of a run, at most so many as `shown_classes` allows, in a network.

    Raises:
        DirePlugError: an image or the network can't be read.
    """
    embed = embedder(teacher, torch.device(device))
    values, labels, classes = [], [], shown_classes(run)
    with ui.progress(f"report: {run.name} in the teacher, classes", len(classes)) as advance:
        for done, (label, images) in enumerate(zip(classes, read_condensed(run, classes), strict=True), start=1):
            values.append(embed(images.to(device)).cpu())  # the device holds one class at a time
            labels += [label] * len(images)
            advance(done)
    return torch.cat(values), torch.tensor(labels)
