"""Figures 1 to 3: the runs of their sets, and the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dire_plug.files import make_folder
from dire_plug.paper.reproduce.fill_runs import Runs, folders_of
from dire_plug.paper.reproduce.paper_tables import Cell, Target
from dire_plug.paper.reproduce.request import Answer, attempt
from dire_plug.pipeline import FinishedRun
from dire_plug.results.report import draw_class_grid, draw_class_similarity, draw_tsne
from dire_plug.store.runs import choose_device

FILE = "figure.png"
SMOKE_LABEL = 3
"""The class that Figure 3 shows at the smoke scale, the digit 3: there is no peacock."""


def draw_figure(runs: Runs, folder: Path) -> tuple[dict[Cell, Answer], Path | None]:
    """Make the runs of a figure and draw what could be made; return the answer of each set, and the file.

    Numbers lie beside the file, as JSON. A drawing that fails is the reason of every set that it would have shown.
    """
    found: dict[Cell, list[FinishedRun]] = {}
    answers = {cell: attempt(lambda cell=cell: _run(cell, runs, found)) for cell in runs.order.cells}  # type: ignore[misc]
    if not found:
        return answers, None
    path = folder / FILE
    drawn = attempt(lambda: _draw(runs, [finished[0] for finished in found.values()], path))
    if drawn.reason:
        answers |= dict.fromkeys(found, drawn)
    return answers, None if drawn.reason else path


def _run(cell: Cell, runs: Runs, found: dict[Cell, list[FinishedRun]]) -> Answer:
    found[cell] = runs.of(cell)
    return Answer(runs=tuple(folders_of(found[cell])))


def _draw(runs: Runs, finished: Sequence[FinishedRun], path: Path) -> Answer:
    """Draw the first synthesis of each set."""
    order = runs.order
    make_folder(path.parent)
    device = choose_device(order.base.device)
    if order.target.draw == "tsne":
        draw_tsne(finished, path, device=device)
    elif order.target.draw == "similarity":
        draw_class_similarity(finished, path, device=device)
    else:
        draw_class_grid(finished, path, label=_label(order.target, order.scale))
    return Answer()


def _label(target: Target, scale: str) -> int:
    return SMOKE_LABEL if scale == "smoke" or target.label is None else target.label
