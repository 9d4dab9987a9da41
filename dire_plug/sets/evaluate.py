"""Evaluate a condensed set, from any source, by students trained on it under a recipe's protocol.

The folder `runs/sets/<name>-<id>/` holds the recipe and the accuracies; the id is 8 hex of a hash of images, recipe,
seed and real data, not of the students, which are in the store.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dire_plug import ui
from dire_plug.files import digest, write_atomically, write_json
from dire_plug.measures import ACCURACY, STUDENTS, read_values
from dire_plug.models import architectures, check_architecture
from dire_plug.models.architectures import torchvision_name
from dire_plug.recipe import as_file
from dire_plug.recipe.evaluate import EvaluateSection
from dire_plug.sets.opened import OpenedSet, SetRequest, fit_protocol, open_set
from dire_plug.stages.artefacts import Networks, name_students
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import squeeze_loop
from dire_plug.store import provenance
from dire_plug.store.cleaning import register
from dire_plug.store.lease import hold, until_kept
from dire_plug.store.runs import ARTEFACTS, Run, RunFolder
from dire_plug.types.artefact import Artefact

METRICS = "metrics.json"
SETS = "sets"
"""The folder of evaluated sets, beside those of the methods."""


@dataclass(frozen=True)
class EvaluatedSet:
    """The accuracies of students of one set.

    Attributes:
        folder: where they are kept.
        condensed: the set, as `OpenedSet.describe` describes it.
        recipe: METHOD/NAME, whose protocol and networks these are.
        accuracy: as `stages.evaluate.evaluate` returns it, of the requested students.
        notes: caveats.
        reused: whether no student had to be trained.
    """

    folder: Path
    condensed: dict[str, Any]
    recipe: str
    accuracy: dict[str, Any]
    notes: tuple[str, ...]
    reused: bool

    @property
    def measures(self) -> dict[str, float | None]:
        """Accuracies and their spread over students, by key: see `dire_plug.measures`."""
        return read_values({"accuracy": self.accuracy}, (*ACCURACY, *STUDENTS))

    def to_json(self) -> dict[str, Any]:
        """Return the fields, JSON-like."""
        return {
            "folder": str(self.folder),
            "set": self.condensed,
            "recipe": self.recipe,
            "measures": self.measures,
            "accuracy": self.accuracy,
            "notes": list(self.notes),
        }


@until_kept
def evaluate_set(
    request: SetRequest, *, students: Sequence[str] = (), per_set: int | None = None, epochs: int | None = None
) -> EvaluatedSet:
    """Train students on a set; reuse finished ones, and resume an interrupted one.

    Args:
        students: architectures, by our names or torchvision's; empty takes the recipe's.
        per_set: students of each; None takes the recipe's number.
        epochs: of each; None takes the recipe's.

    Raises:
        DirePlugError: an architecture is unknown, classes hold different numbers of images; see `open_set` and
            `stages.evaluate`.
        RunBusyError: another process evaluates the same set, and the request doesn't want to wait.
    """
    opened, section, images, notes = _open(request, students, per_set, epochs)
    run = opened.run
    networks = squeeze_loop(run)
    folder, made_before = _folder(opened, section, images, networks), len(run.store.made)
    # the lease is held to the end: two processes would train the same students
    wait = float("inf") if request.wait else 0
    with hold(folder.lease, wait=wait, what=f"the set {folder.path}") as lease:
        # before training, so that `clean` keeps the students of an interrupted evaluation
        _register(run, networks, name_students(run, networks, images.source, section), folder)
        accuracy = evaluate(run, networks, images, section=section)
        reused = len(run.store.made) == made_before
        lease.require()
        _record(opened, folder, networks, accuracy)
    return EvaluatedSet(folder.path, opened.describe(), opened.recipe, accuracy, tuple(notes), reused)


def open_for_students(
    request: SetRequest, *, students: Sequence[str] = (), per_set: int | None = None, epochs: int | None = None
) -> tuple[Run, list[tuple[str, EvaluateSection, ImageSet]]]:
    """Return the run that judges a set, and name, protocol and images of the students that `evaluate_set` trains.

    Raises:
        DirePlugError: see `evaluate_set`.
    """
    opened, section, images, _ = _open(request, students, per_set, epochs)
    return opened.run, [("students", section, images)]


def _open(
    request: SetRequest, students: Sequence[str], per_set: int | None, epochs: int | None
) -> tuple[OpenedSet, EvaluateSection, ImageSet, list[str]]:
    names = [our_name(name) for name in students]
    opened = open_set(replace(request, settings=(*request.settings, *_settings(names, per_set, epochs))))
    opened.condensed.require_equal_classes()
    return opened, *fit_protocol(opened)


def our_name(student: str) -> str:
    """Return our name of an architecture that is given by our name or torchvision's.

    Raises:
        DirePlugError: the name is unknown; the message has the nearest one.
    """
    ours = {torchvision_name(name): name for name in architectures() if torchvision_name(name)}
    if student not in architectures() and student in ours:
        ui.say_once(f"--student {student}: that is {ours[student]} here")
        return ours[student]
    check_architecture(student)
    return student


def _settings(students: Sequence[str], per_set: int | None, epochs: int | None) -> list[str]:
    given = {"students": f"[{', '.join(students)}]" if students else None, "per_synthesis": per_set, "epochs": epochs}
    return [f"evaluate.{key}={value}" for key, value in given.items() if value is not None]


def _folder(opened: OpenedSet, section: EvaluateSection, images: ImageSet, networks: Networks) -> RunFolder:
    """Return the folder of this set under this protocol and seed."""
    run = opened.run
    content = {
        # more students of another kind belong into the same folder
        "protocol": section.model_dump(mode="json", exclude={"students", "per_synthesis"}),
        "networks": [one.name for one in networks.of_students.values()],
        "images": images.source.digest or sorted(one.name for one in images.source.artefacts.values()),
        "seed": run.seed,
        "dataset": run.dataset.digest,
    }
    # a set's file may have any name, a folder's should need no quotes
    name = re.sub(r"[^\w.-]+", "-", opened.name.removesuffix(opened.condensed.path.suffix)).strip("-.") or "set"
    return RunFolder(run.root / SETS / f"{name}-{digest(content)[:8]}")


def _register(run: Run, networks: Networks, students: dict[str, list[Artefact]], folder: RunFolder) -> None:
    """Write artefacts.json: all students of the set that were ever requested, and the artefacts that they need."""
    roles = {one.name: f"student {name} {k}" for name, found in students.items() for k, one in enumerate(found)}
    roles |= {one.name: role for role, one in networks.of_students.items()}
    behind = {name: one.kind for found in students.values() for end in found for name, one in end.closure().items()}
    folder.make()
    write_json(folder.path / ARTEFACTS, dict(sorted((folder.artefacts() | behind | roles).items())))
    register(run.store.root, run.root, folder.artefacts())


def _record(opened: OpenedSet, folder: RunFolder, networks: Networks, accuracy: dict[str, Any]) -> None:
    """Write recipe.yaml, provenance.json and metrics.json."""
    folder.make()
    run = opened.run
    content = as_file(run.resolved)
    write_atomically(folder.path / "recipe.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    facts = {
        "set": opened.describe(),
        "run": opened.made_by.path.name if opened.made_by else None,
        "dataset": run.dataset.digest,
        "seed": run.seed,
    }
    provenance.record(folder.path / "provenance.json", facts, device=str(run.device))
    metrics = {
        "seed": run.seed,
        "set": opened.describe(),
        "recipe": opened.recipe,
        "networks": {name: run.store.content(one) for name, one in networks.of_students.items()},
        "accuracy": accuracy,
        "judged": run.dataset.judged,
    }
    write_json(folder.path / METRICS, metrics)
    folder.set_status("finished", stage="evaluate")
