"""`dire-plug reproduce TABLE|FIGURE`: reproduce the paper's tables and figures, one command each."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dire_plug import ui
from dire_plug.commands.completion import offer_targets
from dire_plug.commands.options import (
    ACCELERATE,
    CARD,
    DATA_ROOT,
    DEVICE,
    JSON,
    KEEP_LABELS,
    OFFLINE,
    OUT,
    RERUN_STAGES,
    SETTINGS,
    VERBOSE,
    WAIT,
    check_card,
    contradiction,
    executor_options,
    table_files,
)
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically, write_json
from dire_plug.recipe.loading import split_setting
from dire_plug.store.provenance import command

if TYPE_CHECKING:
    from dire_plug.executors.dispatch import Runner
    from dire_plug.executors.settings import ExecutorSettings
    from dire_plug.paper.reproduce import TableRequest, TableResult

FAILED = 1
ALL = "all"
"""The target that stands for every table and figure."""


@click.command()
@click.argument("target", shell_complete=offer_targets)
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
@click.option("--preset", help="A preset of the recipes, such as as-printed; cells whose recipe lacks it stay empty.")
@SETTINGS
@ACCELERATE
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
@click.option(
    "--status",
    "status_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write which figures finished runs fill to a Markdown FILE; run nothing.",
)
@JSON
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
    status_file: Path | None,
    execution: ExecutorSettings,
    **options: Any,
) -> int | None:
    """Reproduce the paper's tables and figures, each from its runs.

    TARGET is table-2 to table-17, figure-1 to figure-3, or `all`. Finished runs and cached teachers are reused and
    missing ones are made. Each cell shows the paper's figure and ours; one that can't be filled here is empty, with the
    reason below the table.
    """
    from dire_plug.paper.reproduce import TableRequest, check_preset, load_target, select, target_names, to_json
    from dire_plug.pipeline import Request

    check_card(card, dry_run=dry_run)
    for option, given in (("--row", row), ("--column", column)):
        if target == ALL and given is not None:
            raise DirePlugError(f"{option} is of one table; give its name instead of {ALL}, or leave {option} out")
    if any(split_setting(setting)[0] == ("ipc",) for setting in options["settings"]):
        raise DirePlugError("--set ipc: each cell of a table says its own IPC; choose some with --column")
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
    check_preset(requests)
    if status_file is not None:
        _write_status(requests, status_file)
        return None
    if dry_run:
        from dire_plug.paper.reproduce.costs import show_costs
        from dire_plug.pipeline.rates import find_rate

        shown, data = show_costs(requests, rate=find_rate(card, device=options["device"]))
        ui.result(shown, data=lambda: data)
        return None
    from dire_plug.executors.dispatch import Runner
    from dire_plug.paper.reproduce.fill import requests_of
    from dire_plug.paper.reproduce.result import missing_command

    runner = Runner(execution)
    # the runs of all tables at once: tables share some, and the others can run side by side
    runner.prepare((one for request in requests for one in requests_of(request)), skip_bad=True)
    results = [_fill(request, runner) for request in requests]
    ui.result(data=lambda: [to_json(result) for result in results] if target == ALL else to_json(results[0]))
    if any(result.failed for result in results):
        return FAILED
    if any(result.filled for result in results):
        return None
    if missing := missing_command(results):
        ui.say(f"nothing could be filled; first run: {missing}")
    else:
        # cells that the paper doesn't print have no reason
        reasons = any(result.reasons for result in results)
        ui.say(f"nothing could be filled, {'for the reasons above' if reasons else 'as the paper prints nothing here'}")
    return DirePlugError.exit_code


def _write_status(requests: list[TableRequest], path: Path) -> None:
    """Write and show which of the paper's figures finished runs fill."""
    from dire_plug.paper.reproduce.status import count_filled, find_status, to_markdown
    from dire_plug.paper.reproduce.table import heading_of

    if {one.scale for one in requests} != {"paper"}:
        raise contradiction("--status", "--scale smoke")
    cells = find_status(requests)
    headings = {one.target.name: heading_of(one) for one in requests}
    write_atomically(path, to_markdown(cells, headings, command=shlex.join(command())))
    ui.result(count_filled(cells), data=lambda: [asdict(one) for one in cells])
    ui.show(f"stored in: {path}")


def _fill(request: TableRequest, runner: Runner) -> TableResult:
    """Fill, store and show a table."""
    from dire_plug.paper.reproduce import render, to_json
    from dire_plug.paper.reproduce import reproduce as fill_table

    started = time.monotonic()
    result = fill_table(request, runner=runner)
    folder, table = request.folder, render(result)
    write_json(folder / "table.json", to_json(result))
    write_atomically(folder / "table.txt", ui.to_text(table))
    ui.show(table)
    ui.show(f"\nstored in: {folder}/table.json and table.txt")
    if result.figure is not None:
        ui.show(f"figure:    {result.figure}")
    ui.show(f"took {time.monotonic() - started:.0f} s")
    return result
