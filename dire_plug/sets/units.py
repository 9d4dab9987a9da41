"""Units of work of `evaluate` and `rank`: the networks that label, and each student of each set, made by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dire_plug.pipeline.unit_costs import count_squeeze, count_students
from dire_plug.pipeline.work_units import Part, as_json, check_able, find_missing_part
from dire_plug.recipe.check import FULL
from dire_plug.recipe.evaluate import EvaluateSection
from dire_plug.sets.evaluate import open_for_students
from dire_plug.sets.opened import SetRequest
from dire_plug.sets.rank import open_for_ranking
from dire_plug.stages.artefacts import name_network, name_networks, name_students, roles_of_students
from dire_plug.stages.evaluate import evaluate, stores_labels, train_one
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import ensure_network
from dire_plug.store.lease import until_kept
from dire_plug.store.runs import Run
from dire_plug.store.units import Unit
from dire_plug.types.artefact import Cost

MAKER = "dire_plug.sets.units:make_set_unit"
Conditions = list[tuple[str, EvaluateSection, ImageSet]]
"""Name, protocol and images of the students of a set, and of those that it is compared with."""
OPEN: Mapping[str, Callable[..., tuple[Run, Conditions]]] = {
    "evaluate": open_for_students,
    "rank": open_for_ranking,
}
"""Command → what opens a set for its students."""


def plan_set_units(command: str, request: SetRequest, **options: Any) -> list[Unit]:
    """Return the units that the store lacks for the students of a set, in an order in which they can be made.

    Args:
        command: evaluate or rank.
        options: as `open_for_students` or `open_for_ranking` takes them.

    Raises:
        DirePlugError: see `open_set`.
    """
    return plan_set_costs(command, request, **options)[0]


def plan_set_costs(command: str, request: SetRequest, **options: Any) -> tuple[list[Unit], dict[str, Cost]]:
    """Return the same, and the name of each unit → its cost.

    Raises:
        DirePlugError: see `open_set`.
    """
    run, conditions = OPEN[command](request, **options)
    subject = {"command": command, "request": _to_json(request), "options": options}
    found, costs = [], dict[str, Cost]()
    for stage, part, artefacts, _ in _parts(run, conditions):
        if all(run.store.find(one) is not None for one in artefacts):
            continue
        makes = tuple(one.name for one in artefacts)
        needs = frozenset(name for one in artefacts for name in one.closure()).difference(makes)
        title = f"{stage} {part}"
        # a network belongs to no set
        of = "" if stage == "squeeze" else request.path.name
        unit = Unit(title, stage, part, makes, needs, MAKER, subject, of=of, device=request.device)
        found.append(unit)
        costs[unit.name] = _count(run, conditions, unit)
    return found, costs


def _count(run: Run, conditions: Conditions, unit: Unit) -> Cost:
    if unit.stage == "squeeze":
        return count_squeeze(run, unit.part)
    condition, _, student = unit.part.partition(", ")
    (section, images) = next((section, images) for name, section, images in conditions if name == condition)
    # not by its labels: all real images would be decoded for them
    count = len(run.dataset.train) if images.source.digest == FULL else len(images.labels)
    students = [student.rpartition(" ")[0]] if student else section.students * section.per_synthesis
    return count_students(run, section, students, images=count)


@until_kept
def make_set_unit(unit: Unit, *, log: Path) -> None:
    """Make one unit of a set by itself: see `Unit.make`."""
    subject = unit.subject
    run, conditions = OPEN[subject["command"]](_from_json(subject["request"]), **subject["options"])
    if (make := find_missing_part(unit, run.store, _parts(run, conditions))) is not None:
        check_able(run)
        make()


def _parts(run: Run, conditions: Conditions) -> Iterator[Part]:
    """Yield stage, part, the artefacts that it makes, and the function that makes them."""
    networks = name_networks(run)
    for role in roles_of_students(run):
        yield "squeeze", role.name, [name_network(run, role)], partial(ensure_network, run, role)
    for condition, section, images in conditions:
        students = name_students(run, networks, images.source, section)
        if stores_labels(section):
            every = [one for several in students.values() for one in several]
            yield "evaluate", condition, every, partial(evaluate, run, networks, images, section=section)
            continue
        for name, several in students.items():
            for k, one in enumerate(several):
                train = partial(train_one, run, networks, images, student=one, section=section, architecture=name, k=k)
                yield "evaluate", f"{condition}, {name} {k}", [one], train


def _to_json(request: SetRequest) -> dict[str, Any]:
    found = {key: as_json(one) for key, one in asdict(request).items()}
    for key in ("recipe", "teacher"):
        if found[key] is not None and Path(found[key]).is_file():
            found[key] = str(Path(found[key]).absolute())
    return found | {"wait": True}


def _from_json(content: Mapping[str, Any]) -> SetRequest:
    paths = {key: Path(content[key]) for key in ("path", "out", "data_root") if content[key] is not None}
    lists = {key: tuple(content[key]) for key in ("settings", "rerun", "able") if content[key] is not None}
    return SetRequest(**{**content, **paths, **lists})
