"""Fill the cells of a table or figure: finished runs are reused, missing ones are run, each once for all its cells."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dire_plug import ui
from dire_plug.devices import count_cores
from dire_plug.errors import DirePlugError
from dire_plug.executors.dispatch import Runner
from dire_plug.files import make_folder
from dire_plug.measures import ACCURACY, STUDENTS
from dire_plug.paper.ablate.components import (
    COMBINATIONS,
    Components,
    ablate_components,
    component_settings,
    normalised_columns,
)
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import TableRequest
from dire_plug.paper.reproduce.result import BEST, LOAD, WHOLE, CellResult, TableResult, attempt, result_of
from dire_plug.paper.reproduce.scales import SMOKE_SETTINGS
from dire_plug.paper.timing import Timing, time_arms
from dire_plug.pipeline import plan_run
from dire_plug.pipeline.request import same_but_arm
from dire_plug.results.report.class_grid import draw_class_grid
from dire_plug.results.report.similarity import draw_class_similarity
from dire_plug.results.report.tsne import draw_tsne
from dire_plug.results.statistics import Summary, summarise
from dire_plug.sets.evaluate import evaluate_set
from dire_plug.sets.measure import measure_set
from dire_plug.sets.opened import SetRequest
from dire_plug.sets.units import plan_set_units
from dire_plug.store.runs import FinishedRun, Request, choose_device
from dire_plug.store.units import Unit

DIVERSITY: Mapping[str, str] = MappingProxyType(
    {"coverage": "coverage", "similarity": "similarity", "vendi": "class_vendi"}
)
"""The measure of a table → the key in metrics.json: coverage of all classes pooled, Vendi as the mean over classes."""


def reproduce(request: TableRequest, *, runner: Runner | None = None) -> TableResult:
    """Fill every requested cell.

    A cell that can't be filled is left empty with the reason, and the others go on.

    Args:
        runner: runs the cells' runs; None does so in this process.

    Raises:
        DetachedError: jobs work for the runs, and the command doesn't wait for them.
    """
    runs = Runs(request, runner or Runner())
    runs.prepare()
    if request.target.draw is not None:
        cells, figure = draw_figure(runs)
        return TableResult(request, cells, figure, tuple(find_mixed_teachers(runs)))
    cells = {}
    for cell in request.cells:
        cells[cell] = attempt(lambda cell=cell: _fill(cell, runs))  # type: ignore[misc]
        if reason := cells[cell].reason:
            ui.detail(f"{request.target.rows[cell.row]}, {request.target.columns[cell.column]}: {reason}")
    return TableResult(request, cells, warnings=tuple(find_mixed_teachers(runs)))


def requests_of(request: TableRequest) -> list[Request]:
    """Return the requests of the runs that a table's cells are made from, but of those that can't be planned."""
    found: dict[Request, None] = {}
    for cell in request.cells:
        # of a cell that is timed, or of a set from elsewhere, there are none; what a figure draws isn't printed either
        unprinted = cell.figure == NOT_PRINTED and request.target.draw is None
        if unprinted or request.is_from_outside(cell) or cell.read == "seconds":
            continue
        # a cell that the scale leaves out says so when it is filled
        with contextlib.suppress(DirePlugError):
            first = request.first_run(cell)
            seeds = range(first.seed, first.seed + request.seeds)
            if cell.components:
                found |= dict.fromkeys(one.of(first, seed=seed) for one in component_settings() for seed in seeds)
            else:
                found |= dict.fromkeys(same_but_arm(first, first.arm, seed) for seed in seeds)
    return list(found)


class Runs:
    """The runs of one request, and what else several cells share; each is made once, whether it ends well or not."""

    def __init__(self, request: TableRequest, runner: Runner) -> None:
        self.request, self.runner = request, runner
        self.finished: dict[Request, FinishedRun] = {}
        self._found: dict[Hashable, Any] = {}

    def prepare(self) -> None:
        """Make all that the store lacks of the cells' runs, then of their other students, where an executor does."""
        self.runner.prepare(requests_of(self.request), skip_bad=True)
        # a cell whose runs or students can't be made says so when it is filled
        with contextlib.suppress(DirePlugError):
            self.runner.make(self._student_units)

    def _student_units(self) -> list[Unit]:
        found = []
        for cell in self.request.cells:
            if cell.student and cell.figure != NOT_PRINTED:
                with contextlib.suppress(DirePlugError):
                    found += self.student_units(cell)
        return found

    def student_units(self, cell: Cell) -> list[Unit]:
        """Return the units of a cell's students on the images of its runs."""
        requests = [replace(plain_request(self), path=Path(folder)) for folder in _folders(self.of(cell))]
        return [unit for one in requests for unit in plan_set_units("evaluate", one, students=[cell.student])]

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the result of `make`, or raise its error, again for each cell that needs the same."""
        if key not in self._found:
            try:
                self._found[key] = make()
            except Exception as error:
                # an error is kept too, so that a broken run is tried once, not for each of its cells
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, Exception):
            raise found
        return found

    def of(self, cell: Cell) -> list[FinishedRun]:
        """Return the finished runs of a cell, one a seed; finished ones are reused.

        Raises:
            Exception: the error that ended a run, again for each cell that needs it.
        """
        first = self.request.first_run(cell)
        seeds = range(first.seed, first.seed + self.request.seeds)
        return [self._one(same_but_arm(first, first.arm, seed)) for seed in seeds]

    def _one(self, request: Request) -> FinishedRun:
        def make() -> FinishedRun:
            ipc = "" if request.ipc is None else f", IPC {request.ipc}"
            ui.say(f"{request.method} {request.recipe}, {request.arm}{ipc}, seed {request.seed}")
            self.finished[request] = self.runner.run(request)
            return self.finished[request]

        found: FinishedRun = self.once(request, make)
        return found


def find_mixed_teachers(runs: Runs) -> list[str]:
    """Return a line for each method whose runs have different teachers, as from different versions of torch."""
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


def _fill(cell: Cell, runs: Runs) -> CellResult:
    """Fill one cell by what it is about."""
    if cell.figure == NOT_PRINTED:
        return CellResult()
    if runs.request.is_from_outside(cell):
        return fill_from_outside(cell, runs)
    if cell.components:
        return fill_from_ablation(cell, runs)
    if cell.read == "seconds":
        return fill_from_timing(cell, runs)
    if cell.embedding:
        return fill_from_embedding(cell, runs)
    return fill_from_students(cell, runs) if cell.student else fill_from_run(cell, runs)


def fill_from_run(cell: Cell, runs: Runs) -> CellResult:
    """Return what a run of each seed measured itself."""
    finished = runs.of(cell)
    metrics = [run.metrics for run in finished]
    folders = _folders(finished)
    if cell.read == "accuracy":
        return _accuracy(metrics, folders)
    spaces = [one["diversity"] for one in metrics]
    values = [one["T"].get(DIVERSITY[cell.read]) for one in spaces]
    known = [float(value) for value in values if value is not None]
    if len(known) < len(values):
        raise DirePlugError(f"{cell.read} isn't defined for these images: one a class has no pair")
    return result_of(known, folders, diversity=spaces)


def _folders(finished: Sequence[FinishedRun]) -> list[str]:
    return [str(run.folder.path) for run in finished]


def _accuracy(metrics: Sequence[dict[str, Any]], folders: Sequence[str]) -> CellResult:
    """Return the accuracy of the last epoch, with what papers print beside it: the best on test, students' spread."""
    last, best = ([measure.read(one) for one in metrics] for measure in ACCURACY)
    known = [value for value in last if value is not None]
    if len(known) < len(metrics):
        raise DirePlugError(next(str(one["accuracy"].get("missing", "no student")) for one in metrics))
    spread = [STUDENTS[0].read(one) for one in metrics]
    best_known = None if None in best else best
    return result_of(known, folders, **{BEST: best_known, "students' standard deviation": spread})


# Table 14: the seven combinations of the regularizer's components, normalised together.


def fill_from_ablation(cell: Cell, runs: Runs) -> CellResult:
    """Return a combination's accuracy, or its mean diversity scaled over all seven: 0 is the least, 1 the greatest.

    Raises:
        DirePlugError: the ablation, or this combination, failed.
    """
    first = runs.request.first_run(cell)
    found = runs.once(("components", first), lambda: ablate_components(first, runs.request.seeds, runner=runs.runner))
    assert isinstance(found, Components)
    name = next(name for name, parts in COMBINATIONS.items() if parts == cell.components)
    trial = found.trials[name]
    if trial.problem is not None:
        raise DirePlugError(f"{name}: {trial.problem}")
    if cell.read == "accuracy":
        summary = trial.summary(ACCURACY[0])
    else:
        scaled = normalised_columns(found, "T")[cell.read][name]
        summary = None if scaled is None else Summary(scaled, None, len(found.seeds))
    if summary is None:
        raise DirePlugError(f"{name}: the seven combinations don't differ in {cell.read}, or lack it")
    return CellResult(summary, runs=tuple(_folders(trial.runs)))


# Table 15: the seconds of a synthesis, the steps of all rows interleaved on one machine.

STEPS = {"paper": 30, "smoke": 10}
"""Steps of each row that count."""
SMOKE_IPC = 10


def fill_from_timing(cell: Cell, runs: Runs) -> CellResult:
    """Return the seconds of a cell's synthesis.

    At the paper's scale whole syntheses are run, one a seed; at the smoke scale the whole is extrapolated from steps.

    Raises:
        DirePlugError: this row can't be run here, or the timing failed.
    """
    request = runs.request
    # raises for a row without code before all rows are timed together
    plan_run(_timed_run(request, cell))
    found: Timing = runs.once("timing", lambda: _time(request))
    number = [arm.name for arm in found.arms].index(_arm_name(cell))
    arm = found.arms[number]
    whole = [wall for wall, _ in arm.whole]
    summary = summarise(whole) or Summary(found.whole(number).value, None, 1)
    more = {
        "steps counted": found.rounds,
        "step, seconds": asdict(found.step(number, "wall")),
        "ratio of steps to the first row": asdict(found.ratio(number, "wall")),
        WHOLE: asdict(found.whole(number)),
        LOAD: found.about.get(LOAD),
        # on a GPU the memory of the process says little
        "memory, bytes": arm.gpu_memory or arm.memory,
        "engine": found.engine,
        "hardware": found.about["hardware"],
    }
    return CellResult(summary, tuple(whole), more=more)


def _time(request: TableRequest) -> Timing:
    """Time every row that can be run here."""
    here = [cell for cell in request.cells if not attempt(lambda cell=cell: _check(request, cell)).reason]  # type: ignore[misc]
    whole = request.seeds if request.scale == "paper" else 0
    names = [_arm_name(cell) for cell in here]
    found = time_arms(names, _timed_run(request, here[0]), steps=STEPS[request.scale], whole=whole)
    return replace(found, about={**found.about, LOAD: [os.getloadavg()[0], count_cores()]})


def _check(request: TableRequest, cell: Cell) -> CellResult:
    plan_run(_timed_run(request, cell))
    return CellResult()


def _timed_run(request: TableRequest, cell: Cell) -> Request:
    """Return the options of a row: all rows have the same recipe's name and IPC."""
    if request.scale == "smoke":
        return replace(request.base, method=cell.method, recipe="quick", arm=cell.arm, ipc=SMOKE_IPC)
    return replace(request.base, method=cell.method, recipe=cell.recipe, arm=cell.arm, ipc=cell.ipc)


def _arm_name(cell: Cell) -> str:
    """Return METHOD or METHOD+ARM, as a timing names a row."""
    return cell.method if cell.arm == "baseline" else f"{cell.method}+{cell.arm}"


# Tables 16 and 17: sets measured by another network, and images that RDED's own code made.

TEACHER = "teacher"
JUDGE = "sre2l"
"""The method whose teacher judges a set from elsewhere."""


def fill_from_embedding(cell: Cell, runs: Runs) -> CellResult:
    """Return the diversity of finished runs in another network than their teachers.

    Raises:
        DirePlugError: a run can't be made, or the network's weights or package aren't installed.
    """
    name = str(cell.embedding)
    folders = _folders(runs.of(cell))
    requests = [replace(plain_request(runs), path=Path(folder)) for folder in folders]
    spaces = [_measure(runs, request, name) for request in requests]
    return result_of([float(one[DIVERSITY[cell.read]]) for one in spaces], folders, diversity=spaces)


def fill_from_outside(cell: Cell, runs: Runs) -> CellResult:
    """Return the diversity of the set that `--rded` names, in the teacher of the recipe.

    Raises:
        DirePlugError: it doesn't fit the real data.
    """
    rded = runs.request.rded
    assert rded is not None
    recipe, settings = cell.recipe, tuple[str, ...]()
    if runs.request.scale == "smoke":
        recipe, settings = "quick", SMOKE_SETTINGS[JUDGE]
    settings += runs.request.base.settings
    request = replace(plain_request(runs), path=rded, recipe=f"{JUDGE}/{recipe}", settings=settings)
    space = _measure(runs, request, TEACHER)
    return result_of([float(space[DIVERSITY[cell.read]])], [str(rded)], diversity=[space])


def plain_request(runs: Runs) -> SetRequest:
    """Return the request for a set, with the device, folders and acceleration of the runs; the path is to be set."""
    base = runs.runner.pin(runs.request.base)
    return SetRequest(
        Path(),
        device=base.device,
        out=base.out,
        data_root=base.data_root,
        offline=base.offline,
        accelerate=base.accelerate,
        able=base.able,
    )


def _measure(runs: Runs, request: SetRequest, embedding: str) -> dict[str, Any]:
    """Return the metrics of one set in one embedding, made once for all cells that read them."""
    weights = None if embedding == TEACHER else runs.request.weights

    def make() -> dict[str, Any]:
        return measure_set(request, embeddings=(embedding,), weights=weights).diversity[embedding]

    found: dict[str, Any] = runs.once((request, embedding), make)
    return found


# Tables 10 to 12: other students than the recipe's, trained on a run's images by the same protocol.


def fill_from_students(cell: Cell, runs: Runs) -> CellResult:
    """Return the last accuracy of a cell's student, one a synthesis, averaged over the students of one synthesis.

    Raises:
        DirePlugError: the run can't be made, or the student doesn't take its images.
    """
    student = str(cell.student)
    runs.runner.make(lambda: runs.student_units(cell))
    folders, found = _folders(runs.of(cell)), []
    for folder in folders:
        request = replace(plain_request(runs), path=Path(folder))
        found.append(evaluate_set(request, students=(student,)).accuracy["students"][student])
    last = [statistics.fmean(one["last"]) for one in found]
    best = [statistics.fmean(one["best"]) for one in found if one["best"]] or None
    return result_of(last, folders, **{BEST: best, "students": [len(one["last"]) for one in found]})


# Figures 1 to 3.

FILE = "figure.png"
SMOKE_LABEL = 3
"""The class that Figure 3 shows at the smoke scale, the digit 3: there is no peacock."""


def draw_figure(runs: Runs) -> tuple[dict[Cell, CellResult], Path | None]:
    """Make the runs of a figure and draw those that could be made; return the result of each set, and the file.

    Numbers are written beside the file, as JSON. If drawing fails, the error is the reason of every set that it would
    have shown.
    """
    found: dict[Cell, list[FinishedRun]] = {}

    def make(cell: Cell) -> CellResult:
        found[cell] = runs.of(cell)
        return CellResult(runs=tuple(_folders(found[cell])))

    cells = {cell: attempt(lambda cell=cell: make(cell)) for cell in runs.request.cells}  # type: ignore[misc]
    if not found:
        return cells, None
    path = runs.request.folder / FILE
    drawn = attempt(lambda: _draw(runs.request, [finished[0] for finished in found.values()], path))
    if drawn.reason:
        cells |= dict.fromkeys(found, drawn)
    return cells, None if drawn.reason else path


def _draw(request: TableRequest, finished: Sequence[FinishedRun], path: Path) -> CellResult:
    """Draw the first synthesis of each set."""
    make_folder(path.parent)
    target, device = request.target, choose_device(request.base.device)
    if target.draw == "tsne":
        draw_tsne(finished, path, device=device)
    elif target.draw == "similarity":
        draw_class_similarity(finished, path, device=device)
    else:
        label = SMOKE_LABEL if request.scale == "smoke" or target.label is None else target.label
        draw_class_grid(finished, path, label=label)
    return CellResult()
