"""Cells of Tables 10 to 12: other students than the recipe's, trained on a run's images by the same protocol."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

from dire_plug.reproduce.filling.runs import Runs, folders_of
from dire_plug.reproduce.filling.sets import plain_request
from dire_plug.reproduce.order import Answer, answer
from dire_plug.reproduce.printed import Cell
from dire_plug.sets.evaluate import evaluate_set


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
