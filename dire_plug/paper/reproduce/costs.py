"""Estimate what the runs of tables would cost, for `--dry-run`: units of work, time, disk, memory, and a schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import RenderableType

from dire_plug.errors import DirePlugError
from dire_plug.files import format_bytes, format_duration
from dire_plug.paper.reproduce.fill import requests_of
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import TableRequest
from dire_plug.paper.reproduce.result import one_line
from dire_plug.paper.reproduce.table import heading_of
from dire_plug.pipeline import Request, plan_run
from dire_plug.pipeline.rates import Rate
from dire_plug.pipeline.request import same_but_arm
from dire_plug.pipeline.schedule import critical_path, simulate
from dire_plug.pipeline.unit_costs import PlannedRun, plan_costs, too_large
from dire_plug.store.units import Unit, once, waits_for
from dire_plug.tables import Table, with_notes
from dire_plug.types.artefact import Cost, add_up

STUDENTS = "evaluate.students="
GPUS = (1, 8, 64)
"""The numbers of GPUs for which a schedule is simulated."""
SHOWN = 12
"""Units of the critical path that are shown."""
CAVEATS = (
    "time is rough: the operations of convolutions and products, as if each took equally long; loading, start-up and "
    "whatever else a script does isn't in it; what runs share counts in the first one that needs it",
    "disk: images as files (uncompressed, an upper bound) and as tensors, stored labels, networks, embeddings",
    "memory: what the backward pass keeps of the largest batch, networks, real embeddings, counted; the GPU needs more "
    "(the allocator, workspaces)",
)


def runs_of(request: TableRequest) -> list[Request]:
    """Return the requests of a table's runs, each once; a timing and a set from outside need none.

    Another student than the recipe's is that of a further run, which shares all units but those of its students.
    """
    found = dict.fromkeys(requests_of(request))
    for cell in request.cells:
        if cell.student and cell.figure != NOT_PRINTED:
            try:
                first = request.first_run(cell)
            except DirePlugError:
                continue  # the scale leaves it out
            settings = (*first.settings, f"{STUDENTS}[{cell.student}]")
            runs = [same_but_arm(first, first.arm, first.seed + number) for number in range(request.seeds)]
            found |= dict.fromkeys(replace(run, settings=settings) for run in runs)
    return list(found)


def show_costs(requests: Sequence[TableRequest], *, rate: Rate) -> tuple[RenderableType, dict[str, Any]]:
    """Return what tables would cost: a row for each run of one table, or for each of several tables; and a schedule.

    Returns:
        What is shown, and the rows as data: seconds are None where no rate is known.

    Raises:
        DirePlugError: a recipe is faulty.
    """
    wanted = {request.target.name: runs_of(request) for request in requests}
    # a preset or a setting that only some recipes have leaves the others' cells empty
    asked_for = dict.fromkeys(one for found in wanted.values() for one in found)
    faulty = _find_faulty(asked_for) if requests[0].changes else {}
    wanted = {name: [one for one in found if one not in faulty] for name, found in wanted.items()}
    runs = {run.request: run for run in plan_costs(one for found in wanted.values() for one in found)}
    units = once(unit for run in runs.values() for unit in run.units)
    costs = {name: cost for run in runs.values() for name, cost in run.costs.items()}
    several = len(requests) > 1
    rows = wanted if several else {_name(run.request): [run.request] for run in runs.values()}
    table, seen, asked = Table("table" if several else "run"), set[str](), 0
    data: dict[str, Any] = {"rows": [], "notes": []}
    if several:
        table.add_numbers("runs")
    else:
        table.add_prose("state")
    table.add_numbers("units", "of them new", "time ≈", "disk ≈", "memory ≥")
    for name, found in rows.items():
        its = once(unit for one in found for unit in runs[one].units)
        cost = add_up(costs[unit.name] for unit in its if unit.name not in seen)
        new, asked = len({unit.name for unit in its} - seen), asked + len(its)
        seen |= {unit.name for unit in its}
        first = f"{len(found):,}" if several else _state(runs[found[0]])
        figures = rate.time(cost.operations) if new else "–", format_bytes(cost.disk), format_bytes(cost.memory)
        table.add_row(name, first, f"{len(its):,}", f"{new:,}", *figures)
        seconds = cost.operations / rate.operations if rate.operations else None
        sizes = {"disk_bytes": cost.disk, "memory_bytes": cost.memory}
        state = {"runs": len(found)} if several else {"state": first}
        data["rows"].append({"name": name, **state, "units": len(its), "new_units": new, "seconds": seconds, **sizes})
    title = heading_of(requests[0])
    if several:
        title = " — ".join(filter(None, ["All tables and figures", " ".join(requests[0].changes)]))
    left_out = [f"{count:,} runs can't be planned: {why}" for why, count in Counter(faulty.values()).items()]
    left_out += _left_out(requests)
    if not runs:
        data["notes"] = ["no run is needed" if not faulty else "no run can be planned", *left_out]
        return with_notes(title=title, notes=data["notes"]), data
    students = sum(any(one.startswith(STUDENTS) for one in request.settings) for request in runs)
    lines = [
        f"{len(runs) - students:,} runs, and {students:,} times other students on their images: {len(units):,} units "
        f"of work; each {'table' if several else 'run'} by itself would have {asked:,}",
        *_passes(units),
        *_absent(list(runs.values())),
        *left_out,
        rate.describe(),
        *too_large(units, costs, rate),
        *CAVEATS,
    ]
    parts = _schedule(units, costs, rate) if units and rate.operations else []
    if parts and several:
        parts.append(_savings(list(runs.values()), rate))
    data["notes"] = lines
    return with_notes(table, *parts, title=title, notes=lines), data


def _find_faulty(requests: Iterable[Request]) -> dict[Request, str]:
    """Return the requests whose recipes are faulty, and why."""
    found = {}
    for request in requests:
        try:
            plan_run(request, dry=True)
        except DirePlugError as error:
            found[request] = one_line(str(error))
    return found


def _passes(units: Sequence[Unit]) -> list[str]:
    """Return how many passes, and batches of other passes, there are, and whether one is made twice."""
    made = Counter(name for unit in units for name in unit.makes if name.startswith(("pass/", "batch/")))
    batches = sum(name.startswith("batch/") for name in made)
    twice = sorted(name for name, count in made.items() if count > 1)
    told = f"{len(twice)} are made twice, the first {twice[0]}" if twice else "none is made twice"
    several = f" and {batches:,} batches of further ones" if batches else ""
    return [f"{len(made) - batches:,} passes of syntheses{several}: {told}"] if made else []


def _state(run: PlannedRun) -> str:
    return "can't run here" if run.absent else "to be run" if run.units else "finished"


def _absent(runs: Sequence[PlannedRun]) -> list[str]:
    """Return why runs can't run here, and which ones can't be planned."""
    counts = Counter(run.absent for run in runs if run.absent and run.units)
    # the first sentence: which folders were looked into is told by a run's own dry run
    lines = [f"{count} can't run here, but are planned: {why.partition('. ')[0]}" for why, count in counts.items()]
    unplanned = [run for run in runs if run.absent and not run.units]
    return [*lines, *(f"not planned: {_name(run.request)}: {run.absent}" for run in unplanned)]


def _left_out(requests: Sequence[TableRequest]) -> list[str]:
    """Return what tables need besides their runs, which isn't planned, and where."""
    parts: dict[str, Callable[[TableRequest, Cell], bool]] = {
        "embeddings of another network": lambda _, cell: cell.embedding is not None,
        "the timing, which runs by itself": lambda _, cell: cell.read == "seconds",
        "measuring the set from outside": TableRequest.is_from_outside,
    }
    found = []
    for name, is_there in parts.items():
        if tables := [one.target.name for one in requests if any(is_there(one, cell) for cell in one.cells)]:
            found.append(f"{name} ({', '.join(tables)})")
    return [f"not estimated: {', '.join(found)}"] if found else []


def _schedule(units: Sequence[Unit], costs: Mapping[str, Cost], rate: Rate) -> list[RenderableType]:
    """Return the schedule of units on several numbers of GPUs, and their longest path."""
    needs = waits_for(units)
    seconds = {unit.name: costs[unit.name].operations / rate.operations for unit in units}
    path = critical_path(seconds, needs)
    table = Table("GPUs")
    table.add_numbers("makespan", "idle")
    for gpus in GPUS:
        found = simulate(seconds, needs, gpus=gpus)
        table.add_row(str(gpus), format_duration(found.makespan), f"{found.idle:.0%}")
    titles = {unit.name: unit.label for unit in units}
    longest = sorted(path, key=lambda name: -seconds[name])[:SHOWN]
    shown = [f"{titles[name]} ({format_duration(seconds[name])})" for name in path if name in longest and seconds[name]]
    notes = [
        f"{len(units):,} units of work, {sum(seconds.values()) / 3600:,.1f} hours of {rate.what}",
        "simulated: a free GPU takes the unit with the longest path ahead; start-up, loading and queues take no time",
        f"critical path: {format_duration(sum(seconds[name] for name in path))}: {', then '.join(shown)}",
    ]
    return [with_notes(table, notes=notes)]


def _savings(runs: Sequence[PlannedRun], rate: Rate) -> RenderableType:
    """Return the hours of all runs, and what each way to save brings, one after the other."""
    alone = add_up(cost for run in runs for cost in run.costs.values())
    # IPC enters the key of a synthesis, as if none could go on from a smaller one
    shared = {
        (unit.name, unit.of if unit.stage == "recover" else ""): run.costs[unit.name]
        for run in runs
        for unit in run.units
    }
    once_each, grown = add_up(shared.values()), add_up({n: c for run in runs for n, c in run.costs.items()}.values())
    rows = {
        "each run by itself, students tested after every epoch": alone.operations + alone.untested,
        "what runs share is made once: networks, embeddings, images, students": once_each.operations
        + once_each.untested,
        "a larger IPC goes on from the passes of a smaller one (SRe2L, CDA, DWA)": grown.operations + grown.untested,
        "students are tested by their recipes' schedule": grown.operations,
    }
    notes = ["each row has the savings of those above it; the last is what is planned"]
    if rate.mixed is not None:
        notes.append(
            f"not in it: mixed precision trained ResNet-50 {rate.mixed:.2f} times as fast on this GPU (same source): "
            f"{grown.operations / rate.operations / rate.mixed / 3600:,.0f} hours, if all of this gained as much"
        )
    notes.append("not in it either: the other parts of `--accelerate`, none of which was measured on a GPU")
    table = Table("way to save")
    table.add_numbers("hours")
    for name, operations in rows.items():
        table.add_row(name, f"{operations / rate.operations / 3600:,.0f}")
    return with_notes(table, notes=notes)


def _name(request: Request) -> str:
    preset = f" ({request.preset})" if request.preset else ""
    name = f"{request.method} {request.recipe}{preset}, {request.arm}"
    name += "" if request.ipc is None else f", IPC {request.ipc}"
    name += "".join(f", {one}" for one in request.settings if one.startswith(("regularizers.", STUDENTS)))
    return f"{name}, seed {request.seed}"
