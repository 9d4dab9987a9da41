"""Show a timing in the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import RenderableType

from dire_plug.paper.timing.step_times import ArmTiming, Interval, Timing
from dire_plug.results.statistics import FEW
from dire_plug.tables import Table, with_notes

MEBI = 2**20


def render(timing: Timing) -> RenderableType:
    """Return the tables of steps and of wholes, with their caveats."""
    first = timing.arms[0].name
    about = timing.about
    title = f"time · {about['recipe']} · engine {timing.engine} · {about['hardware']['device']}"
    return with_notes(_steps(timing, first), _wholes(timing, first), title=title, notes=notes(timing))


def _steps(timing: Timing, first: str) -> Table:
    table = Table("arm", title="one step")
    table.add_numbers("images", "ms", "CPU ms", f"/ {first}, per image", "by CPU time", "memory")
    for at, arm in enumerate(timing.arms):
        table.add_row(
            arm.name,
            str(arm.images),
            *(_show(timing.step(at, clock), _milliseconds) for clock in ("wall", "cpu")),
            # the first arm is what the others are divided by
            *("" if at == 0 else _show(timing.ratio(at, clock), "{:.3f}".format) for clock in ("wall", "cpu")),
            _memory(arm),
        )
    return table


def _wholes(timing: Timing, first: str) -> Table:
    ran = any(arm.whole for arm in timing.arms)
    table = Table("arm", title="the whole synthesis")
    table.add_numbers("steps", "set-up, s", "extrapolated, s", f"/ {first}")
    table.add_numbers(*(["measured, s", "CPU, s"] if ran else []))
    for at, arm in enumerate(timing.arms):
        measured = [" ".join(f"{seconds[clock]:.1f}" for seconds in arm.whole) for clock in (0, 1)]
        table.add_row(
            arm.name,
            f"{arm.steps:,}",
            f"{arm.set_up():.1f}",
            _show(timing.whole(at), "{:,.1f}".format),
            "" if at == 0 else _show(timing.whole_ratio(at), "{:.3f}".format),
            *(measured if ran else []),
        )
    return table


def notes(timing: Timing) -> list[str]:
    """Return the lines below the tables."""
    about, n = timing.about, timing.rounds
    hardware = about["hardware"]
    counted = f"{n} step{'' if n == 1 else 's'} of each arm, interleaved, in {about['processes']} process(es) each"
    lines = [f"median [95 % interval, bootstrapped] of n = {n}: {counted}; the first {about['warm_up']} doesn't count"]
    if n < FEW:
        lines.append(f"n = {n}: below {FEW} steps the interval says little")
    # such as control, which regroups, beside the baseline
    if len({arm.images for arm in timing.arms}) > 1:
        lines.append("arms have different numbers of images in a step, so ratios of steps are per image")
    lines += [
        "extrapolated: start + passes × (first step − step) + steps × median step; not a run from beginning to end",
        "memory: peak resident memory of the process, before its first step → after its last"
        + ("; GPU: peak memory allocated by torch" if any(arm.gpu_memory for arm in timing.arms) else ""),
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


def _memory(arm: ArmTiming) -> str:
    gpu = "" if arm.gpu_memory is None else f", GPU {arm.gpu_memory / MEBI:.0f}"
    return f"{arm.memory_before / MEBI:.0f} → {arm.memory / MEBI:.0f}{gpu} MiB"
