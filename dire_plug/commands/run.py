"""`dire-plug run METHOD`: run one arm."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from dire_plug import ui
from dire_plug.commands.completion import offer_arms, offer_regularizers
from dire_plug.commands.dry import show_dry
from dire_plug.commands.options import (
    LOG,
    METHOD,
    MethodCommand,
    check_settings,
    contradiction,
    executor_options,
    make_request,
    repeat_options,
    run_options,
    table_files,
    where_runs_are,
)
from dire_plug.commands.tables import run_json, run_summary
from dire_plug.errors import DirePlugError
from dire_plug.recipe import DEFAULT_ARMS
from dire_plug.recipe.loading import split_setting
from dire_plug.recipe.resolve import SUM

if TYPE_CHECKING:
    from dire_plug.executors.settings import ExecutorSettings

BASELINE = DEFAULT_ARMS[0]


@click.command(cls=MethodCommand)
@METHOD
@click.option("--dire", is_flag=True, help="With the diversity regularizer: the same as --arm dire.")
@click.option(
    "--arm",
    show_default="baseline",
    shell_complete=offer_arms,
    help="baseline, control, dire, the recipe's own; of real images: random, rded, herding, k-center, k-means, full.",
)
@click.option(
    "--regularizer",
    "regularizers",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    shell_complete=offer_regularizers,
    help="A term instead of DiRe in its arm; several are summed. WEIGHT is a number, or auto.",
)
@run_options
@LOG
@executor_options
@table_files
def run(
    method: str,
    dire: bool,
    arm: str | None,
    regularizers: tuple[str, ...],
    log: tuple[str, ...],
    execution: ExecutorSettings,
    **options: Any,
) -> None:
    """Synthesize images, train students, measure diversity.

    Without --dire: the method as published. The same command shows its finished run, or resumes it.
    """
    chosen, options["settings"] = choose_arm(regularizers, arm, dire=dire, settings=options["settings"])
    request = make_request(method, arm=chosen, **options)
    from dire_plug.executors.dispatch import Runner
    from dire_plug.pipeline import plan_run

    request = Runner(execution).pin(request)
    if options["dry_run"]:
        show_dry(
            [plan_run(request, dry=True)],
            lambda: [request],
            card=options["card"],
            device=request.device,
            beside=None if chosen == BASELINE else plan_run(replace(request, arm=BASELINE), dry=True),
        )
        return
    started = time.monotonic()
    runner = Runner(execution, log=log)
    runner.prepare([request])
    finished = runner.run(request)
    ui.result(run_summary(finished), data=lambda: run_json(finished))
    ui.show(f"\nrun folder: {finished.folder.path}")
    if finished.reused:
        ui.show("it was finished before; nothing was run")
    else:
        ui.show(f"took {time.monotonic() - started:.0f} s")
    again = repeat_options(request, settings=options["settings"], real=options["real"])
    if request.arm not in DEFAULT_ARMS:
        again += ["--arms", f"baseline,control,{request.arm}"]
    ui.show(f"next:       {shlex.join(['dire-plug', 'compare', method, *again])}")
    ui.show(f"            dire-plug show {finished.folder.path.name}{where_runs_are(request.out)}")


def choose_arm(
    regularizers: Sequence[str], arm: str | None, *, dire: bool, settings: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """Return the arm that the options name, and the settings with the weights of the terms.

    Args:
        regularizers: NAME or NAME=WEIGHT each.

    Raises:
        DirePlugError: the options contradict each other.
    """
    if dire and arm not in (None, "dire"):
        raise contradiction("--dire", f"--arm {arm}")
    if not regularizers:
        return "dire" if dire else arm or BASELINE, settings
    if arm not in (None, "dire"):
        raise contradiction(f"--regularizer {regularizers[0]}", f"--arm {arm}")
    # NAME=WEIGHT
    pairs = [one.partition("=") for one in regularizers]
    if dire and "dire" not in (name for name, _, _ in pairs):
        raise DirePlugError(
            f"--dire: --regularizer {regularizers[0]} takes the place of DiRe; leave out --dire, or sum both with "
            f"--regularizer dire --regularizer {regularizers[0]}"
        )
    weights = [f"regularizers.{name}.weight={weight}" for name, given, weight in pairs if given]
    for text in weights:
        keys, value = split_setting(text)
        check_settings(settings, {".".join(keys): (f"--regularizer {keys[1]} with the weight", value)})
    return SUM.join(name for name, _, _ in pairs), (*settings, *weights)
