"""Estimate what the runs of a table would cost, for `--dry-run`: state, time, disk and memory of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from dire_plug.data import Dataset
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, format_bytes
from dire_plug.paper.ablate.components import component_settings
from dire_plug.paper.reproduce.flops import RunCost, build_for, count_pass, count_work, pass_of
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import TableRequest
from dire_plug.paper.reproduce.result import one_line
from dire_plug.paper.reproduce.table import heading_of
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import absence, check_sizes, read_data, same_but_arm
from dire_plug.pipeline.run import name_artefacts
from dire_plug.stages.squeeze import missing_networks
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
    return count_work(planned).recover


def _measure(planned: Run) -> Rate:
    """Measure forward and backward passes of the teacher's network, untrained, at the recipe's size."""
    recipe = planned.resolved.recipe
    return _measure_pass(**pass_of(planned, recipe.squeeze.teacher), device=_device(planned))


@lru_cache(maxsize=32)
def _measure_pass(*, device: str, **network: Any) -> Rate:
    """Time steps of the network that `count_pass` counts with these arguments."""
    count, size = IMAGES[torch.device(device).type], network["size"]
    model = build_for(**network).to(device).train()
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


FINISHED = "finished"
NEW = "to be run"
ABSENT = "can't run here"
_State = tuple[str, str, tuple[str, ...] | None]
"""The state of a run, why it can't run here, and which networks are missing from the store."""


@dataclass(frozen=True)
class Estimate:
    """The estimate of one run.

    Attributes:
        state: finished, to be run, running, interrupted, failed; or that it can't run here.
        reason: why it can't.
        to_train: the networks missing from the store; None where the data is missing, so that this isn't known.
        trains: whether their training is counted in this run, and not in an earlier one that shares them.
        cost: operations, steps and bytes, as counted.
        rate: None where the operations can't be counted.
    """

    request: Request
    state: str
    reason: str
    to_train: tuple[str, ...] | None
    trains: bool
    cost: RunCost
    rate: Rate | None

    @property
    def seconds(self) -> float | None:
        """How long it would take on the hardware of the rate; None where it is finished, or can't be counted."""
        total = self.cost.total(with_teachers=self.trains)
        return None if self.rate is None or total is None or self.state == FINISHED else total * self.rate.seconds


def estimate(request: TableRequest) -> list[Estimate]:
    """Return an estimate of every run of a table, each once; nothing is run or fetched.

    Raises:
        DirePlugError: a recipe is faulty.
    """
    plans = [plan_run(run, dry=True) for run in runs_of(request)]
    states = _states(plans)
    estimates, counted = [], set()
    for planned in plans:
        state, reason, to_train = states[planned.request]
        networks = _networks(planned)
        # runs of one dataset share their networks, whose training counts once
        trains = to_train != () and networks not in counted
        counted.add(networks)
        cost = count_work(planned)
        rate = None if cost.recover is None else find_rate(planned)
        estimates.append(Estimate(planned.request, state, reason, to_train, trains, cost, rate))
    return estimates


def runs_of(request: TableRequest) -> list[Request]:
    """Return the requests of a table's runs, each once; a timing and a set from outside need none."""
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
    return [same_but_arm(first, first.arm, seed) for seed in seeds]


def _networks(planned: Run) -> str:
    """Return a digest of all that decides which networks a run uses."""
    recipe = planned.resolved.recipe
    return digest([recipe.dataset.model_dump(), recipe.squeeze.model_dump(), recipe.recover.script])


def _states(plans: Sequence[Run]) -> dict[Request, _State]:
    """Return the state of each run; each dataset is loaded once, and one is held at a time."""
    # groupby joins neighbours only
    groups = groupby(sorted(plans, key=_data), key=_data)
    return {request: state for _, group in groups for request, state in _states_of(list(group)).items()}


def _states_of(runs: Sequence[Run]) -> dict[Request, _State]:
    """Return the states of runs of one dataset."""
    try:
        dataset = read_data(replace(runs[0], request=replace(runs[0].request, offline=True)))
    except DirePlugError as error:
        return {planned.request: (ABSENT, one_line(str(error)), None) for planned in runs}
    return {planned.request: _state(planned, dataset) for planned in runs}


def _data(planned: Run) -> str:
    """Return a digest of all that decides which real images a run uses."""
    recipe = planned.resolved.recipe
    return digest([recipe.dataset.model_dump(), recipe.evaluate.judge, str(planned.request.data_root)])


def _state(planned: Run, dataset: Dataset) -> _State:
    try:
        check_sizes(planned.resolved, dataset.size)
        loaded = replace(planned, data=dataset)
        state = run_folder(loaded, list(name_artefacts(loaded).values())).state()
    except DirePlugError as error:
        return ABSENT, one_line(str(error)), None
    # also where upstream is missing: teachers can be trained without its code
    to_train = tuple(missing_networks(loaded))
    if not planned.ready:
        return ABSENT, absence(planned.adapter), to_train
    return NEW if state == "new" else state, "", to_train


def left_out(request: TableRequest) -> list[str]:
    """Return what the table needs besides its runs, which isn't estimated."""
    cells = request.cells
    parts = {
        "training of the other students": any(cell.student for cell in cells),
        "embeddings of another network": any(cell.embedding for cell in cells),
        "the timing, which runs by itself": any(cell.read == "seconds" for cell in cells),
        "measuring the set from outside": any(cell.set for cell in cells),
    }
    names = [name for name, there in parts.items() if there]
    return [f"not estimated: {', '.join(names)}"] if names else []


def describe(estimates: Sequence[Estimate]) -> list[str]:
    """Return the caveats of the estimates."""
    rates = list(dict.fromkeys(one.rate for one in estimates if one.rate is not None))
    lines = [
        "disk: images as files (uncompressed, an upper bound) and as tensors, stored labels, the networks in the loop; "
        "the embeddings of real images come on top",
        "memory: what the backward pass keeps of the largest batch, and its network's weights, counted; the GPU needs "
        "more (the allocator, workspaces, real embeddings)",
    ]
    lines += [f"time by {rate.what}: {rate.measured:.3g} s on {rate.where}" for rate in rates]
    if rates:
        lines.append(
            "time is rough: the operations of convolutions and products in synthesis, students and missing networks "
            "(in the first run that needs them), as if each took equally long; whatever else a script does isn't "
            "in it, and another machine, a GPU above all, takes another time"
        )
    if any(one.rate is None for one in estimates):
        lines.append("no time (–): the loop trains networks itself, which isn't counted")
    return lines


# The table of `--dry-run`.


NONE = "–"


def show_costs(request: TableRequest, estimates: Sequence[Estimate]) -> RenderableType:
    """Return a table with a row for each run: its state, and estimated time, disk and memory."""
    table = Table("run")
    table.add_prose("state", "networks to train")
    table.add_numbers("steps", "time ≈", "disk ≈", "memory ≥")
    reasons = list(dict.fromkeys(one.reason for one in estimates if one.reason))
    for one in estimates:
        table.add_row(*_row(one, reasons))
    if not estimates:
        return with_notes(title=heading_of(request), notes=["no run is needed", *left_out(request)])
    lines = [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    lines += [*_totals(estimates), *left_out(request), *describe(estimates)]
    return with_notes(table, title=heading_of(request), notes=lines)


def _row(one: Estimate, reasons: Sequence[str]) -> list[str]:
    request = one.request
    preset = f" ({request.preset})" if request.preset else ""
    name = f"{request.method} {request.recipe}{preset}, {request.arm}"
    name += "" if request.ipc is None else f", IPC {request.ipc}"
    name += "".join(f", {setting}" for setting in request.settings if setting.startswith("regularizers."))
    networks = "?" if one.to_train is None else ", ".join(one.to_train) or "none"
    return [
        f"{name}, seed {request.seed}",
        f"{one.state} [{reasons.index(one.reason) + 1}]" if one.reason else one.state,
        networks,
        f"{one.cost.steps:,}",
        NONE if one.seconds is None else duration(one.seconds),
        format_bytes(one.cost.disk),
        format_bytes(one.cost.memory),
    ]


def _totals(estimates: Sequence[Estimate]) -> list[str]:
    """Return how many runs are left, and their time and disk together."""
    left = [one for one in estimates if one.state != FINISHED]
    known = [one.seconds for one in left if one.seconds is not None]
    disk = format_bytes(sum(one.cost.disk for one in left))
    text = f"{len(estimates)} runs, {len(left)} of them to be run: disk ≈ {disk}"
    return [text + (f", time ≈ {duration(sum(known))} for the {len(known)} that can be estimated" if known else "")]


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits, to two digits."""
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.2g} {name}" if seconds / length < 100 else f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"
