"""The table of `--dry-run`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from dire_plug.reproduce.costs import FINISHED, Cost, describe, left_out
from dire_plug.reproduce.order import Order
from dire_plug.reproduce.show import heading_of
from dire_plug.tables import Table

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
