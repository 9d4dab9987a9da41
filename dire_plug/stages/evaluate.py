"""Evaluate: students trained on the condensed images under the recipe's protocol, and tested on real ones."""

from __future__ import annotations

import hashlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, digest_file, read_json, write_json
from dire_plug.seeding import derive
from dire_plug.stages.job import Job
from dire_plug.stages.squeeze import Teachers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dire_plug.models.checkpoint import Network
    from dire_plug.protocols.students import StudentData

FORMAT = 1
"""Raised when the same images and settings give another accuracy."""
SEVERAL = ("static-labels", "dynamic-labels", "ensemble-labels", "fkd-ensemble")
"""The protocols that ask all networks in the loop; the others ask the first alone, or none."""
STORED = ("fkd", "fkd-ensemble")
"""The protocols whose labels are stored before the first student, and removed after the last."""


def evaluate(job: Job, networks: Teachers, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Train the recipe's students on `images` and return their test accuracies in percent.

    Each finished student is written at once to evaluate/<architecture>-<k>.json; one that is there and was made from
    the same images, networks and settings isn't trained again. Student k's seed comes from (the run's seed, k).

    Args:
        networks: those of the loop label, the first alone or all as the protocol says.
        images: [n, 3, h, w], uint8, or float in [0, 1].
        labels: [n].

    Returns:
        {"protocol", "teacher_mode" where the protocol has one, "source", "students": {architecture: {"last": [per
        student], "best": [per student], "mean": of last, "std": of last, None for a single student}}}; `best` is
        chosen on the test set.

    Raises:
        DirePlugError: the images are in another range, a training diverged, or see `lessons` and `relabel`.
    """
    section = job.recipe.evaluate
    _check_range(images)
    from dire_plug.stages.lessons import prepare_lesson, with_rate

    loaded = _load(networks, job.device, several=section.protocol in SEVERAL)
    lesson = prepare_lesson(job, loaded[0], images, labels)
    course = _Course(loaded, lesson, with_rate(job))
    made_from = _identity(job, networks, course)
    students: dict[str, Any] = {}
    for architecture in section.students:
        results = [
            _finish_student(job, _Student(architecture, k), course=course, made_from=made_from)
            for k in range(section.per_synthesis)
        ]
        students[architecture] = summarise_students(results)
    if section.protocol in STORED:
        from dire_plug.stages.relabel import remove_labels

        remove_labels(job.folder)
    mode = section.model_dump(include={"teacher_mode"})
    return {"protocol": section.protocol, **mode, "source": section.source, "students": students}


@dataclass(frozen=True)
class _Student:
    architecture: str
    k: int


@dataclass(frozen=True)
class _Course:
    """What all students of a run share: the networks that label, what is learned from, the recipe's section."""

    networks: list[Network]
    lesson: StudentData
    section: Any


def _finish_student(job: Job, student: _Student, *, course: _Course, made_from: str) -> dict[str, Any]:
    """Return the result of one student: read where it is finished, else trained and written."""
    name = f"{student.architecture}-{student.k}"
    path = job.folder / "evaluate" / f"{name}.json"
    if path.is_file():
        found: dict[str, Any] = read_json(path)
        if found.get("made_from") == made_from:
            return found
    work = path.with_name(f"{name}.partial") / made_from[:16]
    result = _train(job, student, course=_with_labels(job, course, made_from), folder=work) | {"made_from": made_from}
    write_json(path, result)
    shutil.rmtree(work.parent, ignore_errors=True)
    return result


def _with_labels(job: Job, course: _Course, made_from: str) -> _Course:
    """Return the course with the stored labels, made where they aren't there, if the protocol stores them."""
    if job.recipe.evaluate.protocol not in STORED:
        return course
    from dire_plug.stages.relabel import relabel

    stored = relabel(job, course.networks, data=course.lesson, section=course.section, made_from=made_from)
    return replace(course, lesson=replace(course.lesson, stored=stored))


def _train(job: Job, student: _Student, *, course: _Course, folder: Path) -> dict[str, Any]:
    from dire_plug.models import build, stem_like
    from dire_plug.protocols.published import train_student
    from dire_plug.protocols.training import initialised

    section, network = job.recipe.evaluate, course.networks[0]
    seed = derive(job.seed, "student", student.k)
    stem = stem_like(student.architecture, network.stem)
    model = initialised(
        lambda: build(student.architecture, outputs=network.outputs, stem=stem, size=job.dataset.size), seed
    )
    label = f"student {student.architecture} {student.k + 1}/{section.per_synthesis} ({job.arm})"
    with ui.progress(label, section.epochs) as advance:
        result = train_student(
            model.to(job.device),
            [teacher.model for teacher in course.networks],
            data=course.lesson,
            section=course.section,
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


def _load(networks: Teachers, device: torch.device, *, several: bool) -> list[Network]:
    """Return the network that labels and normalises, and the others in the loop where the protocol asks several."""
    from dire_plug.models.checkpoint import load

    files = list(networks.in_loop.values())
    loaded = [load(file, device) for file in (files if several else files[:1])]
    for file, network in zip(files, loaded, strict=False):
        if (network.mean, network.std) != (loaded[0].mean, loaded[0].std):
            raise DirePlugError(f"{file}: takes images normalised otherwise than {files[0]}; train it in this recipe")
    return loaded


def _identity(job: Job, networks: Teachers, course: _Course) -> str:
    """Return a digest of what decides a student's accuracy, except its architecture and number."""
    section, images = job.recipe.evaluate, course.lesson.images
    unused = {"students", "per_synthesis", "source", *(("judge",) if section.judge == "test" else ())}
    unused |= {"randaugment"} if getattr(section, "randaugment", None) is None else set()  # older than it
    settings = section.model_dump(mode="json", exclude=unused)
    content = {
        "format": FORMAT,
        "settings": settings,
        "seed": job.seed,
        "teacher": digest_file(networks.teacher),
        "dataset": job.dataset.digest,
        "images": [list(images.shape), str(images.dtype), _digest(images)],
    }
    if section.protocol in SEVERAL:
        content["others"] = [digest_file(file) for file in networks.others.values()]
    if section.protocol == "hard-labels":
        content |= {"lr": course.section.lr, "test": _digest(course.lesson.test_images)}
    return digest(content)


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().cpu().numpy().data).hexdigest()


def _check_range(images: Tensor) -> None:
    if images.is_floating_point() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise DirePlugError(
            f"images: values from {float(images.min()):.3g} to {float(images.max()):.3g}, expected uint8 or float in "
            "[0, 1]; denormalise them first"
        )


def summarise_students(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return {"last": [...], "best": [...], "mean" and "std" of last} of students with a `last` and a `best` each."""
    last = [float(result["last"]) for result in results]
    return {
        "last": last,
        "best": [float(result["best"]) for result in results],
        "mean": statistics.fmean(last),
        "std": statistics.stdev(last) if len(last) > 1 else None,
    }
