"""The table that comes out: the paper's figure and ours in each cell, and below it why a cell is empty."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from dire_plug import ui
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import Answer, Order
from dire_plug.paper.reproduce.result import Outcome
from dire_plug.paper.reproduce.scales import SMOKE, ipcs_of, smoke_ipcs
from dire_plug.results.statistics import Summary
from dire_plug.tables import Table

TIMED = {
    "paper": "ours: whole syntheses, each run while nothing else of ours runs (their number)",
    "smoke": "ours: extrapolated from the median of ten steps, in which the rows took turns",
}
NOT_THE_PAPER = "smoke scale: handwritten digits, short loops; not the paper's setting"


def render(outcome: Outcome) -> RenderableType:
    """Return the table with its title and notes."""
    parts: list[RenderableType] = [Text(heading_of(outcome.order), style="bold")]
    if outcome.order.target.draw is None:
        parts.append(_table(outcome))
    else:
        parts += [Text(f"  {line}") for line in _drawn(outcome)]
    return Group(*parts, *(Text(f"  {line}", style="dim") for line in notes(outcome)))


def as_text(content: RenderableType) -> str:
    """Return what `render` gives as plain lines, as wide as they need."""
    file = io.StringIO()
    Console(file=file, width=ui.WIDE, color_system=None, highlight=False, markup=False, emoji=False).print(content)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def heading_of(order: Order) -> str:
    """Return the paper's number and title; at the smoke scale, that it isn't the paper's setting."""
    return f"{order.target.heading} — {NOT_THE_PAPER}" if order.scale == "smoke" else order.target.heading


def _table(outcome: Outcome) -> Table:
    """Return the table; the paper's figure stands beside each of ours, at the smoke scale apart from all of ours."""
    order, target = outcome.order, outcome.order.target
    rows = list(dict.fromkeys(cell.row for cell in order.cells))
    columns = list(dict.fromkeys(cell.column for cell in order.cells))
    by_place = {(cell.row, cell.column): cell for cell in order.cells}
    apart = order.scale == "smoke"
    kinds = [(column, kind) for column in columns for kind in ("paper", "ours")]
    if apart:
        kinds = [(column, kind) for kind in ("ours", "paper") for column in columns]
    table = Table("")
    table.add_numbers(*(_head(target.columns[column], kind, apart=apart) for column, kind in kinds))
    reasons = outcome.reasons
    for row in rows:
        cells = [(by_place.get((row, column)), kind) for column, kind in kinds]
        texts = ["" if cell is None else _text(cell, kind, outcome.answers[cell], reasons) for cell, kind in cells]
        table.add_row(target.rows[row], *texts)
    return table


def _head(printed: str, kind: str, *, apart: bool) -> str:
    if not apart:
        return f"{printed}\n{kind}"
    return f"{printed}\nsmoke" if kind == "ours" else f"{printed}\n(paper, another setting)"


def _text(cell: Cell, kind: str, answer: Answer, reasons: Sequence[str]) -> str:
    if kind == "paper":
        return "–" if cell.figure == NOT_PRINTED else cell.figure
    if answer.summary is not None:
        return _figure(cell, answer.summary)
    return f"– [{reasons.index(answer.reason) + 1}]" if answer.reason else "–"


def _figure(cell: Cell, summary: Summary) -> str:
    """Return `mean ± standard deviation (n)` in the unit of the printed figure, with as many decimals, one at least."""
    factor, unit = (100.0, "%") if cell.place.read == "coverage" and "%" in cell.figure else (1.0, "")
    decimals = re.match(r"\d+\.?(\d*)", cell.figure)
    digits = max(1, len(decimals.group(1)) if decimals else 1)
    spread = "" if summary.std is None else f" ± {factor * summary.std:.{digits}f}"
    return f"{factor * summary.mean:.{digits}f}{spread}{unit} ({summary.n})"


def _drawn(outcome: Outcome) -> list[str]:
    """Return a line for each set that a figure shows, or that it lacks."""
    lines = []
    for cell in outcome.order.cells:
        answer = outcome.answers[cell]
        what = f"– [{outcome.reasons.index(answer.reason) + 1}]" if answer.reason else "drawn"
        lines.append(f"{outcome.order.target.rows[cell.row]}: {what}")
    return lines


def notes(outcome: Outcome) -> list[str]:
    """Return the lines below the table."""
    order = outcome.order
    lines = [f"[{number}] {reason}" for number, reason in enumerate(outcome.reasons, start=1)]
    lines += outcome.warnings
    if order.scale == "smoke":
        lines += _smoke_ipcs(order)
    lines += list(order.target.notes)
    if order.target.draw is None:
        lines += _statistics(order, {cell.place.read for cell in order.cells})
    return lines


def _smoke_ipcs(order: Order) -> list[str]:
    """Return which IPCs stand for the table's, method by method."""
    methods = {cell.place.method: cell.place for cell in order.cells if cell.place.method in SMOKE}
    if not methods or {cell.place.read for cell in order.cells} == {"seconds"}:
        return []
    ipcs = ipcs_of(order.target.cells)[:2]
    numbers = {method: smoke_ipcs(place)[: max(1, len(ipcs))] for method, place in methods.items()}
    stand = [f"{method} {' and '.join(map(str, found))}" for method, found in numbers.items()]
    asked = f"IPC {' and '.join(map(str, ipcs))}" if ipcs else "the paper's IPC"
    lines = [f"smoke: for {asked} stand {', '.join(stand)}"]
    if any(place.student for place in methods.values()):
        lines.append("smoke: students of two epochs hardly learn, so their accuracies say nothing")
    return lines


def _statistics(order: Order, reads: set[str]) -> list[str]:
    if reads == {"seconds"}:
        return [TIMED[order.scale]]
    lines = ["ours: mean ± standard deviation over syntheses (their number)"]
    if order.seeds == 1:
        lines = ["ours: one synthesis (1), so no spread; --seeds 5 gives one"]
    if "accuracy" in reads:
        lines.append(
            "ours: accuracy after the last epoch; the paper's may be the best on the test set, which table.json has too"
        )
    return lines


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return what table.json holds."""
    order = outcome.order
    return {
        "target": order.target.name,
        "title": heading_of(outcome.order),
        "scale": order.scale,
        "comparable with the paper": order.scale == "paper",
        "seeds": list(range(order.base.seed, order.base.seed + order.seeds)),
        "cells": [_cell_json(outcome, cell) for cell in order.cells],
        "notes": notes(outcome),
        **({"figure": str(outcome.figure)} if outcome.figure else {}),
    }


def _cell_json(outcome: Outcome, cell: Cell) -> Mapping[str, Any]:
    target, answer = outcome.order.target, outcome.answers[cell]
    ours = None if answer.summary is None else {**asdict(answer.summary), "values": answer.values}
    return {
        "row": target.rows[cell.row],
        "column": target.columns[cell.column] if target.columns else "images",
        "reads": cell.place.read,
        "paper": None if cell.figure == NOT_PRINTED else cell.figure,
        "ours": ours,
        "reason": answer.reason or None,
        "runs": answer.runs,
        **answer.more,
    }
