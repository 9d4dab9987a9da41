"""`dire-plug time METHOD[+ARM] …`: how long a synthesis takes, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dire_plug import ui
from dire_plug.commands.options import DEVICE, OFFLINE, VERBOSE, check_settings
from dire_plug.files import write_json
from dire_plug.store.runs import Request

if TYPE_CHECKING:
    from dire_plug.paper.timing import TimingRequest

COUNT = click.IntRange(min=1)


@click.command("time")
@click.argument("sides", nargs=-1, required=True, metavar="METHOD[+ARM]...")
@click.option(
    "--recipe", default="quick", show_default=True, help="Of each method; its size, but no dataset is needed."
)
@click.option("--preset", help="A named set of settings that the recipes offer.")
@click.option("--ipc", type=COUNT, help="Images per class; default: the recipe's.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipes.")
@click.option("--steps", type=COUNT, default=10, show_default=True, help="Steps of each process that count.")
@click.option("--rounds", type=COUNT, default=1, show_default=True, help="How often the processes are started anew.")
@click.option("--whole", type=click.IntRange(min=0), default=0, help="Also run so many syntheses of each side whole.")
@click.option("--real", type=COUNT, default=500, show_default=True, help="Random real embeddings of each class.")
@DEVICE
@click.option("--engine", type=click.Choice(["auto", "upstream", "native"]), default="auto", show_default=True)
@click.option("--accelerate", type=click.Choice(["none", "exact"]), default="none", show_default=True)
@OFFLINE
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Also write all readings there.")
@VERBOSE
def time_(sides: tuple[str, ...], file: Path | None, verbose: bool, **options: object) -> None:
    """Time the synthesis of each side: its steps in turns, extrapolated to the whole; processor time and memory.

    A side is a method and an arm, such as sre2l, sre2l+control, sre2l+dire; the first is what the others are compared
    with. Networks are untrained and images generated: a step takes as long.
    """
    from dire_plug.paper.timing import render, time_arms

    if verbose:
        ui.configure(verbose=True)
    check_settings(options["settings"], {"ipc": ("--ipc", options["ipc"])})  # type: ignore[arg-type]
    timing = time_arms(sides, _describe(**options))  # type: ignore[arg-type]
    ui.show(render(timing))
    if file is not None:
        write_json(file, timing.to_json())
        ui.show(f"\nstored in: {file}")


def _describe(
    *, settings: tuple[str, ...], steps: int, rounds: int, whole: int, real: int, **options: str
) -> TimingRequest:
    from dire_plug.paper.timing import TimingRequest

    request = Request("", settings=settings, **options)  # type: ignore[arg-type]
    return TimingRequest(request, steps=steps, rounds=rounds, whole=whole, real=real)
