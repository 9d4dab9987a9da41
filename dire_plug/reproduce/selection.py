"""Which cells a command asks for: `--row` and `--column`."""

from collections.abc import Sequence

from dire_plug.errors import DirePlugError, nearest
from dire_plug.reproduce.printed import Cell, Target


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
