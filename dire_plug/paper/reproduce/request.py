"""Choose cells of one table or figure and the runs that they need: `--row`, `--column`, `--scale`, `--seeds`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dire_plug import plugins
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest
from dire_plug.paper.reproduce.paper_tables import Cell, Target
from dire_plug.paper.reproduce.scales import Scale, ipcs_of, request_of
from dire_plug.pipeline import Request
from dire_plug.recipe import preset_names, read_yaml
from dire_plug.store.runs import runs_root


@dataclass(frozen=True)
class TableRequest:
    """Some cells of one table or figure.

    Attributes:
        choice: the row and the column that were asked for, by name; empty for the whole.
        base: device, engine, folders and first seed of every run, and what changes the recipes of all cells: a preset,
            settings, acceleration; the cells say the rest.
        seeds: syntheses of each cell.
        rded: the folder of images that RDED's own code made; None: the runs of our arm `rded` stand for them.
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

    @property
    def changes(self) -> tuple[str, ...]:
        """The options that change the recipes of the cells; `--accelerate exact` changes seconds only."""
        base, timed = self.base, any(cell.read == "seconds" for cell in self.cells)
        found = [] if base.preset is None else [f"--preset {base.preset}"]
        found += [f"--set {setting}" for setting in base.settings]
        if base.accelerate == "fast" or (timed and base.accelerate != "none"):
            found.append(f"--accelerate {base.accelerate}")
        return tuple(found)

    @property
    def folder(self) -> Path:
        """Where the table is stored; a choice of rows or columns, and other recipes, have a folder of their own."""
        parts = [self.target.name, self.scale, *self.choice]
        if self.changes:
            parts.append(f"changed-{digest(self.changes)[:8]}")
        return runs_root(self.base) / "reproduce" / "-".join(parts)

    def is_from_outside(self, cell: Cell) -> bool:
        """Return whether a set from elsewhere fills a cell, and no run."""
        return cell.set is not None and self.rded is not None

    def first_run(self, cell: Cell) -> Request:
        """Return the request of a cell's first run.

        Raises:
            DirePlugError: the scale leaves this cell out.
        """
        return request_of(cell, self.scale, base=self.base, ipcs=ipcs_of(self.target.cells))


def check_preset(requests: Sequence[TableRequest]) -> None:
    """Raise for a preset that no recipe of the cells has, so that all tables would be empty.

    Raises:
        DirePlugError: it names the recipes of the other scale that have it, or the presets that there are.
    """
    preset, scale = requests[0].base.preset, requests[0].scale
    if preset is None:
        return
    found = _presets(requests, scale)
    if any(preset in names for names in found.values()):
        return
    problem = f"--preset {preset}: none of the recipes of {', '.join(one.target.name for one in requests)} has it"
    if scale == "smoke":
        problem += " at the smoke scale, where each method's recipe 'quick' stands for the paper's"
        if able := [recipe for recipe, names in _presets(requests, "paper").items() if preset in names]:
            raise DirePlugError(f"{problem}; leave --scale smoke out: {', '.join(able)} has it at the paper's scale")
    known = list(dict.fromkeys(name for names in found.values() for name in names))
    raise DirePlugError(f"{problem}{nearest(preset, known)}; they have {', '.join(known) or 'none'}")


def _presets(requests: Sequence[TableRequest], scale: Scale) -> dict[str, list[str]]:
    """Return METHOD/RECIPE → its presets, of the recipes that the cells stand on at a scale."""
    found: dict[str, list[str]] = {}
    for request in requests:
        for cell in request.cells:
            # a cell that the scale leaves out says so when it is filled
            with contextlib.suppress(DirePlugError):
                run = replace(request, scale=scale).first_run(cell)
                if (name := f"{run.method}/{run.recipe}") not in found:
                    found[name] = preset_names(
                        read_yaml(plugins.find_recipe(plugins.load_adapter(run.method), run.recipe))
                    )
    return found


def select(target: Target, *, row: str | None = None, column: str | None = None) -> tuple[Cell, ...]:
    """Return the cells of a row and a column, in the table's order; None takes all.

    A row is named by its method, or as the table names it; a column by its IPC, or by what it reads. Where rows are
    IPCs, a column is an IPC all the same.

    Raises:
        DirePlugError: there is no such row or column, or they have no cell in common.
    """
    cells = target.cells
    if row is not None:
        cells = _select_row(target, row)
    if column is not None:
        chosen = {(cell.row, cell.column) for cell in _select_column(target, column)}
        cells = tuple(cell for cell in cells if (cell.row, cell.column) in chosen)
    if not cells:
        raise DirePlugError(f"{target.name}: row '{row}' has no cell in column '{column}'")
    return cells


def row_names(target: Target) -> list[str]:
    """Return the names that `--row` takes."""
    return list(dict.fromkeys(cell.row_name for cell in target.cells))


def column_names(target: Target) -> list[str]:
    """Return the names that `--column` takes: the IPCs, and the names of the columns."""
    ipcs = map(str, ipcs_of(target.cells))
    return [*ipcs, *dict.fromkeys(cell.column_name for cell in target.cells if cell.column_name)]


def _select_row(target: Target, row: str) -> tuple[Cell, ...]:
    """Return the cells of a row by its name, or else of all rows of a method."""
    # a name of its own goes first: a method may have several rows
    named = tuple(cell for cell in target.cells if cell.row_name == row)
    found = named or tuple(cell for cell in target.cells if cell.method == plugins.find_method(row))
    if not found:
        raise _unknown(target, "row", row, row_names(target))
    return found


def _select_column(target: Target, column: str) -> tuple[Cell, ...]:
    found = tuple(cell for cell in target.cells if column in (str(cell.ipc), cell.column_name))
    if not found:
        raise _unknown(target, "column", column, column_names(target))
    return found


def _unknown(target: Target, kind: str, name: str, known: Sequence[str]) -> DirePlugError:
    listed = f"there is {', '.join(known)}" if known else f"it has no {kind}s to choose from"
    return DirePlugError(f"{target.name} has no {kind} '{name}'{nearest(name, known)}; {listed}")
