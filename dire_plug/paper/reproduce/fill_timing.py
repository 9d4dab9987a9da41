"""Cells of Table 15: the seconds of a synthesis, all rows timed in turns on one machine."""

from __future__ import annotations

from dataclasses import asdict, replace

from dire_plug.paper.reproduce.fill_runs import Runs
from dire_plug.paper.reproduce.paper_tables import Cell
from dire_plug.paper.reproduce.request import Answer, Order, attempt
from dire_plug.paper.timing import Timing, TimingRequest, time_arms
from dire_plug.pipeline import Request, plan_run
from dire_plug.results.statistics import Summary, summarise

STEPS = {"paper": 30, "smoke": 10}
"""Steps of each row that count."""
SMOKE_IPC = 10


def fill_from_timing(cell: Cell, runs: Runs) -> Answer:
    """Return the seconds of a cell's synthesis.

    At the paper's scale whole syntheses are run, one a seed; at the smoke scale the whole is extrapolated from steps.

    Raises:
        DirePlugError: this row can't be run here, or the timing failed.
    """
    order = runs.order
    plan_run(_request(order, cell))
    found: Timing = runs.once("timing", lambda: _time(order))
    number = [side.name for side in found.sides].index(_name(cell))
    side = found.sides[number]
    whole = [took.wall for took in side.whole]
    summary = summarise(whole) or Summary(found.whole(number).value, None, 1)
    more = {
        "steps counted": found.rounds,
        "step, seconds": asdict(found.step(number, "wall")),
        "ratio of steps to the first row": asdict(found.ratio(number, "wall")),
        "whole, extrapolated": asdict(found.whole(number)),
        "memory, bytes": side.gpu_memory or side.memory,
        "engine": found.engine,
        "hardware": found.about["hardware"],
    }
    return Answer(summary, tuple(whole), more=more)


def _time(order: Order) -> Timing:
    """Time every row of the order that can be run here."""
    here = [cell for cell in order.cells if not attempt(lambda cell=cell: _check(order, cell)).reason]  # type: ignore[misc]
    how = TimingRequest(
        _request(order, here[0]), steps=STEPS[order.scale], whole=order.seeds if order.scale == "paper" else 0
    )
    return time_arms([_name(cell) for cell in here], how)


def _check(order: Order, cell: Cell) -> Answer:
    plan_run(_request(order, cell))
    return Answer()


def _request(order: Order, cell: Cell) -> Request:
    """Return the options of a row: all rows have the same recipe's name and IPC."""
    place = cell.place
    if order.scale == "smoke":
        return replace(order.base, method=place.method, recipe="quick", arm=place.arm, ipc=SMOKE_IPC)
    return replace(order.base, method=place.method, recipe=place.recipe, arm=place.arm, ipc=place.ipc)


def _name(cell: Cell) -> str:
    """Return a row as a timing names it."""
    place = cell.place
    return place.method if place.arm == "baseline" else f"{place.method}+{place.arm}"
