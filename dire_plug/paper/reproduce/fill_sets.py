"""Cells of Table 16 in CLIP, and of Table 17 of images that no method of ours makes: sets measured as they are."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.paper.reproduce.fill_runs import DIVERSITY, Runs, folders_of
from dire_plug.paper.reproduce.paper_tables import Cell
from dire_plug.paper.reproduce.request import Answer, answer
from dire_plug.paper.reproduce.scales import SMOKE
from dire_plug.sets.evaluate import evaluate_set
from dire_plug.sets.measure import measure_set
from dire_plug.sets.opened import SetRequest

TEACHER = "teacher"
JUDGE = "sre2l"
"""Whose teacher judges a set that no method of ours made."""


def fill_from_embedding(cell: Cell, runs: Runs) -> Answer:
    """Return the diversity of finished runs in another network than their teachers.

    Raises:
        DirePlugError: a run can't be made, or the network's weights or package aren't here.
    """
    name = str(cell.place.embedding)
    folders = folders_of(runs.of(cell))
    requests = [replace(plain_request(runs), path=Path(folder)) for folder in folders]
    spaces = [_measure(runs, request, name) for request in requests]
    return answer([float(one[DIVERSITY[cell.place.read]]) for one in spaces], folders, diversity=spaces)


def fill_from_outside(cell: Cell, runs: Runs) -> Answer:
    """Return the diversity of the set that `--rded` names, in the teacher of the recipe.

    Raises:
        DirePlugError: no set was given, or it doesn't fit the real data.
    """
    order = runs.order
    if order.rded is None:
        raise DirePlugError(
            "RDED optimizes no loss, so nothing here makes its images: run its own code (docs/measuring-a-set.md), and "
            "give the folder: --rded FOLDER"
        )
    recipe, settings = cell.place.recipe, tuple[str, ...]()
    if order.scale == "smoke":
        recipe, settings = "quick", SMOKE[JUDGE].settings
    request = replace(plain_request(runs), path=order.rded, recipe=f"{JUDGE}/{recipe}", settings=settings)
    space = _measure(runs, request, TEACHER)
    return answer([float(space[DIVERSITY[cell.place.read]])], [str(order.rded)], diversity=[space])


def plain_request(runs: Runs) -> SetRequest:
    """Return the request for a set, with the order's device and folders; the path is to be set."""
    base = runs.order.base
    return SetRequest(Path(), device=base.device, out=base.out, data_root=base.data_root, offline=base.offline)


def _measure(runs: Runs, request: SetRequest, embedding: str) -> dict[str, Any]:
    """Return the metrics of one set in one embedding, made once for all cells that read them."""
    weights = None if embedding == TEACHER else runs.order.weights

    def make() -> dict[str, Any]:
        return measure_set(request, embeddings=(embedding,), weights=weights).diversity[embedding]

    found: dict[str, Any] = runs.once((request, embedding), make)
    return found


# Cells of Tables 10 to 12: other students than the recipe's, trained on a run's images by the same protocol.


def fill_from_students(cell: Cell, runs: Runs) -> Answer:
    """Return the last accuracy of a cell's student, one a synthesis; several students of one are averaged.

    Raises:
        DirePlugError: the run can't be made, or the student doesn't take its images.
    """
    finished = runs.of(cell)
    student = str(cell.place.student)
    folders, found = folders_of(finished), []
    for folder in folders:
        request = replace(plain_request(runs), path=Path(folder))
        found.append(evaluate_set(request, students=(student,)).accuracy["students"][student])
    last, best = ([statistics.fmean(one[kind]) for one in found] for kind in ("last", "best"))
    return answer(last, folders, **{"best on test": best, "students": [len(one["last"]) for one in found]})
