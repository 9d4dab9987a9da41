"""Evaluate: students trained on the condensed images under the recipe's protocol, and tested on real ones."""

from __future__ import annotations

import hashlib
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, digest_file, read_json, write_json
from dire_plug.protocols import protocol
from dire_plug.recipe.model import EvaluateSection
from dire_plug.seeding import derive
from dire_plug.stages.job import Job

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.models.checkpoint import Network
    from dire_plug.protocols.on_the_fly import OnTheFly, StudentData

FORMAT = 1
"""Raised when the same images and settings give another accuracy."""


def evaluate(job: Job, teacher: Path, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Train the recipe's students on `images` and return their test accuracies in percent.

    Each finished student is written at once to evaluate/<architecture>-<k>.json; one that is there and was made from
    the same images, teacher and settings isn't trained again. Student k's seed comes from (the run's seed, k).

    Args:
        images: [n, 3, h, w], uint8, or float in [0, 1].
        labels: [n].

    Returns:
        {"protocol", "teacher_mode", "source", "students": {architecture: {"last": [per student], "best": [per
        student], "mean": of last, "std": of last, None for a single student}}}; `best` is chosen on the test set.

    Raises:
        NotLandedError: the recipe's protocol isn't built yet.
        DirePlugError: the images are in another range, or a training diverged.
    """
    section = job.recipe.evaluate
    protocol(section.protocol)
    _check_range(images)
    from dire_plug.models.checkpoint import load

    network = load(teacher, job.device)
    data = _student_data(job, network, images, labels)
    made_from = _identity(job, teacher, images)
    students: dict[str, Any] = {}
    for architecture in section.students:
        results = [
            _finish_student(job, _Student(architecture, k), network=network, data=data, made_from=made_from)
            for k in range(section.per_synthesis)
        ]
        students[architecture] = _summarise(results)
    return {
        "protocol": section.protocol,
        "teacher_mode": section.teacher_mode,
        "source": section.source,
        "students": students,
    }


@dataclass(frozen=True)
class _Student:
    architecture: str
    k: int


def _finish_student(
    job: Job, student: _Student, *, network: Network, data: StudentData, made_from: str
) -> dict[str, Any]:
    """Return the result of one student: read where it is finished, else trained and written."""
    name = f"{student.architecture}-{student.k}"
    path = job.folder / "evaluate" / f"{name}.json"
    if path.is_file():
        found: dict[str, Any] = read_json(path)
        if found.get("made_from") == made_from:
            return found
    work = path.with_name(f"{name}.partial") / made_from[:16]
    result = _train(job, student, network=network, data=data, folder=work) | {"made_from": made_from}
    write_json(path, result)
    shutil.rmtree(work.parent, ignore_errors=True)
    return result


def _train(job: Job, student: _Student, *, network: Network, data: StudentData, folder: Path) -> dict[str, Any]:
    from dire_plug.models import build
    from dire_plug.models.architectures import stems
    from dire_plug.protocols.training import initialised

    section = job.recipe.evaluate
    seed = derive(job.seed, "student", student.k)
    stem = network.stem if network.stem in stems(student.architecture) else "small"
    model = initialised(
        lambda: build(student.architecture, outputs=network.outputs, stem=stem, size=job.dataset.size), seed
    )
    label = f"student {student.architecture} {student.k + 1}/{section.per_synthesis} ({job.arm})"
    with ui.progress(label, section.epochs) as advance:
        result = protocol(section.protocol)(
            model.to(job.device),
            network.model,
            data,
            _settings(section),
            seed=seed,
            folder=folder,
            progress=advance,
        )
    return {
        "architecture": student.architecture,
        "k": student.k,
        "seed": seed,
        "last": result.last,
        "best": result.best,
        "best_epoch": result.best_epoch,
        "curve": [list(point) for point in result.curve],
    }


def _settings(section: EvaluateSection) -> OnTheFly:
    from dire_plug.protocols.on_the_fly import OnTheFly

    return OnTheFly(
        epochs=section.epochs,
        batch_size=section.batch_size,
        lr=section.lr,
        weight_decay=section.weight_decay,
        temperature=section.temperature,
        teacher_mode=section.teacher_mode,
        test_from=section.test_from,
        test_every=section.test_every,
    )


def _student_data(job: Job, network: Network, images: Tensor, labels: Tensor) -> StudentData:
    """Put together what students learn from; the whole normalised test set is held on the device."""
    import torch

    from dire_plug.protocols.on_the_fly import StudentData
    from dire_plug.stages.views import plain_batches, training_view

    section = job.recipe.evaluate
    view = training_view(network, augmentation=section.augmentation, padding=section.padding, mix=section.mixup)
    tests = [batch for batch, _ in plain_batches(job.dataset.test, network, device=job.device)]
    return StudentData(images, labels, view, torch.cat(tests), job.dataset.test.labels)


def _identity(job: Job, teacher: Path, images: Tensor) -> str:
    """Return a digest of what decides a student's accuracy, except its architecture and number."""
    pixels = images.contiguous().cpu().numpy().tobytes()
    settings = job.recipe.evaluate.model_dump(mode="json", exclude={"students", "per_synthesis", "source"})
    return digest(
        {
            "format": FORMAT,
            "settings": settings,
            "seed": job.seed,
            "teacher": digest_file(teacher),
            "dataset": job.dataset.digest,
            "images": [list(images.shape), str(images.dtype), hashlib.sha256(pixels).hexdigest()],
        }
    )


def _check_range(images: Tensor) -> None:
    if images.is_floating_point() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise DirePlugError(
            f"images: values from {float(images.min()):.3g} to {float(images.max()):.3g}, expected uint8 or float in "
            "[0, 1]; denormalise them first"
        )


def _summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    last = [float(result["last"]) for result in results]
    return {
        "last": last,
        "best": [float(result["best"]) for result in results],
        "mean": statistics.fmean(last),
        "std": statistics.stdev(last) if len(last) > 1 else None,
    }
