"""`dire-plug time METHOD[+ARM] …`: time the synthesis of arms, side by side."""

from __future__ import annotations

from typing import Any

import click

from dire_plug import ui
from dire_plug.commands.completion import offer_timed
from dire_plug.commands.options import (
    ACCELERATE,
    DEVICE,
    JSON,
    OFFLINE,
    VERBOSE,
    MethodCommand,
    check_settings,
    table_files,
)
from dire_plug.store.runs import Request

COUNT = click.IntRange(min=1)


@click.command("time", cls=MethodCommand)
@click.argument("arms", nargs=-1, required=True, metavar="METHOD[+ARM]...", shell_complete=offer_timed)
@click.option(
    "--recipe", default="quick", show_default=True, help="The recipe of each method; its dataset isn't needed."
)
@click.option("--preset", help="A named set of settings of the recipes.")
@click.option("--ipc", type=COUNT, help="Images per class; default: the recipe's.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipes.")
@click.option("--steps", type=COUNT, default=10, show_default=True, help="Steps of each process to count.")
@click.option("--rounds", type=COUNT, default=1, show_default=True, help="How often each process is started.")
@click.option("--whole", type=click.IntRange(min=0), default=0, help="Whole syntheses of each arm to run, too.")
@click.option("--real", type=COUNT, default=500, show_default=True, help="Random real embeddings per class.")
@DEVICE
@click.option("--engine", type=click.Choice(["auto", "upstream", "native"]), default="auto", show_default=True)
@ACCELERATE
@OFFLINE
@JSON
@VERBOSE
@table_files
def time_(
    arms: tuple[str, ...],
    settings: tuple[str, ...],
    steps: int,
    rounds: int,
    whole: int,
    real: int,
    **options: Any,
) -> None:
    """Time the syntheses of arms side by side: steps, CPU, memory.

    An arm is METHOD or METHOD+ARM, such as sre2l, sre2l+control, sre2l+dire; the first is what the others are compared
    with. The steps of all arms are interleaved, and extrapolated to the whole. Networks are untrained
    and images generated: a step takes as long.
    """
    from dire_plug.paper.timing import render, time_arms

    check_settings(settings, {"ipc": ("--ipc", options["ipc"])})
    # the method is that of each arm
    request = Request("", settings=settings, **options)
    timing = time_arms(arms, request, steps=steps, rounds=rounds, whole=whole, real=real)
    ui.result(render(timing), data=timing.to_json)
