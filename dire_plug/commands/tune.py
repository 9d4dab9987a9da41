"""`dire-plug tune METHOD`: search the weights of a term on validation images."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dire_plug import ui
from dire_plug.commands.completion import offer_arms
from dire_plug.commands.dry import show_dry
from dire_plug.commands.options import (
    METHOD,
    MethodCommand,
    executor_options,
    make_request,
    repeat_options,
    run_options,
    table_files,
    where_runs_are,
)
from dire_plug.errors import count_of
from dire_plug.store.runs import runs_root
from dire_plug.tables import Table

if TYPE_CHECKING:
    from dire_plug.executors.settings import ExecutorSettings
    from dire_plug.paper.tune import Tuned
    from dire_plug.paper.tune.search import StudyPlan
    from dire_plug.pipeline import Request


@click.command(cls=MethodCommand)
@METHOD
@click.option(
    "--arm", default="dire", show_default=True, shell_complete=offer_arms, help="The arm whose term is tuned."
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Trials of the study in all; a greater number goes on with it.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Syntheses of each trial; as many others test the best.",
)
@click.option(
    "--search",
    multiple=True,
    metavar="KEY=LOW..HIGH[:log]",
    help="A setting and its range instead of the default ones, or KEY=VALUE,VALUE; may be repeated.",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    show_default="as many as the executor runs at a time",
    help="Trials that are asked for at a time.",
)
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the recipe with the best setting as a preset goes; default: the study's folder.",
)
@run_options
@executor_options
@table_files
def tune(
    method: str,
    arm: str,
    trials: int,
    seeds: int,
    search: tuple[str, ...],
    parallel: int | None,
    write: Path | None,
    execution: ExecutorSettings,
    **options: Any,
) -> None:
    """Search the weights of a term on validation images.

    Optuna proposes settings of the arm's regularizers; each trial is judged on images held out of the training set, and
    may be pruned after its first student. The best becomes a preset of a copy of the recipe, and is tested once beside
    its control. The same command resumes the study, and several may work on it at once.
    """
    request = make_request(method, arm=arm, **options)
    from dire_plug.paper.tune import plan_study, render_tuned, store_tuned, tuned_json
    from dire_plug.paper.tune import tune as run_study

    plan = plan_study(request, seeds=seeds, search=search, dry=options["dry_run"])
    if options["dry_run"]:
        _show_plan(plan, trials, card=options["card"])
        return
    started = time.monotonic()
    file = None if write is None else write.absolute()
    tuned = run_study(plan, trials=trials, parallel=parallel, execution=execution, write=file)
    compared = store_tuned(tuned, runs_root(request))
    data = {"folder": tuned.folder, "comparison": compared}
    ui.result(*render_tuned(tuned), data=lambda: tuned_json(tuned) | data)
    ui.show(f"\nstored in: {tuned.folder}/tune.json")
    ui.show(f"picture:   {tuned.folder}/tune.png")
    ui.show(f"test:      dire-plug report {compared.name}{where_runs_are(request.out)}")
    ui.show(f"preset:    {tuned.preset} in {tuned.file}")
    ui.show(f"next:      {_next(tuned, request)}")
    ui.show(f"took {time.monotonic() - started:.0f} s")


def _next(tuned: Tuned, request: Request) -> str:
    """Return the command that compares the arm with the preset on all training images."""
    settings = [one for one in request.settings if not one.startswith("regularizers.")]
    tuned_request = replace(request, recipe=str(tuned.file), preset=tuned.preset)
    words = ["dire-plug", "compare", request.method, *repeat_options(tuned_request, settings=settings, real=None)]
    return shlex.join([*words, "--arms", f"baseline,control,{request.arm}", "--seeds", "5"])


def _show_plan(plan: StudyPlan, trials: int, *, card: str | None) -> None:
    """Print what would be searched and run: as many settings as there are trials, none of them pruned."""
    from dire_plug.paper.tune.search import planned_requests
    from dire_plug.paper.tune.tune_table import space_notes

    table = Table("setting", title=f"searched, on {plan.validation} validation images")
    table.add_numbers("from", "to")
    table.add_prose("drawn")
    for one in plan.space:
        if one.choices:
            table.add_row(one.key, "", "", f"one of {', '.join(one.choices)}")
        else:
            table.add_row(
                one.key, f"{one.low:g}", f"{one.high:g}", "uniform in its logarithm" if one.log else "uniform"
            )
    runs = (trials + 3) * len(plan.seeds)
    lines = [
        f"{count_of(trials, 'trial')} of {count_of(len(plan.seeds), 'seed')} each, and control: "
        f"{count_of((trials + 1) * len(plan.seeds), 'run')}"
        + ("; fewer where trials are pruned after their first student" if plan.prunes else ""),
        "then, on the test set with new seeds: control, the recipe's own setting and the best: "
        f"{count_of(3 * len(plan.seeds), 'run')}, which the units below don't count",
        *(line for line in space_notes(plan) if not line.startswith("searched: ")),
    ]
    data = {
        "searched": [str(one) for one in plan.space],
        "not_searched": plan.left_out,
        "validation_images": plan.validation,
        "trials": trials,
        "seeds": list(plan.seeds),
        "runs": runs,
    }
    show_dry(
        [plan.own],
        lambda: planned_requests(plan, trials),
        card=card,
        device=plan.judged.device,
        more=[table, *lines],
        more_data=data,
    )
