"""Print a dry run: the resolved recipe with the source of each value, upstream's command line, the plan."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.files import format_bytes
from dire_plug.recipe.loading import flatten
from dire_plug.tables import Table
from dire_plug.types import LoopInputs

if TYPE_CHECKING:
    from dire_plug.pipeline import Request, Run
    from dire_plug.pipeline.unit_costs import UnitCost
    from dire_plug.pipeline.work_units import Unit

REAL_PLANS = {
    "random": "real images are drawn from the training set",
    "herding": "real images are chosen from the training set by herding in the teacher's embeddings",
    "k-center": "real images are chosen from the training set by the k-center rule in the teacher's embeddings",
    "k-means": "the real images nearest to the centres of k-means in the teacher's embeddings are chosen",
    "full": "students learn from every training image, in about as many steps as from IPC images per class",
}
"""Arm of real images → how they are chosen."""
HIDDEN = ("arms", "presets", "by_ipc", "sources", "paper")


def show_plan(planned: Run) -> None:
    """Print what a run would do, without data or upstream's code."""
    from dire_plug.pipeline.request import absence, count_classes
    from dire_plug.pipeline.run import say_accelerated

    request, resolved = planned.request, planned.resolved
    recipe = resolved.recipe
    ui.show(f"{planned.adapter.title}: recipe {planned.source.stem}, arm {request.arm}, seed {request.seed}")
    ui.show(f"engine: {planned.engine}{'' if planned.ready else f'; {absence(planned.adapter)}'}")
    say_accelerated(planned)
    table = Table("key", title="recipe")
    table.add_prose("value", "from", "source")
    content = recipe.model_dump(mode="json", exclude=set(HIDDEN)) | {"regularizers": resolved.regularizers}
    for key, value in flatten(content).items():
        # an origin is "layer; source"
        layer, _, source = resolved.origin.get(key, "default").partition("; ")
        table.add_row(key, _short(value), layer, source)
    ui.show(table)
    if planned.engine == "none":
        ui.show(f"plan: {REAL_PLANS[request.arm]}; nothing is synthesized")
        return
    adapter = planned.adapter
    classes, size = count_classes(recipe), adapter.scripts[recipe.recover.script].size
    run = Path("RUN")
    inputs = LoopInputs(
        recipe=recipe,
        classes=classes,
        size=recipe.dataset.size or size,
        seed=request.seed,
        folder=run / "inputs",
        images=run / "images",
    )
    for preparation in adapter.preparations(inputs):
        ui.show(f"prepared by upstream's own code: {preparation.name}; {preparation.estimate}")
        inputs = replace(inputs, prepared={**inputs.prepared, preparation.name: Path("STORE") / preparation.name})
    invocation = adapter.invocation(inputs)
    arguments = [*invocation.arguments, *adapter.pass_arguments(0)]
    ui.show(f"upstream's command line, pass 0 (shims: {', '.join(invocation.shims)}):")
    ui.show(f"  python {shlex.quote(invocation.script)} {shlex.join(arguments)}")
    plan = adapter.plan(recipe.recover, classes=classes, ipc=recipe.ipc)
    ui.show(f"plan: {plan.passes} passes × {plan.slots_per_pass} batches × {adapter.steps(recipe.recover)} steps")
    ui.show(f"store: {home.store()}")


def show_units(requests: Callable[[], Sequence[Request]], *, card: str | None, device: str) -> None:
    """Print the units of work that the store lacks for some runs, what each waits for, and what it costs.

    Where the data aren't here, they are those of a dataset of the published size, as if the store had nothing.

    Args:
        card: a GPU of `rates.CARDS`; None takes the rate of `device` on this machine.
    """
    from dire_plug.pipeline.unit_costs import plan_costs

    def plan() -> list[tuple[Sequence[Unit], Mapping[str, UnitCost]]]:
        runs = plan_costs(requests())
        for reason in dict.fromkeys(run.absent for run in runs if run.absent):
            if not any(run.units for run in runs if run.absent == reason):
                raise DirePlugError(reason)
            ui.show(f"can't run here, but is planned: {reason}")
        return [(run.units, run.costs) for run in runs]

    show_planned(plan, card=card, device=device)


def show_planned(
    plan: Callable[[], Sequence[tuple[Sequence[Unit], Mapping[str, UnitCost]]]], *, card: str | None, device: str
) -> None:
    """Print units of work, of one or of several plans, what each waits for, and what it costs."""
    from dire_plug.pipeline.rates import find_rate
    from dire_plug.pipeline.unit_costs import add_up, too_large
    from dire_plug.pipeline.work_units import once, waits_for

    try:
        plans = plan()
    except DirePlugError as error:
        ui.show(f"units of work: not known yet: {error}")
        return
    units = once(unit for own, _ in plans for unit in own)
    costs = {name: cost for _, own in plans for name, cost in own.items()}
    by_name = {unit.name: unit for unit in units}
    needs = waits_for(units)
    if not units:
        ui.show("units of work: none; the store has all of it")
        return
    rate = find_rate(card, device=device)
    table = Table("unit of work", title=f"{len(units)} units of work that the store lacks")
    table.add_prose("waits for")
    table.add_numbers("time ≈", "memory ≥", "disk ≈")
    for titles, waits, names in _fold(units, needs, by_name):
        cost = add_up(costs[name] for name in names)
        figures = rate.time(cost.operations), format_bytes(cost.memory), format_bytes(cost.disk)
        table.add_row(titles, ", ".join(waits) or "nothing", *figures)
    ui.show(table)
    whole = add_up(costs[name] for name in by_name)
    ui.show(
        f"together {whole.operations / 1e12:,.3g} TFLOP, time ≈ {rate.time(whole.operations)}, "
        f"disk ≈ {format_bytes(whole.disk)}"
    )
    for line in (rate.describe(), *too_large(units, costs, rate)):
        ui.show(line)


def _fold(
    units: Sequence[Unit], needs: Mapping[str, set[str]], by_name: Mapping[str, Unit]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield a row for each unit, or for the passes of one synthesis: its title, what it waits for, and the names.

    What a unit waits for because another one that it waits for does isn't repeated.
    """

    several = len({unit.of for unit in units}) > 1

    def title(unit: Unit) -> str:
        run, found, part = (unit.label if several else unit.title).partition(": pass ")
        return f"{run}: {'batches' if ' batch ' in part else 'passes'}" if found else run

    rows: dict[str, tuple[list[str], list[str]]] = {}
    for unit in units:
        behind = {other for name in needs[unit.name] for other in needs[name]}
        waits = [title(by_name[name]) for name in sorted(needs[unit.name] - behind)]
        names, known = rows.get(title(unit), ([], []))
        rows[title(unit)] = [*names, unit.name], list(dict.fromkeys([*known, *waits]))
    for name, (names, waits) in rows.items():
        yield f"{name} ({len(names)})" if name.endswith((": passes", ": batches")) else name, waits, names


def _short(value: Any) -> str:
    return "–" if value is None or value == {} else str(value)
