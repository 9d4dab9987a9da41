"""Evaluate a condensed set, whoever made it: students trained on it under a recipe's protocol, in a folder of its own.

The folder is `runs/sets/<name>-<id>/`; the id is 8 hex of a hash of images, recipe, seed and real data, not of the
students: more of them, or others, go on in the same folder. Those of another teacher than the cache's are trained anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dire_plug import home, ui
from dire_plug.files import digest, digest_file, write_atomically, write_json
from dire_plug.pipeline.outside import OpenedSet, SetRequest, open_set
from dire_plug.pipeline.set_protocol import fit_protocol, lay_out, learned_by
from dire_plug.recipe import as_file, identity
from dire_plug.runs import provenance
from dire_plug.runs.directory import RunFolder
from dire_plug.runs.lock import hold
from dire_plug.stages.job import Job
from dire_plug.stages.squeeze import INDEPENDENT, cached_loop, squeeze_loop

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Raised when the same set, recipe and seed give another accuracy."""
METRICS = "metrics.json"
SETS = "sets"
"""The folder, beside those of the methods, of what was evaluated."""


@dataclass(frozen=True)
class EvaluatedSet:
    """The accuracies of students of one set.

    Attributes:
        folder: where they are kept.
        condensed: what the set is, as `OpenedSet.describe` says.
        recipe: METHOD/NAME, whose protocol and networks these are.
        accuracy: as `stages.evaluate.evaluate` returns it, of the students that were asked for.
        notes: what one must know to read them.
        reused: whether all of them had been there.
    """

    folder: Path
    condensed: dict[str, Any]
    recipe: str
    accuracy: dict[str, Any]
    notes: tuple[str, ...]
    reused: bool

    def to_json(self) -> dict[str, Any]:
        """Return all of it, JSON-like."""
        return {
            "folder": str(self.folder),
            "set": self.condensed,
            "recipe": self.recipe,
            "accuracy": self.accuracy,
            "notes": list(self.notes),
        }


def evaluate_set(
    request: SetRequest, *, students: Sequence[str] = (), per_set: int | None = None, epochs: int | None = None
) -> EvaluatedSet:
    """Train students on a set, or find them; go on where that was interrupted.

    Args:
        students: architectures, by our names or torchvision's; empty takes the recipe's.
        per_set: students of each; None takes the recipe's number.
        epochs: of each; None takes the recipe's.

    Raises:
        DirePlugError: an architecture is unknown, classes hold different numbers of images; see `open_set` and
            `stages.evaluate`.
        RunBusyError: a live process works on the same set.
    """
    names = [our_name(name) for name in students]
    opened = open_set(replace(request, settings=(*request.settings, *_settings(names, per_set, epochs))))
    opened.condensed.require_equal_classes()
    opened, loop, notes = fit_protocol(opened)
    run = _folder(opened, request, in_loop_space=loop is not None)
    found = _find(run, opened.job)
    if found is None:
        with hold(run.lock, what=f"the set {run.path}"):
            if (found := _find(run, opened.job)) is None:
                accuracy = _train(opened, run, loop)
                return _result(opened, run, accuracy, notes)
    return _result(opened, run, found, notes, reused=True)


def our_name(student: str) -> str:
    """Return our name of an architecture that is given by ours or by torchvision's.

    Raises:
        DirePlugError: nobody knows it; the nearest name is told.
    """
    from dire_plug.models import architectures, check_architecture
    from dire_plug.models.architectures import torchvision_name

    ours = {torchvision_name(name): name for name in architectures() if torchvision_name(name)}
    if student not in architectures() and student in ours:
        ui.say_once(f"--student {student}: that is {ours[student]} here")
        return ours[student]
    check_architecture(student)
    return student


def _settings(students: Sequence[str], per_set: int | None, epochs: int | None) -> list[str]:
    given = {"students": f"[{', '.join(students)}]" if students else None, "per_synthesis": per_set, "epochs": epochs}
    return [f"evaluate.{key}={value}" for key, value in given.items() if value is not None]


def _folder(opened: OpenedSet, request: SetRequest, *, in_loop_space: bool) -> RunFolder:
    """Return the folder of this set under this recipe and seed."""
    job = opened.job
    counted = identity(replace(opened.planned.resolved, recipe=job.recipe))
    recipe = {key: counted[key] for key in ("method", "dataset", "squeeze", "evaluate")}
    for section, key in (("squeeze", INDEPENDENT), ("evaluate", "students"), ("evaluate", "per_synthesis")):
        del recipe[section][key]
    content = {
        "format": FORMAT,
        "recipe": recipe,
        "images": opened.condensed.digest,
        "in_loop_space": in_loop_space,
        "extras": learned_by(opened),
        "seed": job.seed,
        "dataset": job.dataset.digest,
    }
    name = re.sub(r"[^\w.-]+", "-", opened.name.removesuffix(opened.condensed.path.suffix)).strip("-.") or "set"
    root = (request.out or home.runs()).absolute()
    return RunFolder(root / SETS / f"{name}-{digest(content)[:8]}")


def _train(opened: OpenedSet, run: RunFolder, loop: Tensor | None) -> dict[str, Any]:
    """Train the students that are missing; keep their accuracies with those that were there."""
    from dire_plug.stages.evaluate import evaluate

    condensed, job = opened.condensed, replace(opened.job, folder=run.path)
    _record(opened, run)
    lay_out(opened, run, loop)
    try:
        run.set_status("running", stage="evaluate")
        networks = squeeze_loop(job)
        accuracy = evaluate(job, networks, condensed.images, condensed.labels)
    except BaseException as error:
        state = "failed" if isinstance(error, Exception) else "interrupted"
        run.set_status(state, stage="evaluate", error=str(error))
        raise
    digests = {name: digest_file(file) for name, file in networks.in_loop.items()}
    before = run.metrics() if (run.path / METRICS).is_file() else {"networks": {}}
    trained = before["accuracy"]["students"] if before["networks"] == digests else {}
    metrics = {
        "seed": job.seed,
        "set": opened.describe(),
        "recipe": opened.recipe,
        "networks": digests,
        "accuracy": accuracy | {"students": _united(trained, accuracy["students"])},
    }
    write_json(run.path / METRICS, metrics)
    run.set_status("finished", stage="evaluate")
    return accuracy


def _united(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the students of both; of an architecture those of the longer list, whose first ones are the shorter."""
    united = dict(before)
    for name, student in now.items():
        if len(student["last"]) >= len(united.get(name, {"last": []})["last"]):
            united[name] = student
    return united


def _find(run: RunFolder, job: Job) -> dict[str, Any] | None:
    """Return the accuracies of the students that are asked for, where all are finished.

    None where the cache holds another network of the loop than theirs; one that it lacks can't have changed.
    """
    if not (run.path / METRICS).is_file():
        return None
    metrics, section = run.metrics(), job.recipe.evaluate
    if any(digest_file(file) != metrics["networks"].get(name) for name, file in cached_loop(job).items()):
        return None
    accuracy = metrics["accuracy"]
    students = {name: accuracy["students"].get(name, {"last": []}) for name in section.students}
    if any(len(student["last"]) < section.per_synthesis for student in students.values()):
        return None
    chosen = {name: _first(student, section.per_synthesis) for name, student in students.items()}
    found: dict[str, Any] = accuracy | {"students": chosen}
    return found


def _first(student: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the first `count` students of an architecture, with their mean and spread."""
    from dire_plug.stages.evaluate import summarise_students

    pairs = list(zip(student["last"], student["best"], strict=True))[:count]
    return summarise_students([{"last": last, "best": best} for last, best in pairs])


def _record(opened: OpenedSet, run: RunFolder) -> None:
    """Write recipe.yaml and provenance.json."""
    run.make()
    content = as_file(replace(opened.planned.resolved, recipe=opened.job.recipe))
    write_atomically(run.path / "recipe.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    facts = {
        "set": opened.describe(),
        "run": opened.run.path.name if opened.run else None,
        "dataset": opened.job.dataset.digest,
        "seed": opened.job.seed,
    }
    provenance.record(run.path / "provenance.json", facts, device=str(opened.job.device))


def _result(
    opened: OpenedSet, run: RunFolder, accuracy: dict[str, Any], notes: Sequence[str], *, reused: bool = False
) -> EvaluatedSet:
    return EvaluatedSet(run.path, opened.describe(), opened.recipe, accuracy, tuple(notes), reused)
