"""Hold the finished runs of a comparison, and tell which arms `control` is the control of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dire_plug.recipe import without_terms
from dire_plug.results.ladder import Step, order_arms
from dire_plug.store.runs import FinishedRun


@dataclass(frozen=True)
class Comparison:
    """The finished runs of every arm by seed, and which arms are the same run.

    Attributes:
        runs: arm → one run a seed, in the order of the seeds.
        same: arm → the arm that it equals.
        controlled: the arms with a term that `control`, or what stands for it, is without it, and nothing else changed.
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
    recipes: Mapping[str, dict[str, Any]], with_term: Sequence[str]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Split arms as `split_by_control` does, given resolved recipes by arm.

    Args:
        with_term: the arms with a term.
    """
    if (control := find_control(recipes, with_term)) not in recipes:
        return control, (), ()
    bare = {arm: without_terms(recipes[arm]) for arm in (control, *with_term)}
    controlled = tuple(arm for arm in with_term if bare[arm] == bare[control])
    return control, controlled, tuple(arm for arm in with_term if arm not in controlled)


def find_control(recipes: Mapping[str, dict[str, Any]], with_term: Sequence[str]) -> str:
    """Return the arm that stands for control: itself, or the one of a ladder that is an arm with a term without it.

    Args:
        recipes: arm → its resolved recipe.
        with_term: the arms with a term; of several that differ in more, `dire` decides.
    """
    if "control" in recipes or not with_term:
        return "control"
    bare = without_terms(recipes["dire" if "dire" in with_term else with_term[0]])
    plain = (arm for arm in order_arms(recipes) if arm not in with_term)
    return next((arm for arm in plain if without_terms(recipes[arm]) == bare), "control")


def add_control(
    runs: dict[str, list[FinishedRun]], control: str
) -> tuple[dict[str, list[FinishedRun]], dict[str, str]]:
    """Return the runs with control's, in the order of a table, where another arm stands for it, and {} or that arm."""
    if control == "control" or control not in runs:
        return runs, {}
    runs = runs | {"control": runs[control]}
    return {arm: runs[arm] for arm in dict.fromkeys([*order_arms(runs), *runs])}, {"control": control}
