"""Hold the finished runs of a comparison, and tell which arms `control` is the control of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dire_plug.recipe import without_terms
from dire_plug.results.ladder import Step
from dire_plug.store.runs import FinishedRun


@dataclass(frozen=True)
class Comparison:
    """The finished runs of every arm by seed, and which arms are the same run.

    Attributes:
        runs: arm → one run a seed, in the order of the seeds.
        same: arm → the arm that it equals.
        controlled: the arms with a term that `control` is without it, and nothing else changed.
        uncontrolled: the arms with a term that differ from `control` in more.
        changes: the options of the command line that change the recipe.
        steps: of a ladder, from baseline to `dire`; none where arms aren't compared so.
    """

    method: str
    recipe: str
    ipc: int
    seeds: tuple[int, ...]
    engine: str
    runs: dict[str, list[FinishedRun]]
    same: dict[str, str]
    controlled: tuple[str, ...]
    uncontrolled: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()


def split_recipes(
    recipes: Mapping[str, dict[str, Any]], with_term: Sequence[str], *, control: str = "control"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split arms as `split_by_control` does, given resolved recipes by arm.

    Args:
        with_term: the arms with a term.
        control: the arm that stands for control.
    """
    if control not in recipes:
        return (), ()
    bare = {arm: without_terms(recipes[arm]) for arm in (control, *with_term)}
    controlled = tuple(arm for arm in with_term if bare[arm] == bare[control])
    return controlled, tuple(arm for arm in with_term if arm not in controlled)
