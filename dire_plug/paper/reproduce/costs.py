"""Estimate what the runs of tables would cost, for `--dry-run`: units of work, time, disk, memory, and a schedule."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, format_bytes
from dire_plug.paper.ablate.components import component_settings
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import TableRequest
from dire_plug.paper.reproduce.result import one_line
from dire_plug.paper.reproduce.table import heading_of
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.network_costs import build_for, count_pass
from dire_plug.pipeline.request import absence, check_sizes, read_data, same_but_arm, with_stand_in
from dire_plug.pipeline.run import name_artefacts
from dire_plug.pipeline.schedule import critical_path, simulate
from dire_plug.pipeline.unit_costs import UnitCost, add_up, count_recover, count_units
from dire_plug.pipeline.work_units import Unit, once, request_of, units_of, waits_for
from dire_plug.stages.artefacts import roles_in_loop
from dire_plug.store.provenance import hardware
from dire_plug.store.runs import RunFolder, choose_device, list_runs, run_folder, runs_root
from dire_plug.tables import Table, with_notes

# Seconds per operation: of a finished synthesis of the same recipe, else of a few steps run here.


IMAGES = {"cpu": 4, "cuda": 64}
"""Images in a step that is run here."""
STEPS = 3
"""Steps run here, after one that isn't counted; their median is taken."""


@dataclass(frozen=True)
class Rate:
    """The measured seconds of a number of operations.

    Attributes:
        measured: seconds.
        operations: as counted.
        what: a finished synthesis, or steps run here.
        where: the hardware.
    """

    measured: float
    operations: float
    what: str
    where: str

    @property
    def seconds(self) -> float:
        """For one operation."""
        return self.measured / self.operations


def find_rate(planned: Run) -> Rate:
    """Return the rate of the recipe's largest finished synthesis, or that of some steps run here."""
    found = [rate for run in list_runs(runs_root(planned.request)) if (rate := _rate_of(run, planned)) is not None]
    # the largest one, since fixed costs weigh least in it
    return max(found, key=lambda rate: rate.operations, default=None) or _measure(planned)


def _rate_of(run: RunFolder, planned: Run) -> Rate | None:
    """Return the rate of a finished synthesis of the same method and recipe, made on one machine alone."""
    method, recipe, name = run.path.parts[-3:]
    if (method, recipe) != (planned.adapter.name, planned.source.stem) or run.state() != "finished":
        return None
    took = run.metrics().get("recover")
    # passes of several machines have no common rate
    if not took or took["hardware"] is None:
        return None
    try:
        operations = _operations(run.path)
    except DirePlugError:
        return None  # made by a version whose recipe can't be read any more
    if not operations:
        return None
    return Rate(took["seconds"], operations, f"the synthesis of {name}", _name(took["hardware"]))


@lru_cache(maxsize=256)
def _operations(run: Path) -> float | None:
    """Return the operations of a finished synthesis, by its own resolved recipe."""
    # the stored recipe is resolved for its arm already, so any arm gives the same counts
    planned = plan_run(Request(run.parts[-3], recipe=str(run / "recipe.yaml"), arm="baseline"), dry=True)
    return count_recover(with_stand_in(planned), "").operations


def _measure(planned: Run) -> Rate:
    """Measure forward and backward passes of the teacher's network, untrained, at the recipe's size."""
    (teacher, *_) = roles_in_loop(run := with_stand_in(planned))
    return _measure_pass(
        architecture=teacher.section.architecture,
        outputs=teacher.outputs,
        stem=teacher.stem,
        size=run.dataset.size,
        flat=teacher.section.head == "flat",
        device=_device(planned),
    )


@lru_cache(maxsize=32)
def _measure_pass(*, device: str, **network: Any) -> Rate:
    """Time steps of the network that `count_pass` counts with these arguments."""
    count, size = IMAGES[torch.device(device).type], network["size"]
    model = build_for(**network).to(device)
    images = torch.rand(count, 3, size, size, device=device, requires_grad=True)

    def step() -> None:
        model(images).sum().backward()
        if images.is_cuda:
            torch.cuda.synchronize(device)

    step()  # the first one allocates memory and chooses kernels
    seconds = statistics.median(_clock(step) for _ in range(STEPS))
    both = count_pass(**network).both
    what = f"a step of {count} images of {size} pixels through {network['architecture']}, run here (median of {STEPS})"
    return Rate(seconds, count * both, what, _name(hardware(device)))


def _clock(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _device(planned: Run) -> str:
    # other devices have no number of images in IMAGES
    device = choose_device(planned.request.device)
    return device if device.split(":")[0] in IMAGES else "cpu"


def _name(found: dict[str, Any]) -> str:
    if found.get("card"):
        return str(found["card"])
    threads = found["threads"]
    return f"{found['processor']}, {threads} thread{'' if threads == 1 else 's'}"


# Runs and their units of work.


FINISHED = "finished"
NEW = "to be run"
ABSENT = "can't run here"
STUDENTS = "evaluate.students="


@dataclass(frozen=True)
class PlannedRun:
    """One run of a table, and what the store lacks of it.

    Attributes:
        state: finished, to be run, running, interrupted, failed; or that it can't run here.
        reason: why it can't.
        units: all that the store lacks; as if it had nothing where the data is missing.
        own: those of them that no earlier run needs too.
    """

    planned: Run
    state: str
    reason: str
    units: tuple[Unit, ...]
    own: tuple[Unit, ...] = ()

    @property
    def request(self) -> Request:
        """The options of the run."""
        return self.planned.request

    @property
    def networks(self) -> list[str]:
        """The names of the networks that this run is the first to need."""
        return [unit.part for unit in self.own if unit.stage == "squeeze"]

    @property
    def steps(self) -> int:
        """The steps of its synthesis, finished ones too."""
        run = with_stand_in(self.planned)
        return run.plan.passes * run.plan.slots_per_pass * run.adapter.steps(run.recipe.recover)


def plan_runs(requests: Iterable[Request]) -> list[PlannedRun]:
    """Return every run once, with its units of work; nothing is run or fetched.

    Units are named by the data. Where it isn't here, a stand-in of its published size takes its place.

    Raises:
        DirePlugError: a recipe is faulty.
    """
    plans = [plan_run(request, dry=True) for request in dict.fromkeys(requests)]
    # groupby joins neighbours only; each dataset is loaded once, and one is held at a time
    groups = groupby(sorted(plans, key=_data), key=_data)
    found = {one.request: one for _, group in groups for one in _plan_group(list(group))}
    ordered, taken = [], set[str]()
    for planned in plans:
        one = found[planned.request]
        ordered.append(replace(one, own=tuple(unit for unit in one.units if unit.name not in taken)))
        taken |= {unit.name for unit in one.units}
    return ordered


def _plan_group(plans: Sequence[Run]) -> list[PlannedRun]:
    """Return the runs of one dataset."""
    try:
        data, reason = read_data(replace(plans[0], request=replace(plans[0].request, offline=True))), ""
    except DirePlugError as error:
        data, reason = None, one_line(str(error))
    found = []
    for planned in plans:
        try:
            loaded = with_stand_in(planned) if data is None else replace(planned, data=data)
            check_sizes(planned.resolved, loaded.dataset.size)
            units = tuple(units_of(loaded))
            state = ABSENT if data is None else _state(loaded) if units else FINISHED
        except DirePlugError as error:
            found.append(PlannedRun(planned, ABSENT, one_line(str(error)), ()))
            continue
        why = reason or ("" if planned.ready else absence(planned.adapter))
        # what the store has needs neither data nor code
        found.append(PlannedRun(planned, ABSENT if why and units else state, why, units))
    return found


def _state(run: Run) -> str:
    state = run_folder(run, list(name_artefacts(run).values())).state()
    return NEW if state == "new" else state


def _data(planned: Run) -> str:
    """Return a digest of all that decides which real images a run uses."""
    recipe = planned.resolved.recipe
    return digest([recipe.dataset.model_dump(), recipe.evaluate.judge, str(planned.request.data_root)])


def runs_of(request: TableRequest) -> list[Request]:
    """Return the requests of a table's runs, each once; a timing and a set from outside need none.

    Another student than the recipe's is that of a further run, which shares all units but those of its students.
    """
    found: dict[Request, None] = {}
    for cell in request.cells:
        if cell.set is None and cell.read != "seconds" and not _unprinted(request, cell):
            found |= dict.fromkeys(_requests(request, cell))
    return list(found)


def _unprinted(request: TableRequest, cell: Cell) -> bool:
    return request.target.draw is None and cell.figure == NOT_PRINTED


def _requests(request: TableRequest, cell: Cell) -> list[Request]:
    """Return the runs of one cell: of all seeds, and of every combination that Table 14 is normalised over."""
    try:
        first = request.first_run(cell)
    except DirePlugError:
        return []  # the scale leaves it out
    seeds = range(first.seed, first.seed + request.seeds)
    if cell.components:
        return [setting.of(first, seed=seed) for setting in component_settings() for seed in seeds]
    runs = [same_but_arm(first, first.arm, seed) for seed in seeds]
    if cell.student is None:
        return runs
    return [*runs, *(replace(run, settings=(*run.settings, f"{STUDENTS}[{cell.student}]")) for run in runs)]


@dataclass(frozen=True)
class Estimate:
    """The estimate of one run: the units that no earlier run needs, and the rate at which they would be made.

    Attributes:
        rate: None where nothing is left.
    """

    run: PlannedRun
    cost: UnitCost
    rate: Rate | None

    @property
    def seconds(self) -> float | None:
        """How long it would take on the hardware of the rate."""
        return None if self.rate is None else self.cost.operations * self.rate.seconds


def estimate(request: TableRequest) -> list[Estimate]:
    """Return an estimate of every run of a table, each once; nothing is run or fetched.

    Raises:
        DirePlugError: a recipe is faulty.
    """
    runs = plan_runs(runs_of(request))
    costs = count_units(unit for run in runs for unit in run.own)
    found = []
    for run in runs:
        cost = add_up(costs[unit.name] for unit in run.own)
        found.append(Estimate(run, cost, find_rate(run.planned) if cost.operations else None))
    return found


def left_out(requests: Sequence[TableRequest]) -> list[str]:
    """Return what tables need besides their runs, which isn't planned, and where."""
    parts: dict[str, Callable[[Cell], bool]] = {
        "embeddings of another network": lambda cell: cell.embedding is not None,
        "the timing, which runs by itself": lambda cell: cell.read == "seconds",
        "measuring the set from outside": lambda cell: cell.set is not None,
    }
    found = []
    for name, is_there in parts.items():
        if tables := [request.target.name for request in requests if any(map(is_there, request.cells))]:
            found.append(f"{name} ({', '.join(tables)})")
    return [f"not estimated: {', '.join(found)}"] if found else []


def describe(estimates: Sequence[Estimate]) -> list[str]:
    """Return the caveats of the estimates."""
    rates = list(dict.fromkeys(one.rate for one in estimates if one.rate is not None))
    lines = list(CAVEATS)
    lines += [f"time by {rate.what}: {rate.measured:.3g} s on {rate.where}" for rate in rates]
    if rates:
        lines.append(
            "time is rough: the operations of convolutions and products, as if each took equally long; what runs share "
            "counts in the first one that needs it; whatever else a script does isn't in it, and another machine, a "
            "GPU above all, takes another time"
        )
    return lines


CAVEATS = (
    "disk: images as files (uncompressed, an upper bound) and as tensors, stored labels, networks, embeddings",
    "memory: what the backward pass keeps of the largest batch, networks, real embeddings, counted; the GPU needs more "
    "(the allocator, workspaces)",
)


# The tables of `--dry-run`.


NONE = "–"
GPUS = (1, 8, 64)
"""The numbers of GPUs for which a schedule is simulated."""
SHOWN = 12
"""Units of the critical path that are shown."""


def show_costs(request: TableRequest, estimates: Sequence[Estimate], *, rate: float) -> RenderableType:
    """Return a table with a row for each run: its state, and estimated time, disk and memory.

    Args:
        rate: operations a second, for the schedule.
    """
    table = Table("run")
    table.add_prose("state", "networks to train")
    table.add_numbers("units", "steps", "time ≈", "disk ≈", "memory ≥")
    reasons = _reasons([one.run for one in estimates])
    for one in estimates:
        table.add_row(*_row(one, reasons))
    if not estimates:
        return with_notes(title=heading_of(request), notes=["no run is needed", *left_out([request])])
    units = once(unit for one in estimates for unit in one.run.own)
    lines = [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    lines += [*_totals(estimates), *left_out([request]), *describe(estimates)]
    return with_notes(table, *_schedule(units, count_units(units), rate=rate), title=heading_of(request), notes=lines)


def show_all(requests: Sequence[TableRequest], *, rate: float) -> RenderableType:
    """Return a table with a row for each table of the paper: its runs and units; and the schedule of all together.

    Args:
        rate: operations a second.

    Raises:
        DirePlugError: a recipe is faulty.
    """
    wanted = {request.target.name: runs_of(request) for request in requests}
    runs = {run.request: run for run in plan_runs(one for found in wanted.values() for one in found)}
    units = once(unit for run in runs.values() for unit in run.own)
    costs = count_units(units)
    table = Table("table")
    table.add_numbers("runs", "units", "of them new", "hours", "disk ≈", "memory ≥")
    seen, asked = set[str](), 0
    for name, found in wanted.items():
        its = once(unit for one in found for unit in runs[one].units)
        new = [unit for unit in its if unit.name not in seen]
        seen |= {unit.name for unit in its}
        asked += len(its)
        cost = add_up(costs[unit.name] for unit in new)
        figures = [f"{len(found):,}", f"{len(its):,}", f"{len(new):,}", f"{cost.operations / rate / 3600:,.1f}"]
        table.add_row(name, *figures, format_bytes(cost.disk), format_bytes(cost.memory))
    students = sum(any(one.startswith(STUDENTS) for one in request.settings) for request in runs)
    lines = [
        f"{len(runs) - students:,} runs, and {students:,} times other students on their images: {len(units):,} units "
        f"of work; the tables, each by itself, would have {asked:,}",
        *_synthesized(units),
        *_absent(list(runs.values())),
        *left_out(requests),
        *CAVEATS,
    ]
    return with_notes(table, *_schedule(units, costs, rate=rate), title="All tables and figures", notes=lines)


def _synthesized(units: Sequence[Unit]) -> list[str]:
    """Return how many passes, and batches of other passes, there are, and whether one is made twice."""
    made = Counter(name for unit in units for name in unit.makes if name.startswith(("pass/", "batch/")))
    batches = sum(name.startswith("batch/") for name in made)
    twice = sorted(name for name, count in made.items() if count > 1)
    told = f"{len(twice)} are made twice, the first {twice[0]}" if twice else "none is made twice"
    several = f" and {batches:,} batches of further ones" if batches else ""
    return [f"{len(made) - batches:,} passes of syntheses{several}: {told}"] if made else []


def _absent(runs: Sequence[PlannedRun]) -> list[str]:
    """Return why runs can't run here, and which ones can't be planned."""
    counts = Counter(run.reason for run in runs if run.state == ABSENT and run.units)
    # the first sentence: which folders were looked into is told by a table's own dry run
    told = {reason: reason.partition(". ")[0] for reason in counts}
    lines = [f"{count} of them can't run here, but are planned: {told[reason]}" for reason, count in counts.items()]
    unplanned = [run for run in runs if run.state == ABSENT and not run.units]
    return [*lines, *(f"not planned: {_name_run(run.request)}: {run.reason}" for run in unplanned)]


def _schedule(units: Sequence[Unit], costs: Mapping[str, UnitCost], *, rate: float) -> list[RenderableType]:
    """Return the schedule of units on several numbers of GPUs, and their longest path; nothing where there are none."""
    if not units:
        return []
    needs = waits_for(units)
    seconds = {name: cost.operations / rate for name, cost in costs.items()}
    path = critical_path(seconds, needs)
    table = Table("GPUs")
    table.add_numbers("makespan", "idle")
    for gpus in GPUS:
        found = simulate(seconds, needs, gpus=gpus)
        table.add_row(str(gpus), duration(found.makespan), f"{found.idle:.0%}")
    titles = {unit.name: _name_unit(unit) for unit in units}
    longest = sorted(path, key=lambda name: -seconds[name])[:SHOWN]
    shown = [f"{titles[name]} ({duration(seconds[name])})" for name in path if name in longest and seconds[name]]
    notes = [
        f"{len(units):,} units of work, {sum(seconds.values()) / 3600:,.1f} GPU-hours at {rate / 1e12:g} TFLOP/s "
        "(assumed, see --tflops; not measured)",
        "simulated: a free GPU takes the unit with the longest path ahead; start-up, loading and queues take no time",
        f"critical path: {duration(sum(seconds[name] for name in path))}: {', then '.join(shown)}",
    ]
    return [with_notes(table, notes=notes)]


def _name_unit(unit: Unit) -> str:
    request = request_of(unit)
    return f"{request.method} {request.recipe}: {unit.title}"


def _reasons(runs: Sequence[PlannedRun]) -> list[str]:
    return list(dict.fromkeys(run.reason for run in runs if run.reason and run.state == ABSENT))


def _name_run(request: Request) -> str:
    preset = f" ({request.preset})" if request.preset else ""
    name = f"{request.method} {request.recipe}{preset}, {request.arm}"
    name += "" if request.ipc is None else f", IPC {request.ipc}"
    name += "".join(f", {one}" for one in request.settings if one.startswith(("regularizers.", STUDENTS)))
    return f"{name}, seed {request.seed}"


def _row(one: Estimate, reasons: Sequence[str]) -> list[str]:
    run = one.run
    return [
        _name_run(run.request),
        f"{run.state} [{reasons.index(run.reason) + 1}]" if run.state == ABSENT else run.state,
        ", ".join(run.networks) or "none",
        f"{len(run.own):,}",
        f"{run.steps:,}",
        NONE if one.seconds is None else duration(one.seconds),
        format_bytes(one.cost.disk),
        format_bytes(one.cost.memory),
    ]


def _totals(estimates: Sequence[Estimate]) -> list[str]:
    """Return how many runs are left, and their time and disk together."""
    left = [one for one in estimates if one.run.units]
    known = [one.seconds for one in left if one.seconds is not None]
    disk = format_bytes(sum(one.cost.disk for one in left))
    text = f"{len(estimates)} runs, {len(left)} of them to be run: disk ≈ {disk}"
    return [text + (f", time ≈ {duration(sum(known))}" if known else "")]


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits, to two digits."""
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.2g} {name}" if seconds / length < 100 else f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"
