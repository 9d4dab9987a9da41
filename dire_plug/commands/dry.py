"""Print a dry run: the resolved recipe with the source of each value, upstream's command line, the plan."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from dire_plug import home, ui
from dire_plug.errors import DirePlugError, count_of
from dire_plug.files import format_bytes
from dire_plug.recipe.loading import flatten
from dire_plug.tables import Table
from dire_plug.types import LoopInputs

if TYPE_CHECKING:
    from dire_plug.pipeline import Request, Run
    from dire_plug.store.units import Unit
    from dire_plug.types.artefact import Cost

REAL_PLANS = {
    "random": "real images are drawn from the training set",
    "rded": "patches of real images that the teacher finds easiest are put together by RDED's rule",
    "herding": "real images are chosen from the training set by herding in the teacher's embeddings",
    "k-center": "real images are chosen from the training set by the k-center rule in the teacher's embeddings",
    "k-means": "the real images nearest to the centres of k-means in the teacher's embeddings are chosen",
    "full": "students learn from every training image, in about as many steps as from IPC images per class",
}
"""Arm of real images → how they are chosen."""
HIDDEN = ("arms", "presets", "by_ipc", "sources", "paper")


def show_dry(
    planned: Sequence[Run],
    requests: Callable[[], Sequence[Request]],
    *,
    card: str | None,
    device: str,
    beside: Run | None = None,
    first: Sequence[RenderableType] = (),
    more: Sequence[RenderableType] = (),
    more_data: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Print what runs would do, without data or upstream's code: first what differs between them, then the rest.

    Args:
        beside: what one run is compared with; None: nothing, or the others.
        first, more: what a command also plans, as shown, above all and below; `more_data`: the same by keys of JSON.
        requests: those of the runs, and of their other seeds.
        card: a GPU of `rates.CARDS`; None takes the rate of `device` on this machine.
    """
    from dire_plug.pipeline.request import absence
    from dire_plug.pipeline.run import say_accelerated

    values = [_read_values(one) for one in planned]
    parts: list[RenderableType] = [*first]
    for one in planned:
        parts.append(f"{one.adapter.title}: recipe {one.recipe.name}, arm {one.arm}, seed {one.seed}")
        parts.append(f"engine: {one.engine}{'' if one.ready else f'; {absence(one.adapter)}'}")
        say_accelerated(one)
    keys = list(dict.fromkeys(key for one in values for key in one))
    shown = [_show_values(of_arm) for of_arm in values]
    differing = [key for key in keys if len({of_arm.get(key) for of_arm in shown}) > 1]
    if differing:
        arms = {one.arm: of_arm for one, of_arm in zip(planned, shown, strict=True)}
        parts.append(_differences(arms, differing, title="what differs between the arms"))
    if beside is not None:
        arms = {beside.arm: _show_values(_read_values(beside)), planned[0].arm: shown[0]}
        either = dict.fromkeys(key for of_arm in arms.values() for key in of_arm)
        if apart := [key for key in either if arms[beside.arm].get(key) != shown[0].get(key)]:
            parts.append(_differences(arms, apart, title=f"what differs from {beside.arm}"))
    same = "" if len(planned) == 1 else ", the same in all arms"
    table = Table("key", title=f"recipe{same}")
    table.add_prose("value", "from", "source")
    for key in keys:
        if key not in differing:
            table.add_row(key, shown[0][key], *values[0][key][1:])
    parts.append(table)
    for one in planned:
        arm = "" if len(planned) == 1 else f"{one.arm}: "
        parts += [f"{arm}{line}" for line in _loop_lines(one)]
    parts += more
    units, units_json = describe_units(requests, card=card, device=device)
    data = {
        "arms": {
            one.arm: {
                "method": one.adapter.name,
                "recipe": one.recipe.name,
                "engine": one.engine,
                "seed": one.seed,
                "values": {
                    key: {"value": v, "from": layer, "source": source} for key, (v, layer, source) in of.items()
                },
                "loop": _loop_lines(one),
            }
            for one, of in zip(planned, values, strict=True)
        },
        "differing": differing,
        **more_data,
        **units_json,
    }
    ui.result(*parts, *units, f"store: {home.store()}", data=lambda: data)


def _read_values(planned: Run) -> dict[str, tuple[Any, str, str]]:
    """Return dotted key → value, layer and source of a run's resolved recipe."""
    resolved, found = planned.resolved, {}
    content = resolved.recipe.model_dump(mode="json", exclude=set(HIDDEN)) | {"regularizers": resolved.regularizers}
    for key, value in flatten(content).items():
        # an origin is "layer; source"
        layer, _, source = resolved.origin.get(key, "default").partition("; ")
        found[key] = value, layer, source
    return found


def _show_values(values: Mapping[str, tuple[Any, str, str]]) -> dict[str, str]:
    return {key: _short(value) for key, (value, _, _) in values.items()}


def _differences(shown: Mapping[str, Mapping[str, str]], keys: Sequence[str], *, title: str) -> Table:
    table = Table("key", title=title)
    table.add_prose(*shown)
    for key in keys:
        table.add_row(key, *(of_arm.get(key, "") for of_arm in shown.values()))
    return table


def _loop_lines(planned: Run) -> list[str]:
    """Return what the loop of a run would do: its preparations, upstream's command line where that runs, the plan."""
    from dire_plug.pipeline.request import count_classes

    if planned.engine == "none":
        return [f"plan: {REAL_PLANS[planned.arm]}; nothing is synthesized"]
    recipe, adapter = planned.recipe, planned.adapter
    classes, size = count_classes(recipe), adapter.scripts[recipe.recover.script].size
    run, lines = Path("RUN"), []
    inputs = LoopInputs(
        recipe=recipe,
        classes=classes,
        size=recipe.dataset.size or size,
        seed=planned.seed,
        folder=run / "inputs",
        images=run / "images",
    )
    for preparation in adapter.preparations(inputs):
        lines.append(f"prepared by upstream's own code: {preparation.name}; {preparation.estimate}")
        inputs = replace(inputs, prepared={**inputs.prepared, preparation.name: Path("STORE") / preparation.name})
    if planned.engine == "upstream":
        invocation = adapter.invocation(inputs)
        arguments = [*invocation.arguments, *adapter.pass_arguments(0, recipe.recover.script)]
        lines.append(f"upstream's command line, pass 0 (shims: {', '.join(invocation.shims)}):")
        lines.append(f"  python {shlex.quote(invocation.script)} {shlex.join(arguments)}")
    plan = adapter.plan(recipe.recover, classes=classes, ipc=recipe.ipc)
    counts = {"pass": plan.passes, "batch": plan.slots_per_pass, "step": adapter.steps(recipe.recover)}
    lines.append(f"plan: {' × '.join(count_of(number, what) for what, number in counts.items())}")
    return lines


def describe_units(
    requests: Callable[[], Sequence[Request]], *, card: str | None, device: str
) -> tuple[list[RenderableType], dict[str, Any]]:
    """Return the units of work that the store lacks for some runs, what each waits for and costs; as shown, as data.

    Where the data aren't here, they are those of a dataset of the published size, as if the store had nothing.
    """
    from dire_plug.pipeline.unit_costs import plan_costs

    absent: list[RenderableType] = []

    def plan() -> list[tuple[Sequence[Unit], Mapping[str, Cost]]]:
        runs = plan_costs(requests())
        for reason in dict.fromkeys(run.absent for run in runs if run.absent):
            if not any(run.units for run in runs if run.absent == reason):
                raise DirePlugError(reason)
            absent.append(f"can't run here, but is planned: {reason}")
        return [(run.units, run.costs) for run in runs]

    parts, data = describe_planned(plan, card=card, device=device)
    return absent + parts, data


def show_planned(
    plan: Callable[[], Sequence[tuple[Sequence[Unit], Mapping[str, Cost]]]], *, card: str | None, device: str
) -> None:
    """Print units of work, of one or of several plans, what each waits for, and what it costs."""
    parts, data = describe_planned(plan, card=card, device=device)
    ui.result(*parts, data=lambda: data)


def describe_planned(
    plan: Callable[[], Sequence[tuple[Sequence[Unit], Mapping[str, Cost]]]], *, card: str | None, device: str
) -> tuple[list[RenderableType], dict[str, Any]]:
    """Return units of work, of one or of several plans, what each waits for, and what it costs; as shown, as data."""
    from dire_plug.pipeline.rates import find_rate
    from dire_plug.pipeline.unit_costs import too_large
    from dire_plug.store.units import once, waits_for
    from dire_plug.types.artefact import add_up

    try:
        plans = plan()
    except DirePlugError as error:
        return [f"units of work: not known yet: {error}"], {"units": None, "why": str(error)}
    units = once(unit for own, _ in plans for unit in own)
    costs = {name: cost for _, own in plans for name, cost in own.items()}
    by_name = {unit.name: unit for unit in units}
    needs = waits_for(units)
    if not units:
        return ["units of work: none; the store has all of it"], {"units": []}
    rate = find_rate(card, device=device)
    title = f"{count_of(len(units), 'unit')} of work that the store lacks"
    several = len({unit.of for unit in units}) > 1
    tables: dict[str, Table] = {}
    for of, titles, waits, names in _fold(units, needs, by_name):
        if of not in tables:
            tables[of] = Table("unit of work", title=of if several else title)
            tables[of].add_prose("waits for")
            tables[of].add_numbers("time ≈", "memory ≥", "disk ≈")
        cost = add_up(costs[name] for name in names)
        figures = rate.time(cost.operations), format_bytes(cost.memory), format_bytes(cost.disk)
        tables[of].add_row(titles, ", ".join(waits) or "nothing", *figures)
    whole = add_up(costs[name] for name in by_name)
    together = (
        f"together {whole.operations / 1e12:,.3g} TFLOP, time ≈ {rate.time(whole.operations)}, "
        f"disk ≈ {format_bytes(whole.disk)}"
    )
    notes = [rate.describe(), *too_large(units, costs, rate)]
    data = {
        "units": [
            {"name": name, "title": unit.label, "waits_for": sorted(needs[name]), **asdict(costs[name])}
            for name, unit in by_name.items()
        ],
        "operations": whole.operations,
        "operations_per_second": rate.operations,
        "notes": notes,
    }
    return [*([f"{title}:"] if several else []), *tables.values(), together, *notes], data


def _fold(
    units: Sequence[Unit], needs: Mapping[str, set[str]], by_name: Mapping[str, Unit]
) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield a row for each unit, the passes of one synthesis, or units of one title.

    It has what the unit is of, its title, what it waits for, and names. What a unit waits for because another one that
    it waits for does isn't repeated.
    """

    def title(unit: Unit) -> str:
        run, found, part = unit.title.partition(": pass ")
        return f"{run}: {'batches' if ' batch ' in part else 'passes'}" if found else run

    rows: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for unit in units:
        behind = {other for name in needs[unit.name] for other in needs[name]}
        needed = [by_name[name] for name in sorted(needs[unit.name] - behind)]
        # only what is of something else is said to be of that
        waits = [title(one) if one.of == unit.of else f"{one.of}: {title(one)}" for one in needed]
        names, known = rows.get((unit.of, title(unit)), ([], []))
        rows[unit.of, title(unit)] = [*names, unit.name], list(dict.fromkeys([*known, *waits]))
    for (of, name), (names, waits) in rows.items():
        folded = len(names) > 1 or name.endswith((": passes", ": batches"))
        yield of, f"{name} ({len(names)})" if folded else name, waits, names


def _short(value: Any) -> str:
    return "–" if value is None or value == {} else str(value)
