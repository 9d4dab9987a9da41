"""Time several sides: their processes take turns, so that each step of one stands beside a step of the others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.paper.timing.children import Took, run_side, run_whole
from dire_plug.paper.timing.estimates import SideTiming, Timing
from dire_plug.paper.timing.sides import SEED, Side, check_engines, plan_side, set_up
from dire_plug.store.provenance import code, hardware, versions
from dire_plug.store.runs import Request
from dire_plug.upstream.interleave import Round, Starts, counted, interleave

WARM_UP = 1
"""The steps of each process that aren't counted."""


@dataclass(frozen=True)
class TimingRequest:
    """How sides are timed.

    Attributes:
        request: the options of a run: recipe, ipc, settings, device, engine, accelerate …; method, arm and seed are
            unused.
        steps: those of each process that count, where none begins a slot or a network.
        rounds: how often the processes are started anew.
        whole: how many syntheses of each side are also run from beginning to end.
        real: real embeddings of each class, and generated images.
    """

    request: Request = field(default_factory=lambda: Request(""))
    steps: int = 10
    rounds: int = 1
    whole: int = 0
    real: int = 500


def time_arms(names: Sequence[str], how: TimingRequest) -> Timing:
    """Time the sides METHOD or METHOD+ARM; the first one is what the others are compared with.

    Raises:
        DirePlugError: a side is unknown or twice, engines differ, a child failed, or no step counts.
    """
    if len(set(names)) < len(names) or not names:
        raise DirePlugError(f"sides: {', '.join(names) or 'none'}; name at least one, and each once")
    planned = {name: plan_side(name, how.request) for name in names}
    engine = check_engines(planned)
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for number, (name, one) in enumerate(planned.items()):
            ui.say(f"{name}: recipe {one.source.stem}, arm {one.request.arm}, IPC {one.resolved.recipe.ipc}")
            sides.append(set_up(name, one, Path(folder) / f"side-{number}", real=how.real))
        played = [_interleave(sides, how.steps + WARM_UP) for _ in range(how.rounds)]
        wholes: dict[str, list[Took]] = {side.name: [] for side in sides}
        for number in range(how.whole):
            for side in sides:
                ui.say(f"{side.name}: whole synthesis {number + 1} of {how.whole}, {side.steps:,} steps")
                wholes[side.name].append(run_whole(side))
        found = tuple(_sum_up(side, played, wholes[side.name]) for side in sides)
        return Timing(found, engine, _about(sides, how))


def _interleave(sides: Sequence[Side], rounds: int) -> tuple[Starts, list[Round]]:
    """Let the processes of all sides do so many steps in turns."""
    for side in sides:
        if side.steps < rounds:
            raise DirePlugError(f"{side.name}: its synthesis has {side.steps} steps, {rounds} were asked for")
    runs = {side.name: partial(_run_in_turns, side) for side in sides}
    with ui.progress(f"steps of {', '.join(runs)}", rounds) as advance:
        return interleave(runs, rounds, on_round=advance)


def _run_in_turns(side: Side, address: str) -> None:
    run_side(side, {"address": address, "arm": side.name})


def _sum_up(side: Side, played: Sequence[tuple[Starts, list[Round]]], wholes: Sequence[Took]) -> SideTiming:
    """Return what was read of one side.

    Raises:
        DirePlugError: every step began a slot or a network.
    """
    readings = [one[side.name] for _, rounds in played for one in counted(rounds, WARM_UP)]
    if not readings:
        raise DirePlugError(f"{side.name}: no step counts, since each begins a slot or a network; take more --steps")
    firsts = [rounds[0][side.name] for _, rounds in played]
    lasts = [rounds[-1][side.name] for _, rounds in played]
    starts = [starts[side.name] for starts, _ in played]
    on_gpu = [one.gpu_memory for one in lasts if one.gpu_memory is not None]
    return SideTiming(
        name=side.name,
        images=readings[0].images,
        steps=side.steps,
        passes=side.run.plan.passes,
        wall=tuple(one.wall for one in readings),
        cpu=tuple(one.cpu for one in readings),
        start=tuple(seconds for seconds, _ in starts),
        first=tuple(one.wall for one in firsts),
        memory_before=max(memory for _, memory in starts),
        memory=max(one.memory for one in lasts),
        gpu_memory=max(on_gpu, default=None),
        whole=tuple(wholes),
    )


def _about(sides: Sequence[Side], how: TimingRequest) -> dict[str, Any]:
    run = sides[0].run
    return {
        "recipe": how.request.recipe,
        "recipes": {side.name: side.run.recipe.name for side in sides},
        "dataset": {"name": run.dataset.name, "classes": run.classes, "size": run.dataset.size},
        "ipc": {side.name: side.run.recipe.ipc for side in sides},
        "settings": list(how.request.settings),
        "accelerate": how.request.accelerate,
        "real_per_class": how.real,
        "warm_up": WARM_UP,
        "processes": how.rounds,
        "seed": SEED,
        "hardware": hardware(str(run.device)),
        "versions": versions(),
        "code": asdict(code()),
    }
