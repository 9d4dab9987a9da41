"""`--dry-run`: which runs an order takes, how far each is, and what it would cost."""

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
from rich.console import Group, RenderableType
from rich.text import Text

from dire_plug.data import Dataset
from dire_plug.errors import DirePlugError
from dire_plug.files import digest
from dire_plug.paper.ablate.components import component_settings
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import Order, one_line
from dire_plug.paper.reproduce.table import heading_of
from dire_plug.paper.reproduce.work import Work, build_for, count_pass, count_work, pass_of
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import absence, check_sizes, read_data, same_but_arm
from dire_plug.pipeline.run import name_artefacts
from dire_plug.stages.squeeze import missing_networks
from dire_plug.store.provenance import hardware
from dire_plug.store.runs import RunFolder, choose_device, list_runs, run_folder, runs_root
from dire_plug.tables import Table

# What operations were measured to take: in a finished synthesis of the same recipe, else in a few steps made here.


IMAGES = {"cpu": 4, "cuda": 64}
"""In a step that is made here."""
STEPS = 3
"""Steps made here, after one that isn't counted; their median is taken."""


@dataclass(frozen=True)
class Rate:
    """Seconds that operations took.

    Attributes:
        measured: seconds.
        operations: as counted.
        what: what was measured.
        where: on which hardware.
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
    """Return the rate of the recipe's largest finished synthesis, or that of some steps made here."""
    found = [rate for run in list_runs(runs_root(planned.request)) if (rate := _rate_of(run, planned)) is not None]
    return max(found, key=lambda rate: rate.operations, default=None) or _measure(planned)


def _rate_of(run: RunFolder, planned: Run) -> Rate | None:
    """Return the rate of a finished synthesis of the same method and recipe, all of which one machine made."""
    method, recipe, name = run.path.parts[-3:]
    if (method, recipe) != (planned.adapter.name, planned.source.stem) or run.state() != "finished":
        return None
    took = run.metrics().get("recover")
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
    planned = plan_run(Request(run.parts[-3], recipe=str(run / "recipe.yaml"), arm="baseline"), dry=True)
    return count_work(planned).recover


def _measure(planned: Run) -> Rate:
    """Measure forward and backward passes of the teacher's network, untrained, at the recipe's size."""
    recipe = planned.resolved.recipe
    return _measure_pass(**pass_of(planned, recipe.squeeze.teacher), device=_device(planned))


@lru_cache(maxsize=32)
def _measure_pass(*, device: str, **network: Any) -> Rate:
    """Measure the network that `count_pass` takes by these names."""
    count, size = IMAGES[torch.device(device).type], network["size"]
    model = build_for(**network).to(device).train()
    images = torch.rand(count, 3, size, size, device=device, requires_grad=True)

    def step() -> None:
        model(images).sum().backward()
        if images.is_cuda:
            torch.cuda.synchronize(device)

    step()
    seconds = statistics.median(_clock(step) for _ in range(STEPS))
    both = count_pass(**network).both
    what = f"a step of {count} images of {size} pixels through {network['architecture']}, made here (median of {STEPS})"
    return Rate(seconds, count * both, what, _name(hardware(device)))


def _clock(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _device(planned: Run) -> str:
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
"""How far a run is, why it can't run here, and which networks the cache lacks."""


@dataclass(frozen=True)
class Cost:
    """One run of an order.

    Attributes:
        state: finished, to be run, running, interrupted, failed; or that it can't run here.
        reason: why it can't.
        to_train: the networks that the cache lacks; None where that isn't known, since the data isn't here.
        trains: whether their training is counted here, and not in an earlier run that shares them.
        work: what it takes, as counted.
        rate: what operations were measured to take, and where; None where the work can't be counted.
    """

    request: Request
    state: str
    reason: str
    to_train: tuple[str, ...] | None
    trains: bool
    work: Work
    rate: Rate | None

    @property
    def seconds(self) -> float | None:
        """How long it would take where the rate was measured; None where it is finished, or can't be counted."""
        total = self.work.total(with_teachers=self.trains)
        return None if self.rate is None or total is None or self.state == FINISHED else total * self.rate.seconds


def estimate(order: Order) -> list[Cost]:
    """Return every run of an order once, in the table's order; none is run, and nothing fetched.

    Raises:
        DirePlugError: a recipe is faulty.
    """
    plans = [plan_run(request, dry=True) for request in runs_of(order)]
    states = _states(plans)
    costs, counted = [], set()
    for planned in plans:
        state, reason, to_train = states[planned.request]
        networks = _networks(planned)
        trains = to_train != () and networks not in counted
        counted.add(networks)
        work = count_work(planned)
        rate = None if work.recover is None else find_rate(planned)
        costs.append(Cost(planned.request, state, reason, to_train, trains, work, rate))
    return costs


def runs_of(order: Order) -> list[Request]:
    """Return the requests of an order's runs, each once; a timing and a set from outside ask for none."""
    found: dict[Request, None] = {}
    for cell in order.cells:
        if cell.place.set is None and cell.place.read != "seconds" and not _unprinted(order, cell):
            found |= dict.fromkeys(_requests(order, cell))
    return list(found)


def _unprinted(order: Order, cell: Cell) -> bool:
    return order.target.draw is None and cell.figure == NOT_PRINTED


def _requests(order: Order, cell: Cell) -> list[Request]:
    """Return the runs of one cell: of all seeds, and of every combination that Table 14 is normalised over."""
    try:
        request = order.request(cell)
    except DirePlugError:
        return []  # the scale leaves it out
    seeds = range(request.seed, request.seed + order.seeds)
    if cell.place.components:
        return [setting.of(request, seed=seed) for setting in component_settings() for seed in seeds]
    return [same_but_arm(request, request.arm, seed) for seed in seeds]


def _networks(planned: Run) -> str:
    """Return what tells the networks of one run from those of another."""
    recipe = planned.resolved.recipe
    return digest([recipe.dataset.model_dump(), recipe.squeeze.model_dump(), recipe.recover.script])


def _states(plans: Sequence[Run]) -> dict[Request, _State]:
    """Return how far each run is; each dataset is loaded once, and one is held at a time."""
    groups = groupby(sorted(plans, key=_data), key=_data)
    return {request: state for _, group in groups for request, state in _states_of(list(group)).items()}


def _states_of(runs: Sequence[Run]) -> dict[Request, _State]:
    """Return how far runs of one dataset are."""
    try:
        dataset = read_data(replace(runs[0], request=replace(runs[0].request, offline=True)))
    except DirePlugError as error:
        return {planned.request: (ABSENT, one_line(str(error)), None) for planned in runs}
    return {planned.request: _state(planned, dataset) for planned in runs}


def _data(planned: Run) -> str:
    """Return what tells the images of one run from those of another."""
    recipe = planned.resolved.recipe
    return digest([recipe.dataset.model_dump(), recipe.evaluate.judge, str(planned.request.data_root)])


def _state(planned: Run, dataset: Dataset) -> _State:
    try:
        check_sizes(planned.resolved, dataset.size)
        loaded = replace(planned, data=dataset)
        state = run_folder(loaded, list(name_artefacts(loaded).values())).state()
    except DirePlugError as error:
        return ABSENT, one_line(str(error)), None
    to_train = tuple(missing_networks(loaded))
    if not planned.ready:
        return ABSENT, absence(planned.adapter), to_train
    return NEW if state == "new" else state, "", to_train


def left_out(order: Order) -> list[str]:
    """Return what the table takes beside its runs, which isn't estimated."""
    places = [cell.place for cell in order.cells]
    parts = {
        "training of the other students": any(place.student for place in places),
        "embeddings of another network": any(place.embedding for place in places),
        "the timing, which runs by itself": any(place.read == "seconds" for place in places),
        "measuring the set from outside": any(place.set for place in places),
    }
    names = [name for name, there in parts.items() if there]
    return [f"not estimated: {', '.join(names)}"] if names else []


def describe(costs: Sequence[Cost]) -> list[str]:
    """Return what one must know to read the estimates."""
    rates = list(dict.fromkeys(cost.rate for cost in costs if cost.rate is not None))
    lines = [
        "disk: images as files (uncompressed, an upper bound) and as tensors, stored labels, the networks in the loop; "
        "the embeddings of real images come on top",
        "memory: what the backward pass keeps of the largest batch, and its network's weights, counted; the card needs "
        "more (the allocator, workspaces, real embeddings)",
    ]
    lines += [f"time by {rate.what}: {rate.measured:.3g} s on {rate.where}" for rate in rates]
    if rates:
        lines.append(
            "time is rough: the operations of convolutions and products in synthesis, students and missing networks "
            "(in the first run that needs them), as if each took equally long; what a script does beside them isn't "
            "in it, and another machine, a GPU above all, takes another time"
        )
    if any(cost.rate is None for cost in costs):
        lines.append("no time: the loop trains networks itself, which isn't counted")
    return lines


# The table of `--dry-run`.


NONE = "–"
UNITS = ("B", "kB", "MB", "GB", "TB")


def show_costs(order: Order, costs: Sequence[Cost]) -> RenderableType:
    """Return a line a run: its state, and time, disk and memory as estimated."""
    table = Table("run")
    table.add_prose("state", "networks to train")
    table.add_numbers("steps", "time ≈", "disk ≈", "memory ≥")
    reasons = list(dict.fromkeys(cost.reason for cost in costs if cost.reason))
    for cost in costs:
        table.add_row(*_row(cost, reasons))
    heading = Text(heading_of(order), style="bold")
    if not costs:
        return Group(heading, *map(Text, ("  no run is needed", *(f"  {line}" for line in left_out(order)))))
    lines = [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    lines += [*_totals(costs), *left_out(order), *describe(costs)]
    return Group(heading, table, *(Text(f"  {line}", style="dim") for line in lines))


def _row(cost: Cost, reasons: Sequence[str]) -> list[str]:
    request = cost.request
    preset = f" ({request.preset})" if request.preset else ""
    name = f"{request.method} {request.recipe}{preset}, {request.arm}"
    name += "" if request.ipc is None else f", IPC {request.ipc}"
    name += "".join(f", {setting}" for setting in request.settings if setting.startswith("regularizers."))
    networks = "?" if cost.to_train is None else ", ".join(cost.to_train) or "none"
    return [
        f"{name}, seed {request.seed}",
        f"{cost.state} [{reasons.index(cost.reason) + 1}]" if cost.reason else cost.state,
        networks,
        f"{cost.work.steps:,}",
        NONE if cost.seconds is None else duration(cost.seconds),
        size(cost.work.disk),
        size(cost.work.memory),
    ]


def _totals(costs: Sequence[Cost]) -> list[str]:
    """Return how many runs are left, and their time and disk together."""
    left = [cost for cost in costs if cost.state != FINISHED]
    known = [cost.seconds for cost in left if cost.seconds is not None]
    text = f"{len(costs)} runs, {len(left)} of them to be run: disk ≈ {size(sum(cost.work.disk for cost in left))}"
    return [text + (f", time ≈ {duration(sum(known))} for the {len(known)} that can be estimated" if known else "")]


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits, to two digits."""
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.2g} {name}" if seconds / length < 100 else f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Return bytes in the unit that suits."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {UNITS[-1]}"
