"""A timing as it is shown in the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from dire_plug.paper.timing.estimates import FEW, Interval, SideTiming, Timing
from dire_plug.tables import Table

MEBI = 2**20


def render(timing: Timing) -> RenderableType:
    """Return the tables of steps and of wholes, and what one must know to read them."""
    first = timing.sides[0].name
    about = timing.about
    title = f"time · {about['recipe']} · engine {timing.engine} · {about['hardware']['device']}"
    return Group(
        Text(title, style="bold"),
        _steps(timing, first),
        _wholes(timing, first),
        *(Text(f"  {line}", style="dim") for line in notes(timing)),
    )


def _steps(timing: Timing, first: str) -> Table:
    table = Table("side", title="one step")
    table.add_numbers("images", "ms", "processor ms", f"/ {first}, per image", "by processor", "memory")
    for at, side in enumerate(timing.sides):
        table.add_row(
            side.name,
            str(side.images),
            *(_show(timing.step(at, clock), _milliseconds) for clock in ("wall", "cpu")),
            *("" if at == 0 else _show(timing.ratio(at, clock), "{:.3f}".format) for clock in ("wall", "cpu")),
            _memory(side),
        )
    return table


def _wholes(timing: Timing, first: str) -> Table:
    ran = any(side.whole for side in timing.sides)
    table = Table("side", title="the whole synthesis")
    table.add_numbers("steps", "set-up, s", "extrapolated, s", f"/ {first}")
    table.add_numbers(*(["really run, s", "its processor, s"] if ran else []))
    for at, side in enumerate(timing.sides):
        really = [" ".join(f"{getattr(took, clock):.1f}" for took in side.whole) for clock in ("wall", "cpu")]
        table.add_row(
            side.name,
            f"{side.steps:,}",
            f"{side.set_up():.1f}",
            _show(timing.whole(at), "{:,.1f}".format),
            "" if at == 0 else _show(timing.whole_ratio(at), "{:.3f}".format),
            *(really if ran else []),
        )
    return table


def notes(timing: Timing) -> list[str]:
    """Return the lines below the tables."""
    about, n = timing.about, timing.rounds
    hardware = about["hardware"]
    counted = f"{n} step{'' if n == 1 else 's'} of each side in turns, in {about['processes']} process(es) each"
    lines = [f"median [95 % interval, bootstrapped] of n = {n}: {counted}; the first {about['warm_up']} doesn't count"]
    if n < FEW:
        lines.append(f"n = {n}: below {FEW} steps the interval says little")
    if len({side.images for side in timing.sides}) > 1:
        lines.append("sides hold different numbers of images in a step, so ratios of steps are for as many images")
    lines += [
        "extrapolated: start + passes × (first turn − step) + steps × median step; not a run from beginning to end",
        "memory: the most that the process has had resident, before its first step → after its last"
        + ("; card: the most that torch has had allocated" if any(side.gpu_memory for side in timing.sides) else ""),
        f"untrained networks, generated images, {about['real_per_class']} random real embeddings a class: "
        "a step takes as long",
        f"{hardware['card'] or hardware['processor']}, {hardware['cores']} cores, {hardware['threads']} thread(s), "
        f"torch {about['versions']['torch']}",
    ]
    return lines


def _show(interval: Interval, form: Callable[[float], str]) -> str:
    if interval.low is None or interval.high is None:
        return form(interval.value)
    return f"{form(interval.value)} [{form(interval.low)}–{form(interval.high)}]"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.{0 if seconds >= 0.1 else 1}f}"


def _memory(side: SideTiming) -> str:
    card = "" if side.gpu_memory is None else f", card {side.gpu_memory / MEBI:.0f}"
    return f"{side.memory_before / MEBI:.0f} → {side.memory / MEBI:.0f}{card} MiB"
