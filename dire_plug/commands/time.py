"""`dire-plug time METHOD[+ARM] …`: time the synthesis of arms, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dire_plug import ui
from dire_plug.commands.options import ACCELERATE, DEVICE, OFFLINE, VERBOSE, check_settings, table_files
from dire_plug.files import write_json
from dire_plug.store.runs import Request

COUNT = click.IntRange(min=1)


@click.command("time")
@click.argument("arms", nargs=-1, required=True, metavar="METHOD[+ARM]...")
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
@click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all measurements to this file, too."
)
@VERBOSE
@table_files
def time_(
    arms: tuple[str, ...],
    settings: tuple[str, ...],
    file: Path | None,
    verbose: bool,
    steps: int,
    rounds: int,
    whole: int,
    real: int,
    **options: Any,
) -> None:
    """Time the synthesis of each arm: interleaved steps, extrapolated to the whole; CPU time and memory.

    An arm is METHOD or METHOD+ARM, such as sre2l, sre2l+control, sre2l+dire; the first is what the others are compared
    with. Networks are untrained and images generated: a step takes as long.
    """
    from dire_plug.paper.timing import render, time_arms

    if verbose:
        ui.configure(verbose=True)
    check_settings(settings, {"ipc": ("--ipc", options["ipc"])})
    # the method is that of each arm
    request = Request("", settings=settings, **options)
    timing = time_arms(arms, request, steps=steps, rounds=rounds, whole=whole, real=real)
    ui.show(render(timing))
    if file is not None:
        write_json(file, timing.to_json())
        ui.show(f"\nstored in: {file}")
