"""`dire-plug compare METHOD`: compare arms side by side."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dire_plug import ui
from dire_plug.commands.completion import offer_arms
from dire_plug.commands.dry import show_dry
from dire_plug.commands.options import (
    LOG,
    METHOD,
    SEEDS,
    MethodCommand,
    executor_options,
    make_request,
    run_options,
    split_names,
    table_files,
    where_runs_are,
)
from dire_plug.errors import DirePlugError
from dire_plug.recipe import DEFAULT_ARMS
from dire_plug.store.runs import runs_root

if TYPE_CHECKING:
    from dire_plug.executors.settings import ExecutorSettings


@click.command(cls=MethodCommand)
@METHOD
@click.option(
    "--arms",
    default=",".join(DEFAULT_ARMS),
    show_default=True,
    shell_complete=offer_arms,
    help="Arms, separated by commas; of real images also rded, herding, k-center, k-means and full, the ceiling.",
)
@click.option(
    "--ladder",
    is_flag=True,
    help="Add the arms between baseline and control, one change after another, and compare each with the one before.",
)
@click.option("--class", "class_name", metavar="NAME", help="The class that class.png enlarges: name or number.")
@SEEDS
@run_options
@LOG
@executor_options
@table_files
def compare(
    method: str,
    arms: str,
    ladder: bool,
    class_name: str | None,
    seeds: int,
    log: tuple[str, ...],
    execution: ExecutorSettings,
    **options: Any,
) -> None:
    """Compare arms: as published, with DiRe, real images.

    control is the dire arm without its regularizer and with nothing else changed. Where that differs from baseline in
    several things, --ladder shows what each of them adds. Finished runs are reused.
    """
    request = make_request(method, **options)
    # each arm once, in the order given
    names = split_names(arms)
    if not names:
        raise DirePlugError(f"--arms: names no arm; name some, separated by commas, such as {','.join(DEFAULT_ARMS)}")
    from dire_plug.executors.dispatch import Runner
    from dire_plug.pipeline import plan_run
    from dire_plug.pipeline.request import read_data, same_but_arm
    from dire_plug.results.arms import compare as run_comparison
    from dire_plug.results.arms import comparison_requests, plan_steps, with_ladder
    from dire_plug.results.report.class_grid import draw_class
    from dire_plug.results.report.images import find_label
    from dire_plug.results.stored import draw_ladder, store_comparison, to_json
    from dire_plug.results.table import render

    request = Runner(execution).pin(request)
    if ladder:
        names = with_ladder(request, names)
    if options["dry_run"]:
        planned = {arm: plan_run(same_but_arm(request, arm, request.seed), dry=True) for arm in names}
        steps = plan_steps(planned) if ladder else ()
        wanted = partial(comparison_requests, request, arms=names, seeds=seeds)
        show_dry(
            list(planned.values()),
            wanted,
            card=options["card"],
            device=request.device,
            first=[f"{step.arm}: {step.before} + {step.change}" for step in steps],
            more_data={"ladder": [{"arm": one.arm, "before": one.before, "change": one.change} for one in steps]},
        )
        return
    if class_name is not None:
        # before the runs, which may take hours
        data = read_data(plan_run(same_but_arm(request, names[0], request.seed)))
        find_label(class_name, data.classes, dataset=data.name)
    started = time.monotonic()
    comparison = run_comparison(request, arms=names, seeds=seeds, ladder=ladder, runner=Runner(execution, log=log))
    folder = store_comparison(comparison, runs_root(request))
    ui.result(render(comparison), data=lambda: to_json(comparison) | {"folder": folder})
    draw_class(comparison, folder / "class.png", class_name=class_name)
    draw_ladder(comparison, folder / "ladder.png")
    ui.show(f"\nstored in: {folder}/compare.json")
    for label, name in (("images:   ", "images.png"), ("one class:", "class.png"), ("ladder:   ", "ladder.png")):
        if (folder / name).is_file():
            ui.show(f"{label} {folder}/{name}")
    ui.show(f"report:    dire-plug report {folder.name}{where_runs_are(request.out)}")
    ui.show(f"took {time.monotonic() - started:.0f} s")
