"""The results of a table's cells: values with their summary, or the reason why a cell is empty."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError, DivergedError, MissingError, RunBusyError, describe_lack
from dire_plug.paper.reproduce.paper_tables import Cell
from dire_plug.paper.reproduce.request import TableRequest
from dire_plug.results.statistics import Summary, summarise

WHOLE, LOAD = "whole, extrapolated", "load, cores"
"""Of a timed cell: an interval of its seconds; processes that wanted to run when its timing ended, and the cores."""
BEST = "best on test"
"""The best of tests after every epoch, one value a synthesis, in `CellResult.more` and in table.json."""


@dataclass(frozen=True)
class CellResult:
    """The content of a cell, or why it is empty.

    Attributes:
        summary: mean, spread and number of syntheses.
        values: what the summary is of.
        runs: the folders that they come from.
        reason: why there is no value.
        failed: whether something broke that should have worked.
        missing: a command that fetches what the cell needs first, and the names to give it.
        more: further measurements, for table.json.
    """

    summary: Summary | None = None
    values: tuple[float, ...] = ()
    runs: tuple[str, ...] = ()
    reason: str = ""
    failed: bool = False
    missing: tuple[str, tuple[str, ...]] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableResult:
    """The results of all cells that were requested.

    Attributes:
        cells: one result for each requested cell.
        figure: the file of the drawn figure, where a figure is requested and something could be drawn.
        warnings: why the rows can't be compared with each other.
    """

    request: TableRequest
    cells: dict[Cell, CellResult]
    figure: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """Why cells are empty, each reason once, in the table's order."""
        return list(dict.fromkeys(result.reason for result in self.cells.values() if result.reason))

    @property
    def filled(self) -> bool:
        """Whether some cell has a value, or is drawn."""
        return any(result.summary is not None or (result.runs and not result.reason) for result in self.cells.values())

    @property
    def failed(self) -> bool:
        """Whether something broke that should have worked; a cell whose data or code is missing is no failure."""
        return any(result.failed for result in self.cells.values())


def missing_command(results: Iterable[TableResult]) -> str:
    """Return the command that fetches what the first of the tables' empty cells needs, for all cells that need it.

    Empty where no command does.
    """
    missing = [cell.missing for result in results for cell in result.cells.values() if cell.missing is not None]
    if not missing:
        return ""
    first, _ = missing[0]
    names = dict.fromkeys(name for command, found in missing if command == first for name in found)
    return " ".join([first, *names])


def result_of(values: Sequence[float], runs: Sequence[str], **more: Any) -> CellResult:
    """Return the result of one value a synthesis."""
    return CellResult(summarise(values), tuple(values), tuple(runs), more=more)


def attempt(fill: Callable[[], CellResult]) -> CellResult:
    """Return the result of `fill`; turn an error into the reason of an empty cell, so that the others go on.

    Raises:
        RunBusyError: a live process works on a run of the cell, and the request doesn't want to wait.
    """
    try:
        return fill()
    except RunBusyError:
        raise
    except DirePlugError as error:
        # bad input has the class's own exit code; anything else, and a loss that diverged, should have worked
        broke = isinstance(error, DivergedError) or error.exit_code != DirePlugError.exit_code
        missing = (error.command, error.names) if isinstance(error, MissingError) else None
        return CellResult(reason=one_line(str(error)), failed=broke, missing=missing)
    except Exception as error:
        if ui.is_verbose():
            # the other cells go on, so this is the only place that can show it
            traceback.print_exc()
        reason = describe_lack(error) or f"unexpected error ({type(error).__name__}: {one_line(str(error))})"
        return CellResult(reason=reason, failed=True)


def one_line(message: str) -> str:
    """Return a message without its line breaks."""
    return " ".join(message.split())
