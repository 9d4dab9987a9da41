"""`dire-plug reproduce TABLE|FIGURE`: the paper's evidence, one command each."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dire_plug import ui
from dire_plug.commands.options import (
    DATA_ROOT,
    DEVICE,
    KEEP_LABELS,
    OFFLINE,
    OUT,
    RERUN_STAGES,
    VERBOSE,
    WAIT,
    contradiction,
)
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically, write_json

if TYPE_CHECKING:
    from dire_plug.paper.reproduce import Order, Outcome
    from dire_plug.pipeline import Request

FAILED = 1


@dataclass(frozen=True)
class Asked:
    """The command line, but for what every run shares."""

    row: str | None
    column: str | None
    scale: Any
    seeds: int
    rded: Path | None
    weights: Path | None


@click.command()
@click.argument("target")
@click.option("--row", help="One row: a method, or as the table names its rows.")
@click.option("--column", help="One column: an IPC, or what is read.")
@click.option(
    "--scale",
    type=click.Choice(["paper", "smoke"]),
    default="paper",
    show_default=True,
    help="The paper's setting; or a row in minutes, on digits, to see that all works.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Syntheses of each cell.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the first one.")
@click.option("--rded", type=click.Path(path_type=Path), help="Table 17: the images that RDED's own code made.")
@click.option("--weights", type=click.Path(path_type=Path), help="Table 16: a file with CLIP's weights.")
@DEVICE
@click.option(
    "--engine",
    type=click.Choice(["auto", "upstream", "native"]),
    default="auto",
    show_default=True,
    help="Upstream's own script, or, at the smoke scale, our loop of the same mathematics.",
)
@OUT
@DATA_ROOT
@OFFLINE
@RERUN_STAGES
@KEEP_LABELS
@WAIT
@click.option("--dry-run", is_flag=True, help="List the runs with their state and what they would cost; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print table.json in the place of the table.")
@VERBOSE
def reproduce(target: str, dry_run: bool, as_json: bool, verbose: bool, **options: Any) -> int | None:
    """Make TARGET, table-2 to table-17 or figure-1 to figure-3, from runs.

    Finished runs and cached teachers are reused and missing ones are made. Each cell shows the paper's figure and
    ours; one that can't be filled here is empty, with the reason below the table.
    """
    from dire_plug.pipeline import Request

    if verbose:
        ui.configure(verbose=True)
    if dry_run and as_json:
        raise contradiction("--dry-run", "--json")
    asked = Asked(**{name: options.pop(name) for name in ("row", "column", "scale", "seeds", "rded", "weights")})
    order = _order(target, asked, Request(method="", **options))
    if dry_run:
        from dire_plug.paper.reproduce.costs import estimate, show_costs

        ui.show(show_costs(order, estimate(order)))
        return None
    return _make(order, as_json=as_json)


def _order(target: str, asked: Asked, base: Request) -> Order:
    from dire_plug.paper.reproduce import Order, load_target, select

    found = load_target(target)
    for option, table in (("rded", "table-17"), ("weights", "table-16")):
        if getattr(asked, option) is not None and target != table:
            raise DirePlugError(f"--{option}: {table} alone reads it, not {target}; leave it out")
    cells = select(found, row=asked.row, column=asked.column)
    choice = tuple(filter(None, (asked.row, asked.column)))
    more = {name: getattr(asked, name) for name in ("seeds", "rded", "weights")}
    return Order(found, cells, asked.scale, base, choice, **more)


def _make(order: Order, *, as_json: bool) -> int | None:
    from dire_plug.paper.reproduce import render, to_json
    from dire_plug.paper.reproduce import reproduce as fill_order

    started = time.monotonic()
    outcome = fill_order(order)
    folder = _store(outcome)
    if as_json:
        ui.show(json.dumps(to_json(outcome), indent=2, ensure_ascii=False))
    else:
        ui.show(render(outcome))
    say = ui.say if as_json else ui.show
    say(f"\nstored in: {folder}/table.json and table.txt")
    if outcome.figure is not None:
        say(f"figure:    {outcome.figure}")
    say(f"took {time.monotonic() - started:.0f} s")
    return FAILED if outcome.failed else None


def _store(outcome: Outcome) -> Path:
    """Write table.json and table.txt; return their folder."""
    from dire_plug.paper.reproduce import as_text, folder_of, render, to_json

    folder = folder_of(outcome.order)
    write_json(folder / "table.json", to_json(outcome))
    write_atomically(folder / "table.txt", as_text(render(outcome)))
    return folder
