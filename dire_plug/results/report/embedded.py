"""Embed condensed images in T and read the real ones from the store; nothing is trained or fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.results.report.images import read_condensed, shown_classes
from dire_plug.results.report.runs import ReportRun
from dire_plug.stages.embed import FILE, embedder
from dire_plug.stages.squeeze import FILE as NETWORK

MISSING = "none of the runs has images of its own"
_ADVICE = "run its command again, or make the report on the machine of the run"


@dataclass(frozen=True)
class Embedded:
    """Images in one network.

    Attributes:
        values: [n, D], float32.
        labels: [n], int64, ascending.
    """

    values: Tensor
    labels: Tensor


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
        DirePlugError: they aren't there.
    """
    file = find_entry(run, "real in T") / FILE
    if not file.is_file():
        raise DirePlugError(
            f"the embeddings of the real images in the teacher of {run.name} aren't in this store ({file}); {_ADVICE}"
        )
    found = load_file(file)
    return Embedded(found["values"], found["labels"])


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
            values.append(embed(images.to(device)).cpu())
            labels += [label] * len(images)
            advance(done)
    return Embedded(torch.cat(values), torch.tensor(labels))
