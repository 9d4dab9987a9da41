"""The whole in order: each cell to what fills it, then the figure, then what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dire_plug import ui
from dire_plug.paper.reproduce.fill_figures import draw_figure
from dire_plug.paper.reproduce.fill_runs import Runs, fill_from_ablation, fill_from_run, find_mixed_teachers
from dire_plug.paper.reproduce.fill_sets import fill_from_embedding, fill_from_outside, fill_from_students
from dire_plug.paper.reproduce.fill_timing import fill_from_timing
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell, Place
from dire_plug.paper.reproduce.request import Answer, Order, attempt
from dire_plug.store.runs import runs_root

Filler = Callable[[Cell, Runs], Answer]


@dataclass(frozen=True)
class Outcome:
    """What an order came to.

    Attributes:
        answers: one for each of the order's cells.
        figure: the file of the drawn figure, where the order asks for one and something could be drawn.
        warnings: what forbids to compare the rows with each other.
    """

    order: Order
    answers: dict[Cell, Answer]
    figure: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """Why cells are empty, each reason once, in the table's order."""
        return list(dict.fromkeys(answer.reason for answer in self.answers.values() if answer.reason))

    @property
    def failed(self) -> bool:
        """Whether something broke that should have worked; what isn't here to be run is no failure."""
        return any(answer.failed for answer in self.answers.values())


def reproduce(order: Order) -> Outcome:
    """Fill every cell of an order: finished runs are reused, missing ones are run.

    A cell that can't be filled is left empty with the reason, and the others go on.
    """
    runs = Runs(order)
    if order.target.draw is not None:
        answers, figure = draw_figure(runs, folder_of(order))
        return Outcome(order, answers, figure, tuple(find_mixed_teachers(runs)))
    answers = {}
    for cell in order.cells:
        answers[cell] = attempt(lambda cell=cell: _fill(cell, runs))  # type: ignore[misc]
        if reason := answers[cell].reason:
            ui.detail(f"{order.target.rows[cell.row]}, {order.target.columns[cell.column]}: {reason}")
    return Outcome(order, answers, warnings=tuple(find_mixed_teachers(runs)))


def folder_of(order: Order) -> Path:
    """Return the folder of what an order leaves; a choice of rows or columns has one of its own."""
    name = "-".join([order.target.name, order.scale, *order.choice])
    return runs_root(order.base) / "reproduce" / name


def _fill(cell: Cell, runs: Runs) -> Answer:
    if cell.figure == NOT_PRINTED:
        return Answer()
    return _filler(cell.place)(cell, runs)


def _filler(place: Place) -> Filler:
    """Return what fills a cell, by what it is about."""
    if place.set:
        return fill_from_outside
    if place.components:
        return fill_from_ablation
    if place.read == "seconds":
        return fill_from_timing
    if place.embedding:
        return fill_from_embedding
    return fill_from_students if place.student else fill_from_run
