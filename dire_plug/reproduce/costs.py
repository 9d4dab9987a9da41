"""`--dry-run`: which runs an order takes, how far each is, and what it would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from dire_plug.ablate.components import component_settings
from dire_plug.data import Dataset
from dire_plug.errors import DirePlugError
from dire_plug.files import digest
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import absence, check_sizes, read_data, same_but_arm
from dire_plug.pipeline.run import name_artefacts
from dire_plug.reproduce.order import Order, one_line
from dire_plug.reproduce.printed import NOT_PRINTED, Cell
from dire_plug.reproduce.rates import Rate, find_rate
from dire_plug.reproduce.work import Work, count_work
from dire_plug.stages.squeeze import missing_networks
from dire_plug.store.runs import run_folder

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
