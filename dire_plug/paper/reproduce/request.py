"""What is asked for, and what a cell answers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError, DivergedError, RunBusyError, nearest
from dire_plug.paper.reproduce.paper_tables import Cell, Target
from dire_plug.paper.reproduce.scales import Scale, ipcs_of, request_of
from dire_plug.pipeline import Request
from dire_plug.results.statistics import Summary, summarise


@dataclass(frozen=True)
class Order:
    """Some cells of one table or figure.

    Attributes:
        choice: the row and the column that were asked for, by name; empty for the whole.
        base: device, engine, folders and first seed of every run; the cells say the rest.
        seeds: syntheses of each cell.
        rded: the folder of images that RDED's own code made.
        weights: a file with CLIP's weights.
    """

    target: Target
    cells: tuple[Cell, ...]
    scale: Scale
    base: Request
    choice: tuple[str, ...] = ()
    seeds: int = 1
    rded: Path | None = None
    weights: Path | None = None

    def request(self, cell: Cell) -> Request:
        """Return the request of a cell's first run.

        Raises:
            DirePlugError: the scale leaves this cell out.
        """
        return request_of(cell, self.scale, base=self.base, ipcs=ipcs_of(self.target.cells))


@dataclass(frozen=True)
class Answer:
    """What fills a cell, or why it is empty.

    Attributes:
        summary: mean, spread and number of syntheses.
        values: what the summary is of.
        runs: the folders that they come from.
        reason: why there is no value.
        failed: whether something broke that should have worked.
        more: what else was read, for table.json.
    """

    summary: Summary | None = None
    values: tuple[float, ...] = ()
    runs: tuple[str, ...] = ()
    reason: str = ""
    failed: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


def answer(values: Sequence[float], runs: Sequence[str], **more: Any) -> Answer:
    """Return the answer of one value a synthesis."""
    return Answer(summarise(values), tuple(values), tuple(runs), more=more)


def attempt(fill: Callable[[], Answer]) -> Answer:
    """Return what `fill` answers; an error becomes the reason of an empty cell, so that the others go on.

    Raises:
        RunBusyError: a live process works on a run of the cell, and the order doesn't want to wait.
    """
    try:
        return fill()
    except RunBusyError:
        raise
    except DirePlugError as error:
        broke = isinstance(error, DivergedError) or error.exit_code != DirePlugError.exit_code
        return Answer(reason=one_line(str(error)), failed=broke)
    except Exception as error:
        if ui.is_verbose():
            traceback.print_exc()
        reason = f"something failed that wasn't foreseen ({type(error).__name__}: {one_line(str(error))})"
        return Answer(reason=reason, failed=True)


def one_line(message: str) -> str:
    """Return a message without its line breaks."""
    return " ".join(message.split())


# Which cells a command asks for: `--row` and `--column`.


def select(target: Target, *, row: str | None = None, column: str | None = None) -> tuple[Cell, ...]:
    """Return the cells of a row and a column, in the table's order; None takes all.

    A row is named as its method, or as the table's rows are; a column by its IPC, or by what it reads. Where rows are
    IPCs, a column is an IPC all the same.

    Raises:
        DirePlugError: there is no such row or column, or they have no cell in common.
    """
    cells = target.cells
    if row is not None:
        cells = _of_row(target, row)
    if column is not None:
        chosen = {(cell.row, cell.column) for cell in _of_column(target, column)}
        cells = tuple(cell for cell in cells if (cell.row, cell.column) in chosen)
    if not cells:
        raise DirePlugError(f"{target.name}: row '{row}' has no cell in column '{column}'")
    return cells


def row_names(target: Target) -> list[str]:
    """Return what `--row` takes: the names of the rows."""
    return list(dict.fromkeys(cell.row_name for cell in target.cells))


def column_names(target: Target) -> list[str]:
    """Return what `--column` takes: the IPCs, and the names of the columns."""
    ipcs = sorted({cell.place.ipc for cell in target.cells if cell.place.ipc is not None})
    return [*map(str, ipcs), *dict.fromkeys(cell.column_name for cell in target.cells if cell.column_name)]


def _of_row(target: Target, row: str) -> tuple[Cell, ...]:
    """Return the cells of a row by its name, or else of all rows of a method."""
    named = tuple(cell for cell in target.cells if cell.row_name == row)
    found = named or tuple(cell for cell in target.cells if cell.place.method == row)
    if not found:
        raise _unknown(target, "row", row, row_names(target))
    return found


def _of_column(target: Target, column: str) -> tuple[Cell, ...]:
    found = tuple(cell for cell in target.cells if column in (str(cell.place.ipc), cell.column_name))
    if not found:
        raise _unknown(target, "column", column, column_names(target))
    return found


def _unknown(target: Target, kind: str, name: str, known: Sequence[str]) -> DirePlugError:
    listed = f"there is {', '.join(known)}" if known else f"it has no {kind}s to choose from"
    return DirePlugError(f"{target.name} has no {kind} '{name}'{nearest(name, known)}; {listed}")
