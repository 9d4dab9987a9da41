"""`dire-plug reproduce TABLE|FIGURE`: reproduce the paper's tables and figures, one command each."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dire_plug import ui
from dire_plug.commands.options import (
    CARD,
    DATA_ROOT,
    DEVICE,
    KEEP_LABELS,
    OFFLINE,
    OUT,
    RERUN_STAGES,
    VERBOSE,
    WAIT,
    check_card,
    contradiction,
    executor_options,
    table_files,
)
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically, write_json

if TYPE_CHECKING:
    from dire_plug.executors.dispatch import Runner
    from dire_plug.executors.settings import ExecutorSettings
    from dire_plug.paper.reproduce import TableRequest, TableResult

FAILED = 1
ALL = "all"
"""The target that stands for every table and figure."""


@click.command()
@click.argument("target")
@click.option("--row", help="One row: a method, or as the table names its rows.")
@click.option("--column", help="One column: an IPC, or a measure, such as coverage.")
@click.option(
    "--scale",
    type=click.Choice(["paper", "smoke"]),
    default="paper",
    show_default=True,
    help="The paper's setting, or a smoke test: a row in minutes, on digits.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Syntheses of each cell.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the first synthesis."
)
@click.option("--rded", type=click.Path(path_type=Path), help="Table 17: the images that RDED's own code made.")
@click.option("--weights", type=click.Path(path_type=Path), help="Table 16: a file with CLIP's weights.")
@DEVICE
@click.option(
    "--engine",
    type=click.Choice(["auto", "upstream", "native"]),
    default="auto",
    show_default=True,
    help="Upstream's own script; at the smoke scale also our loop of the same mathematics.",
)
@OUT
@DATA_ROOT
@OFFLINE
@RERUN_STAGES
@KEEP_LABELS
@WAIT
@click.option("--dry-run", is_flag=True, help="List the runs with their state and their estimated cost; run nothing.")
@CARD
@click.option("--json", "as_json", is_flag=True, help="Print table.json instead of the table.")
@VERBOSE
@executor_options
@table_files
def reproduce(
    target: str,
    row: str | None,
    column: str | None,
    scale: Any,
    seeds: int,
    rded: Path | None,
    weights: Path | None,
    dry_run: bool,
    card: str | None,
    as_json: bool,
    verbose: bool,
    execution: ExecutorSettings,
    **options: Any,
) -> int | None:
    """Reproduce TARGET, table-2 to table-17 or figure-1 to figure-3, from runs; or `all` of them.

    Finished runs and cached teachers are reused and missing ones are made. Each cell shows the paper's figure and
    ours; one that can't be filled here is empty, with the reason below the table.
    """
    from dire_plug.paper.reproduce import TableRequest, load_target, select, target_names
    from dire_plug.pipeline import Request

    if verbose:
        ui.configure(verbose=True)
    check_card(card, dry_run=dry_run)
    if dry_run and as_json:
        raise contradiction("--dry-run", "--json")
    for option, given in (("--row", row), ("--column", column), ("--json", as_json or None)):
        if target == ALL and given is not None:
            raise DirePlugError(f"{option} is of one table; give its name instead of {ALL}, or leave {option} out")
    for option, path, table in (("rded", rded, "table-17"), ("weights", weights, "table-16")):
        if path is not None and target not in (table, ALL):
            raise DirePlugError(f"--{option}: only {table} reads it, not {target}; leave it out")
    requests = [
        TableRequest(
            found,
            select(found, row=row, column=column),
            scale,
            Request(method="", **options),
            choice=tuple(filter(None, (row, column))),
            seeds=seeds,
            rded=rded,
            weights=weights,
        )
        for found in map(load_target, target_names() if target == ALL else [target])
    ]
    if dry_run:
        from dire_plug.paper.reproduce.costs import show_costs
        from dire_plug.pipeline.rates import find_rate

        ui.show(show_costs(requests, rate=find_rate(card, device=options["device"])))
        return None
    from dire_plug.executors.dispatch import Runner
    from dire_plug.paper.reproduce.fill import requests_of

    runner = Runner(execution)
    # the runs of all tables at once: tables share some, and the others can run side by side
    runner.prepare((one for request in requests for one in requests_of(request)), skip_bad=True)
    results = [_fill(request, runner, as_json=as_json) for request in requests]
    if any(result.failed for result in results):
        return FAILED
    # cells that the paper doesn't print have no reason either
    if any(result.reasons for result in results) and not any(result.filled for result in results):
        ui.say("nothing could be filled, for the reasons above")
        return DirePlugError.exit_code
    return None


def _fill(request: TableRequest, runner: Runner, *, as_json: bool) -> TableResult:
    """Fill, store and show a table."""
    from dire_plug.paper.reproduce import as_text, render, to_json
    from dire_plug.paper.reproduce import reproduce as fill_table

    started = time.monotonic()
    result = fill_table(request, runner=runner)
    folder, content, table = request.folder, to_json(result), render(result)
    write_json(folder / "table.json", content)
    write_atomically(folder / "table.txt", as_text(table))
    ui.show(json.dumps(content, indent=2, ensure_ascii=False) if as_json else table)
    say = ui.say if as_json else ui.show  # with --json, standard output holds the JSON alone
    say(f"\nstored in: {folder}/table.json and table.txt")
    if result.figure is not None:
        say(f"figure:    {result.figure}")
    say(f"took {time.monotonic() - started:.0f} s")
    return result
