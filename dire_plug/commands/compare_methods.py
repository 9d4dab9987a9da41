"""`dire-plug compare-methods METHODS`: train the same students, in the same way, on every method's images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dire_plug import home, plugins, ui
from dire_plug.commands.completion import offer_any_recipes, offer_arms, offer_method_list, offer_subsets
from dire_plug.commands.dry import describe_units
from dire_plug.commands.options import (
    LOG,
    SEEDS,
    MethodCommand,
    executor_options,
    make_request,
    run_options,
    split_names,
    table_files,
)
from dire_plug.recipe import METHOD_ARMS, SUBSET_ARMS
from dire_plug.recipe.loading import is_recipe_file
from dire_plug.store.runs import runs_root

if TYPE_CHECKING:
    from dire_plug.executors.settings import ExecutorSettings
    from dire_plug.results.methods import MethodsPlan

ALL, NONE = "all", "none"


@click.command("compare-methods", cls=MethodCommand)
@click.argument("methods", metavar="METHOD,METHOD,…|all", shell_complete=offer_method_list)
@click.option(
    "--arms",
    default=",".join(METHOD_ARMS),
    show_default=True,
    shell_complete=offer_arms,
    help="Arms of each method, separated by commas.",
)
@click.option(
    "--subsets",
    default=",".join(SUBSET_ARMS),
    show_default=True,
    shell_complete=offer_subsets,
    help="Real images beside, separated by commas; also full, the ceiling; none leaves them out.",
)
@click.option(
    "--protocol",
    metavar="METHOD/RECIPE",
    shell_complete=offer_any_recipes,
    help="The recipe whose protocol trains all students, changed by --set evaluate.…; default: the first method's.",
)
@click.option(
    "--labels",
    type=click.Choice(["teacher", "none"]),
    help="teacher: the protocol's teacher labels all images; none: hard labels; default: as the protocol says.",
)
@click.option(
    "--own/--no-own",
    "with_own",
    default=True,
    show_default=True,
    help="Also train students by each method's own protocol, and compare the rankings.",
)
@SEEDS
@run_options
@LOG
@executor_options
@table_files
def compare_methods(
    methods: str,
    arms: str,
    subsets: str,
    protocol: str | None,
    labels: str | None,
    with_own: bool,
    seeds: int,
    log: tuple[str, ...],
    execution: ExecutorSettings,
    **options: Any,
) -> None:
    """Compare methods by the same students, trained in one way.

    The images are made by each method's own recipe, with its own engine; a method may also be named as METHOD/RECIPE.
    All recipes must have one dataset, image size and IPC, which --ipc and --set give them. Finished runs are reused.
    """
    named, request = split_names(methods), make_request("", **options)
    for one in named:
        if one != ALL and not is_recipe_file(one):
            # an unknown one ends the command before torch is imported
            plugins.load_adapter(one.partition("/")[0])
    from dire_plug.executors.dispatch import Runner
    from dire_plug.results import methods as comparing
    from dire_plug.results.methods_table import METHODS, methods_to_json, render, store_methods

    request = Runner(execution).pin(request)
    plan = comparing.plan_methods(
        request,
        named,
        arms=split_names(arms),
        subsets=[] if subsets == NONE else split_names(subsets),
        seeds=seeds,
        protocol=protocol,
        labels=labels,
        with_own=with_own,
        dry=options["dry_run"],
    )
    if options["dry_run"]:
        _show_dry(plan, card=options["card"], device=request.device)
        return
    started = time.monotonic()
    found = comparing.compare_methods(plan, runner=Runner(execution, log=log))
    folder = store_methods(found, runs_root(request))
    ui.result(render(found), data=lambda: methods_to_json(found) | {"folder": folder})
    ui.show(f"\nstored in: {folder}/{METHODS}.json")
    ui.show(f"figure:    {folder}/methods.png")
    ui.show(f"took {time.monotonic() - started:.0f} s")


def _show_dry(plan: MethodsPlan, *, card: str | None, device: str) -> None:
    """Print the protocol, the methods, and the units of work that the store lacks."""
    evaluate = plan.protocol.section.model_dump(mode="json")
    lines: Sequence[str] = [
        f"one protocol: {plan.protocol.recipe}, labels: {plan.protocol.labels}",
        *(f"  evaluate.{key}: {value}" for key, value in evaluate.items()),
        *(f"{name}: recipe {one.recipe}, arms {', '.join(plan.arms)}" for name, one in plan.own.items()),
        f"real images: {', '.join(plan.subsets) or NONE}",
    ]
    units, data = describe_units(plan.requests, card=card, device=device)
    content = {"protocol": plan.protocol.recipe, "labels": plan.protocol.labels, "evaluate": evaluate}
    ui.result(*lines, *units, f"store: {home.store()}", data=lambda: {**content, "methods": list(plan.own), **data})
