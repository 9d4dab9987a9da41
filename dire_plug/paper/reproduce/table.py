"""Show and store a table: the paper's figure and ours in each cell, and below it why a cell is empty."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from dire_plug.errors import count_of
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import TableRequest
from dire_plug.paper.reproduce.result import BEST, LOAD, WHOLE, CellResult, TableResult
from dire_plug.paper.reproduce.scales import SMOKE_IPCS, ipcs_of, is_large, smoke_ipcs
from dire_plug.results.statistics import Summary, summarise
from dire_plug.tables import Table, with_notes

SHORT = 60
"""Letters of options that a heading has room for."""
TIMED = {
    "paper": "ours: whole syntheses, one after the other (their number)",
    "smoke": "ours: extrapolated from the median of ten steps; the steps of all rows are interleaved",
}
PAPER, OURS = "paper", "ours"
KINDS = (PAPER, OURS, BEST)
"""What a table has of each column; the last one where every epoch was tested, as upstream prints that."""
NOT_THE_PAPER = "smoke scale: handwritten digits, short loops; not the paper's setting"


def render(result: TableResult) -> RenderableType:
    """Return the table with its title and notes."""
    is_table = result.request.target.draw is None
    parts = [_table(result)] if is_table else [Text(f"  {line}") for line in _drawn(result)]
    return with_notes(*parts, title=heading_of(result.request), notes=notes(result))


def heading_of(request: TableRequest) -> str:
    """Return the paper's number and title, and what isn't the paper's setting: the smoke scale, changed recipes."""
    changes = " ".join(request.changes)
    short = changes if len(changes) <= SHORT else f"{count_of(len(request.changes), 'change')}, see below"
    parts = [request.target.heading, NOT_THE_PAPER if request.scale == "smoke" else "", short]
    return " — ".join(filter(None, parts))


def _table(result: TableResult) -> Table:
    """Return the table; the paper's figure stands beside each of ours, at the smoke scale behind all of ours."""
    request, target = result.request, result.request.target
    rows = list(dict.fromkeys(cell.row for cell in request.cells))
    columns = list(dict.fromkeys(cell.column for cell in request.cells))
    by_position = {(cell.row, cell.column): cell for cell in request.cells}
    apart = request.scale == "smoke"
    with_best = {cell.column for cell, found in result.cells.items() if found.more.get(BEST)}
    kinds = [(column, kind) for column in columns for kind in KINDS if kind != BEST or column in with_best]
    # digits say nothing beside CIFAR, so the two are kept apart
    if apart:
        kinds.sort(key=lambda one: one[1] == PAPER)
    table = Table("")
    table.add_numbers(*(_head(target.columns[column], kind, apart=apart) for column, kind in kinds))
    reasons = result.reasons
    for row in rows:
        cells = [(by_position.get((row, column)), kind) for column, kind in kinds]
        texts = ["" if cell is None else _text(cell, kind, result.cells[cell], reasons) for cell, kind in cells]
        table.add_row(target.rows[row], *texts)
    return table


def _head(printed: str, kind: str, *, apart: bool) -> str:
    if not apart or kind == BEST:
        return f"{printed}\n{kind}"
    return f"{printed}\nsmoke" if kind == OURS else f"{printed}\n(paper, another setting)"


def _text(cell: Cell, kind: str, found: CellResult, reasons: Sequence[str]) -> str:
    if kind == PAPER:
        return "–" if cell.figure == NOT_PRINTED else cell.figure
    if kind == BEST:
        best = summarise(found.more.get(BEST) or [])
        return "" if best is None else format_figure(cell, best)
    if found.summary is not None:
        return format_figure(cell, found.summary)
    return f"– [{reasons.index(found.reason) + 1}]" if found.reason else "–"


def unit_of(cell: Cell) -> tuple[float, str]:
    """Return by what a run's value is multiplied to be in the unit of the printed figure, and the unit's sign."""
    return (100.0, "%") if cell.read == "coverage" and "%" in cell.figure else (1.0, "")


def format_figure(cell: Cell, summary: Summary) -> str:
    """Return `mean ± standard deviation (n)` in the unit of the printed figure, with as many decimals, one at least."""
    factor, unit = unit_of(cell)
    # the paper prints "33.8 ± 0.4" and "12.1%": the first number decides
    decimals = re.match(r"\d+\.?(\d*)", cell.figure)
    digits = max(1, len(decimals.group(1)) if decimals else 1)
    spread = "" if summary.std is None else f" ± {factor * summary.std:.{digits}f}"
    return f"{factor * summary.mean:.{digits}f}{spread}{unit} ({summary.n})"


def _drawn(result: TableResult) -> list[str]:
    """Return a line for each set that a figure shows, or that it lacks."""
    lines = []
    for cell in result.request.cells:
        found = result.cells[cell]
        what = f"– [{result.reasons.index(found.reason) + 1}]" if found.reason else "drawn"
        lines.append(f"{result.request.target.rows[cell.row]}: {what}")
    return lines


def notes(result: TableResult) -> list[str]:
    """Return the lines below the table."""
    request = result.request
    lines = [f"[{number}] {reason}" for number, reason in enumerate(result.reasons, start=1)]
    lines += result.warnings
    if request.changes:
        lines.append(f"all recipes are changed, so they don't stand for the paper's: {' '.join(request.changes)}")
    if request.scale == "smoke":
        lines += _smoke_ipcs(request)
    lines += list(request.target.notes)
    if request.target.draw is None:
        lines += _statistics(request, {cell.read for cell in request.cells})
        lines += _describe_times(result)
    if any(found.more.get(BEST) for found in result.cells.values()):
        lines.append(
            "best on test: of a test after every epoch from the recipe's test_from on, where upstream prints that; "
            "chosen on the test set, so higher than on other images"
        )
    return lines


def _smoke_ipcs(request: TableRequest) -> list[str]:
    """Return which IPCs stand for the table's, method by method."""
    methods = {cell.method: cell for cell in request.cells if cell.method in SMOKE_IPCS}
    if not methods or {cell.read for cell in request.cells} == {"seconds"}:
        return []
    ipcs = ipcs_of(request.target.cells)[:2]
    numbers = {method: smoke_ipcs(method)[: max(1, len(ipcs))] for method in methods}
    stand = [f"{method} {' and '.join(map(str, found))}" for method, found in numbers.items()]
    asked = f"IPC {' and '.join(map(str, ipcs))}" if ipcs else "the paper's IPC"
    lines = [f"smoke: {asked} is replaced by {', '.join(stand)}"]
    if any(is_large(cell) for cell in request.cells):
        lines.append("smoke: VGG-16 needs 32 pixels and learns for two epochs: its accuracies are those of chance")
    return lines


def _statistics(request: TableRequest, reads: set[str]) -> list[str]:
    if reads == {"seconds"}:
        return [TIMED[request.scale]]
    lines = ["ours: mean ± standard deviation over syntheses (their number)"]
    if request.seeds == 1:
        lines = ["ours: one synthesis (1), so no spread; --seeds 5 gives one"]
    if "accuracy" in reads:
        lines.append(
            "ours: accuracy after the last epoch; the paper's may be the best on the test set, which stands beside "
            "where every epoch was tested"
        )
    return lines


def _describe_times(result: TableResult) -> list[str]:
    """Return how far extrapolated seconds are from certain, and whether the machine had other work."""
    timed = {cell.row_name: found.more for cell, found in result.cells.items() if WHOLE in found.more}
    spans = {name: more[WHOLE] for name, more in timed.items() if more[WHOLE]["low"] is not None}
    lines = [f"{name}: {one['low']:.1f} to {one['high']:.1f} s, 95 % by resampled steps" for name, one in spans.items()]
    if any(load > cores for load, cores in (more[LOAD] for more in timed.values() if more.get(LOAD))):
        lines.append(
            "other work ran on this machine meanwhile, so these seconds aren't its own; rows can be compared, as "
            "their steps are interleaved"
        )
    return lines


def to_json(result: TableResult) -> dict[str, Any]:
    """Return what table.json holds."""
    request = result.request
    return {
        "target": request.target.name,
        "title": heading_of(request),
        "scale": request.scale,
        "changes": request.changes,
        "comparable with the paper": request.scale == "paper" and not request.changes,
        "seeds": list(range(request.base.seed, request.base.seed + request.seeds)),
        "cells": [_cell_json(result, cell) for cell in request.cells],
        "notes": notes(result),
        **({"figure": str(result.figure)} if result.figure else {}),
    }


def _cell_json(result: TableResult, cell: Cell) -> Mapping[str, Any]:
    target, found = result.request.target, result.cells[cell]
    ours = None if found.summary is None else {**asdict(found.summary), "values": found.values}
    return {
        "row": target.rows[cell.row],
        "column": target.columns[cell.column] if target.columns else "images",
        "reads": cell.read,
        "paper": None if cell.figure == NOT_PRINTED else cell.figure,
        "ours": ours,
        "reason": found.reason or None,
        "runs": found.runs,
        **found.more,
    }
