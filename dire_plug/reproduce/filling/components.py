"""Cells of Table 14: the seven combinations of the regularizer's components, normalised together."""

from __future__ import annotations

from dire_plug.ablate.components import COMBINATIONS, Components, ablate_components, normalised_columns
from dire_plug.errors import DirePlugError
from dire_plug.reproduce.filling.runs import Runs, folders_of
from dire_plug.reproduce.order import Answer
from dire_plug.reproduce.printed import Cell
from dire_plug.results.statistics import ACCURACY, Summary

SPACE = "T"


def fill_from_ablation(cell: Cell, runs: Runs) -> Answer:
    """Return a combination's accuracy, or its mean diversity on the scale of all seven: 0 is the least, 1 the greatest.

    Raises:
        DirePlugError: the ablation, or this combination, failed.
    """
    request = runs.order.request(cell)
    found = runs.once(("components", request), lambda: ablate_components(request, runs.order.seeds))
    assert isinstance(found, Components)
    name = next(name for name, parts in COMBINATIONS.items() if parts == cell.place.components)
    trial = found.trials[name]
    if trial.trouble is not None:
        raise DirePlugError(f"{name}: {trial.trouble}")
    if cell.place.read == "accuracy":
        summary = trial.summary(ACCURACY[0])
    else:
        place = normalised_columns(found, SPACE)[cell.place.read][name]
        summary = None if place is None else Summary(place, None, len(found.seeds))
    if summary is None:
        raise DirePlugError(f"{name}: the seven combinations don't differ in {cell.place.read}, or lack it")
    return Answer(summary, runs=tuple(folders_of(trial.runs)))
