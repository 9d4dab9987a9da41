"""Evaluate: train students on the condensed images under the recipe's protocol, and test them on real ones."""

import contextlib
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from dire_plug import ui
from dire_plug.acceleration import accelerate_network
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json
from dire_plug.models import build, stem_like
from dire_plug.models.checkpoint import Network, load
from dire_plug.recipe.evaluate import EvaluateSection, StoredSection
from dire_plug.seeding import derive
from dire_plug.stages.artefacts import Networks, name_labels, name_students
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import network_file
from dire_plug.stages.student_data import build_student_data, with_rate
from dire_plug.store.runs import Run
from dire_plug.store.scratch import scratch_folder, scratch_root
from dire_plug.training.loop import initialised
from dire_plug.training.protocols import train_student
from dire_plug.training.soft_labels import labels_bytes, relabel
from dire_plug.training.stored_batches import FOLDER
from dire_plug.training.students import StudentData, find_best, knows_best
from dire_plug.types.artefact import Artefact

STUDENT = "student.json"


def evaluate(
    run: Run, networks: Networks, images: ImageSet, *, section: EvaluateSection | None = None
) -> dict[str, Any]:
    """Return the test accuracies in percent of students of `images`, trained where the store lacks them.

    Each finished student is kept at once. Student k's seed comes from (the run's seed, k).

    Args:
        networks: those that label do, see `Networks.labelling`.
        section: the protocol and its students, where they aren't the recipe's.

    Returns:
        {"protocol", "teacher_mode" where the protocol has one, "source", "students": {architecture: {"last": [per
        student], "best": [per student], "mean": of last, "std": of last, None for a single student}}}; `best` is
        chosen on the test set, and None where not every epoch that could be the best was tested.

    Raises:
        DirePlugError: the images are in another range, a training diverged, or see `build_student_data` and `relabel`.
    """
    section = section or run.recipe.evaluate
    students = name_students(run, networks, images.source, section)
    found: dict[str, Any] = {}
    with _holding_labels(run, networks, images, section) as place:
        # lazily: where the store has every student, no network is loaded and no image decoded
        context = cache(partial(EvaluationContext, run, networks, images, section, place))
        for architecture, artefacts in students.items():
            entries = [
                run.store.ensure(artefact, lambda folder, name=architecture, k=k: context().train(name, k, folder))  # type: ignore[misc]
                for k, artefact in enumerate(artefacts)
            ]
            found[architecture] = summarise_students(
                [read_json(entry / STUDENT) for entry in entries], with_best=knows_best(section)
            )
    mode = section.model_dump(include={"teacher_mode"})
    return {"protocol": section.protocol, **mode, "source": section.source, "students": found}


def train_one(
    run: Run,
    networks: Networks,
    images: ImageSet,
    *,
    student: Artefact,
    section: EvaluateSection,
    architecture: str,
    k: int,
) -> None:
    """Train one student by itself, under a protocol that stores no labels for all of them.

    Raises:
        DirePlugError: see `evaluate`.
    """
    assert not stores_labels(section), "the students of this protocol share stored labels"
    run.store.ensure(
        student, lambda folder: EvaluationContext(run, networks, images, section).train(architecture, k, folder)
    )


def stores_labels(section: EvaluateSection) -> TypeGuard[StoredSection]:
    """Return whether a protocol stores labels that all students of a set share."""
    return isinstance(section, StoredSection)


Place = Callable[[int], Path]
"""From the bytes that the labels of a set take to the folder where they lie, or are made."""


@contextlib.contextmanager
def _holding_labels(run: Run, networks: Networks, images: ImageSet, section: EvaluateSection) -> Iterator[Place | None]:
    """Hold the lease of the stored labels of a set while its students learn, and remove them afterwards.

    They take 13 to 136 GB a run on ImageNet-1K, so they are kept in the store only if the user asks for that. Else they
    lie in the machine's scratch if it has room, and are gone however the block ends; or beside the store, where an
    error leaves them, so that the same command resumes.
    """
    if not stores_labels(section):
        yield None
        return
    labels = name_labels(run, networks, images.source, section)
    with run.store.holding(labels), contextlib.ExitStack() as scratch:

        def place(needed: int) -> Path:
            # kept labels of an earlier run, or the work folder, in which a killed process may have left some
            if (kept := run.store.find(labels)) is not None:
                return kept
            work = run.store.work(labels)
            if run.request.keep_labels or (work / FOLDER).is_dir():
                return work
            root = scratch_root(run.store.root)
            if root is None or shutil.disk_usage(root).free < needed:
                return work
            return scratch.enter_context(scratch_folder(root, "labels"))

        yield place
        work = run.store.work(labels)
        if run.request.keep_labels and (work / FOLDER).is_dir():
            # the time was spent in the work folder, perhaps by several processes; 0 is not a measurement
            run.store.publish(labels, work, seconds=0)
        else:
            run.store.drop_work(labels)


class EvaluationContext:
    """All that the students of a set share: the networks that label, the student data, the protocol's numbers."""

    def __init__(
        self, run: Run, networks: Networks, images: ImageSet, section: EvaluateSection, place: Place | None = None
    ) -> None:
        """Load the networks and build the student data; label it all in `place` where the protocol stores labels."""
        _check_range(images.images)
        self._run, self._section, self._name = run, section, images.name
        self._networks = _load(run, networks.labelling(section.protocol))
        # its rate is a number; `section`, with `learned` in it, is what names students and labels
        self._protocol = with_rate(section, images)
        self._data: StudentData = build_student_data(run, section, self._networks[0], images)
        if stores_labels(section):
            assert place is not None, "the labels of this protocol need a place"
            folder = place(labels_bytes(section, images=len(self._data.images), outputs=self._networks[0].outputs))
            stored = relabel(run, section, self._networks, data=self._data, folder=folder, name=images.name)
            self._data = replace(self._data, stored=stored)

    def train(self, architecture: str, k: int, folder: Path) -> None:
        """Train one student; write student.json."""
        run, section, network = self._run, self._section, self._networks[0]
        seed = derive(run.seed, "student", k)
        # the teacher's stem, where the architecture has it, as in upstream's validation
        stem, size = stem_like(architecture, network.stem), run.dataset.size
        model = initialised(lambda: build(architecture, outputs=network.outputs, stem=stem, size=size), seed)
        label = f"student {architecture} {k + 1}/{section.per_synthesis} ({self._name})"
        with ui.progress(label, section.epochs) as advance:
            curve = train_student(
                accelerate_network(model.to(run.device), run.trained_with, run.device),
                [teacher.model for teacher in self._networks],
                data=self._data,
                section=self._protocol,
                seed=seed,
                folder=folder / "training",
                progress=advance,
            )
        best_epoch, best = find_best(curve)
        found = {
            "architecture": architecture,
            "k": k,
            "seed": seed,
            "last": curve[-1][1],
            "best": best,
            "best_epoch": best_epoch,
            "curve": [list(point) for point in curve],
        }
        write_json(folder / STUDENT, found)
        shutil.rmtree(folder / "training", ignore_errors=True)


def _load(run: Run, labelling: Mapping[str, Artefact]) -> list[Network]:
    """Return the network that labels and normalises, and the others where the protocol asks several."""
    files = [network_file(run, one) for one in labelling.values()]
    loaded = [load(file, run.device) for file in files]
    for network in loaded:
        accelerate_network(network.model, run.trained_with, run.device)
    for file, network in zip(files, loaded, strict=True):
        if (network.mean, network.std) != (loaded[0].mean, loaded[0].std):
            raise DirePlugError(
                f"{file}: takes images with another normalisation than {files[0]}; train it in this recipe"
            )
    return loaded


def _check_range(images: Tensor) -> None:
    if torch.is_floating_point(images) and (float(images.min()) < 0 or float(images.max()) > 1):
        raise DirePlugError(
            f"images: values from {float(images.min()):.3g} to {float(images.max()):.3g}, expected uint8 or float in "
            "[0, 1]; denormalise them first"
        )


def summarise_students(results: Sequence[Mapping[str, Any]], *, with_best: bool) -> dict[str, Any]:
    """Return {"last": [...], "best": [...], "mean" and "std" of last} of students with a `last` and a `best` each.

    Args:
        with_best: whether the best is known; else it is None.
    """
    last = [float(result["last"]) for result in results]
    return {
        "last": last,
        "best": [float(result["best"]) for result in results] if with_best else None,
        "mean": statistics.fmean(last),
        "std": statistics.stdev(last) if len(last) > 1 else None,
    }
