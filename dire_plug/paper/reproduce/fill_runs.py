"""Cells that a run's own metrics fill, and the runs that other cells start from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.paper.ablate.components import COMBINATIONS, Components, ablate_components, normalised_columns
from dire_plug.paper.reproduce.paper_tables import Cell
from dire_plug.paper.reproduce.request import Answer, Order, answer
from dire_plug.pipeline import FinishedRun, Request, run_arm
from dire_plug.pipeline.request import same_but_arm
from dire_plug.results.statistics import ACCURACY, STUDENTS, Summary

DIVERSITY: Mapping[str, str] = MappingProxyType(
    {"coverage": "coverage", "similarity": "similarity", "vendi": "class_vendi"}
)
"""What a table reads → the key in metrics.json: coverage of all classes pooled, Vendi as the mean over classes."""


class Runs:
    """The runs of one order, and what else several cells share; each is made once, whether it ends well or not."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.finished: dict[Request, FinishedRun] = {}
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` returns, or raise what it raises, again for each cell that asks for the same."""
        if key not in self._found:
            try:
                self._found[key] = make()
            except Exception as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, Exception):
            raise found
        return found

    def of(self, cell: Cell) -> list[FinishedRun]:
        """Return the finished runs of a cell, one a seed; finished ones are reused.

        Raises:
            Exception: what kept a run from being finished, again for each cell that needs it.
        """
        request = self.order.request(cell)
        seeds = range(request.seed, request.seed + self.order.seeds)
        return [self._one(same_but_arm(request, request.arm, seed)) for seed in seeds]

    def _one(self, request: Request) -> FinishedRun:
        def make() -> FinishedRun:
            ipc = "" if request.ipc is None else f", IPC {request.ipc}"
            ui.say(f"{request.method} {request.recipe}, {request.arm}{ipc}, seed {request.seed}")
            self.finished[request] = run_arm(request)
            return self.finished[request]

        found: FinishedRun = self.once(request, make)
        return found


def find_mixed_teachers(runs: Runs) -> list[str]:
    """Return a line for each method whose runs were made with different teachers: of another version of torch, say."""
    seen: dict[str, dict[str, str]] = {}
    mixed = []
    for request, found in runs.finished.items():
        name, networks = f"{request.method} {request.recipe}", found.metrics["networks"]
        known = seen.setdefault(name, {})
        if any(known.setdefault(key, digest) != digest for key, digest in networks.items()):
            mixed.append(name)
    return [
        f"{name}: its runs were made with different teachers, so they can't be compared; remove the older ones"
        for name in dict.fromkeys(mixed)
    ]


def fill_from_run(cell: Cell, runs: Runs) -> Answer:
    """Return what a run of each seed measured itself."""
    finished = runs.of(cell)
    metrics = [run.metrics for run in finished]
    folders = folders_of(finished)
    if cell.place.read == "accuracy":
        return _accuracy(metrics, folders)
    spaces = [one["diversity"] for one in metrics]
    values = [one["T"].get(DIVERSITY[cell.place.read]) for one in spaces]
    known = [float(value) for value in values if value is not None]
    if len(known) < len(values):
        raise DirePlugError(f"{cell.place.read} isn't defined for these images: one a class has no pair")
    return answer(known, folders, diversity=spaces)


def folders_of(finished: Sequence[FinishedRun]) -> list[str]:
    """Return where runs lie."""
    return [str(run.folder.path) for run in finished]


def _accuracy(metrics: Sequence[dict[str, Any]], folders: Sequence[str]) -> Answer:
    """Return the accuracy of the last epoch, with what the papers print beside: the best on test, students' spread."""
    last, best = ([measure.read(one) for one in metrics] for measure in ACCURACY)
    known = [value for value in last if value is not None]
    if len(known) < len(metrics):
        raise DirePlugError(next(str(one["accuracy"].get("missing", "no student")) for one in metrics))
    spread = [STUDENTS[0].read(one) for one in metrics]
    return answer(known, folders, **{"best on test": best, "students' standard deviation": spread})


# Cells of Table 14: the seven combinations of the regularizer's components, normalised together.


SPACE = "T"


def fill_from_ablation(cell: Cell, runs: Runs) -> Answer:
    """Return a combination's accuracy, or its mean diversity on the scale of all seven: 0 is the least, 1 the greatest.

    Raises:
        DirePlugError: the ablation, or this combination, failed.
    """
    request = runs.order.request(cell)
    found = runs.once(("components", request), lambda: ablate_components(request, runs.order.seeds))
    assert isinstance(found, Components)
    name = next(name for name, parts in COMBINATIONS.items() if parts == cell.place.components)
    trial = found.trials[name]
    if trial.trouble is not None:
        raise DirePlugError(f"{name}: {trial.trouble}")
    if cell.place.read == "accuracy":
        summary = trial.summary(ACCURACY[0])
    else:
        place = normalised_columns(found, SPACE)[cell.place.read][name]
        summary = None if place is None else Summary(place, None, len(found.seeds))
    if summary is None:
        raise DirePlugError(f"{name}: the seven combinations don't differ in {cell.place.read}, or lack it")
    return Answer(summary, runs=tuple(folders_of(trial.runs)))
