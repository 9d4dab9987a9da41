"""Compare arms: check that they can be compared, and run what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.executors.dispatch import Runner
from dire_plug.pipeline import plan_run
from dire_plug.pipeline.request import ladder_of, same_but_arm
from dire_plug.recipe import counted
from dire_plug.results.comparison import Comparison, add_control, split_recipes
from dire_plug.results.ladder import Step, find_steps, order_arms
from dire_plug.store.runs import FinishedRun, Request, Run


def compare(
    request: Request,
    *,
    arms: Sequence[str],
    seeds: int,
    ladder: bool = False,
    runner: Runner | None = None,
    steps: ui.Steps | None = None,
    name: str = "",
) -> Comparison:
    """Run every arm with every seed (finished runs are reused) and return them.

    Args:
        ladder: compare each arm from baseline to `dire` with the one before, too.
        runner: runs them; None does so in this process.
        steps: of several comparisons, each of which says its `name`; None: of this one alone.

    Raises:
        DetachedError: jobs work for the runs, and the command doesn't wait for them.
        DirePlugError: an unknown arm; arms that would mix engines or protocols.
    """
    numbers = tuple(range(request.seed, request.seed + seeds))
    planned, same, engine, request = _plan(request, arms)
    control, controlled, uncontrolled = split_by_control(planned)
    runs: dict[str, list[FinishedRun]] = {}
    runner = runner or Runner()
    # before the first arm is made: it raises for what the last one would lack
    runner.prepare([same_but_arm(request, arm, seed) for seed in numbers for arm in arms if arm not in same])
    steps = steps or ui.Steps(len(numbers) * sum(arm not in same for arm in arms))
    for arm in arms:
        if arm in same:
            continue
        runs[arm] = []
        for seed in numbers:
            steps.begin(f"{name}{': ' if name else ''}{arm}, seed {seed}")
            runs[arm].append(runner.run(same_but_arm(request, arm, seed)))
            steps.end(counts=not runs[arm][-1].reused)
    # after the loop, since `same` names arms that ran
    for arm, other in same.items():
        runs[arm] = runs[other]
    check_teachers(runs)
    runs, stand_in = add_control({arm: runs[arm] for arm in arms}, control)
    first = next(iter(planned.values()))
    return Comparison(
        method=request.method,
        recipe=first.recipe.name,
        ipc=first.resolved.recipe.ipc,
        seeds=numbers,
        engine=next((one.engine_shown for one in planned.values() if one.engine != "none"), engine),
        runs=runs,
        same=same | stand_in,
        controlled=controlled,
        uncontrolled=uncontrolled,
        changes=_changes(request),
        steps=plan_steps(planned) if ladder else (),
    )


def with_ladder(request: Request, arms: Sequence[str]) -> list[str]:
    """Return the arms of a request's ladder, and those of some others that don't stand on it.

    Raises:
        DirePlugError: the recipe has no arm `dire`.
    """
    return list(dict.fromkeys([*ladder_of(request), *arms]))


def plan_steps(planned: Mapping[str, Run]) -> tuple[Step, ...]:
    """Return the steps of the ladder that planned arms stand on."""
    return find_steps({arm: planned[arm].recipe.model_dump(mode="json") for arm in order_arms(planned)})


def comparison_requests(request: Request, *, arms: Sequence[str], seeds: int) -> list[Request]:
    """Return the requests of a comparison's runs: each arm that isn't another one under a second name, by seed.

    Raises:
        DirePlugError: see `compare`.
    """
    _, same, _, request = _plan(request, arms)
    numbers = range(request.seed, request.seed + seeds)
    return [same_but_arm(request, arm, seed) for seed in numbers for arm in arms if arm not in same]


def _plan(request: Request, arms: Sequence[str]) -> tuple[dict[str, Run], dict[str, str], str, Request]:
    """Return arm → its planned run, arm → the arm that it equals, the engine, and the request with that engine."""
    planned = {arm: plan_run(same_but_arm(request, arm, request.seed)) for arm in arms}
    check_alike(planned)
    engine = next((one.engine for one in planned.values() if one.engine != "none"), "none")
    if engine != "none":
        request = replace(request, engine=engine)  # `auto` may choose another engine while arms run
    return planned, equal_arms(planned), engine, request


def _changes(request: Request) -> tuple[str, ...]:
    preset = () if request.preset is None else (f"--preset {request.preset}",)
    return (*preset, *(f"--set {setting}" for setting in request.settings))


def check_alike(planned: dict[str, Run]) -> None:
    """Raise for arms that differ in engine, evaluation, data or IPC."""
    engines = {arm: one.engine_shown for arm, one in planned.items() if one.engine != "none"}
    if len(set(engines.values())) > 1:
        raise DirePlugError(f"arms of one comparison must use one engine, not {engines}; pass --engine")
    first_arm, first = next(iter(planned.items()))
    for arm, one in planned.items():
        for part in ("evaluate", "measure", "dataset", "ipc", "squeeze"):
            if getattr(one.resolved.recipe, part) != getattr(first.resolved.recipe, part):
                raise DirePlugError(f"arms {first_arm} and {arm} differ in `{part}`, so they can't be compared")


def check_teachers(runs: dict[str, list[FinishedRun]]) -> None:
    """Raise for finished runs whose networks differ, as with different versions of torch."""
    first_arm, expected = next((arm, finished[0].metrics["networks"]) for arm, finished in runs.items())
    for arm, finished in runs.items():
        for run in finished:
            found = run.metrics["networks"]
            # arms may have further networks, of their terms alone
            if any(found[name] != expected[name] for name in found.keys() & expected.keys()):
                raise DirePlugError(
                    f"arms {first_arm} and {arm} were made with different teachers, so they can't be compared "
                    f"({run.folder.path}); remove the older run, or use another --out"
                )


def equal_arms(planned: dict[str, Run]) -> dict[str, str]:
    """Return which arm equals an earlier one: the same resolved recipe and the same regularizers."""
    same: dict[str, str] = {}
    seen: dict[str, Any] = {}
    for arm, one in planned.items():
        recipe = counted(one.recipe.model_dump(mode="json"), arm=arm, regularizers=one.regularizers)
        # arms of real images are told apart by name: their recipes are equal
        what = recipe | {"engine": one.engine, "arm": arm if one.engine == "none" else "synthesis"}
        equal = next((other for other, content in seen.items() if content == what), None)
        if equal is None:
            seen[arm] = what
        else:
            same[arm] = equal
    return same


def split_by_control(planned: dict[str, Run]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the arm that stands for control, the arms with a term that are it without theirs, and those that aren't.

    None of either without a control.
    """
    recipes = {arm: one.resolved.recipe.model_dump(mode="json") for arm, one in planned.items()}
    return split_recipes(recipes, [arm for arm, one in planned.items() if one.resolved.regularizers])
