"""The options that `measure`, `evaluate` and `rank` share: which set, and what judges it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dire_plug import ui
from dire_plug.commands.options import DATA_ROOT, DEVICE, OFFLINE, SETTINGS, VERBOSE, check_settings

if TYPE_CHECKING:
    from dire_plug.sets.opened import SetRequest

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS = (
    click.option("--real", metavar="DATASET", help="The real dataset; default: that of --recipe, or of the run."),
    click.option(
        "--recipe",
        metavar="METHOD/NAME",
        help="Whose networks, protocol and real data; default: a run's own, else SRe2L's recipe of the dataset.",
    ),
    click.option("--ipc", type=click.IntRange(min=1), help="Take the first so many images of each class, by name."),
    click.option("--resize", is_flag=True, help="Resize images of another size than the real ones."),
    click.option(
        "--space",
        type=click.Choice(["pixels", "normalised", "zca"]),
        help="What the numbers of a tensor file are; pixels: cut them off at 0 and 1.",
    ),
    click.option(
        "--normalised-by",
        metavar="DATASET|NUMBERS",
        help="By what a tensor file is normalised: a dataset's statistics, or three means and three deviations.",
    ),
    click.option("--teacher", metavar="FILE", help="A checkpoint in the place of the recipe's teacher."),
    SETTINGS,
    DEVICE,
    DATA_ROOT,
    OFFLINE,
    VERBOSE,
)


def set_options(function: Function) -> Function:
    """Add the shared options to a command, in this order."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def make_set_request(path: Path, **options: Any) -> SetRequest:
    """Return the request that the shared options describe."""
    from dire_plug.sets.opened import SetRequest

    if options.pop("verbose"):
        ui.configure(verbose=True)
    settings = tuple(options.pop("settings"))
    check_settings(settings, {"squeeze.teacher.checkpoint": ("--teacher", options["teacher"])})
    return SetRequest(path, settings=settings, **options)


def describe_set(condensed: dict[str, Any]) -> str:
    """Return one line on a set: how many images of how many classes."""
    least, most = condensed["per_class"]["least"], condensed["per_class"]["most"]
    each = f"{least} each" if least == most else f"{least} to {most} each"
    return f"{condensed['name']}: {condensed['images']} images of {condensed['classes']} classes, {each}"
