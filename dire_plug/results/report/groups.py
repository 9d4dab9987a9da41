"""Group the runs of a report into tables: those of one recipe that differ in arm and seed alone."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dire_plug.errors import DirePlugError, count_of
from dire_plug.files import digest
from dire_plug.recipe import REAL_IMAGE_ARMS, without_terms
from dire_plug.recipe.ladder import rung_number
from dire_plug.recipe.loading import flatten
from dire_plug.recipe.model import FROZEN
from dire_plug.results.comparison import Comparison, add_control, find_control, split_recipes
from dire_plug.results.ladder import Step, find_steps, order_arms
from dire_plug.results.report.runs import ReportRun
from dire_plug.store.runs import FinishedRun

ALIKE = ("dataset", "evaluate", "measure", "squeeze")
"""Sections of a recipe that runs of one table have in common."""
FIRST = ("baseline", "control", "dire")


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, by arm in the order of a table, and each arm's by seed.

    Attributes:
        ladder: whether the arms from baseline to `dire` are compared one with the next, too.
        says_protocol: whether the title says which protocol trained the students: where a report also has runs of
            `compare-methods`, which trains all methods' students in one way.
    """

    arms: dict[str, list[ReportRun]]
    ladder: bool = False
    says_protocol: bool = False

    @property
    def first(self) -> ReportRun:
        """The first run of the first arm."""
        return next(iter(self.arms.values()))[0]

    @property
    def runs(self) -> list[ReportRun]:
        """All runs, arm by arm."""
        return [run for runs in self.arms.values() for run in runs]

    @property
    def title(self) -> str:
        """Method, recipe, IPC and engine, and the protocol where that isn't plain."""
        title = f"{self.first.method} · {self.first.recipe['name']} · IPC {self.first.ipc} · engine {self.engine}"
        return f"{title} · {self.protocol}" if self.says_protocol else title

    @property
    def protocol(self) -> str:
        """How the students were trained, in words: by the recipe's own protocol, or by one for all methods."""
        section = self.first.recipe["evaluate"]
        whose = "under one protocol" if self.first.is_judged else "by its own protocol"
        return f"students {whose} ({section['protocol']}, {count_of(section['epochs'], 'epoch')})"

    @property
    def engine(self) -> str:
        """The engine of the syntheses; `none` where all images are real ones."""
        return next((run.engine for run in self.runs if run.engine != "none"), "none")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all arms, each once."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def even(self) -> bool:
        """Whether every arm has every seed."""
        return all(tuple(run.seed for run in runs) == self.seeds for runs in self.arms.values())

    def of_one_seed(self) -> list[ReportRun]:
        """Return one run an arm: of the first seed that most arms have."""
        counts = {seed: sum(seed in {run.seed for run in runs} for runs in self.arms.values()) for seed in self.seeds}
        # most arms, then the least seed
        best = max(self.seeds, key=lambda seed: (counts[seed], -seed))
        return [next((run for run in runs if run.seed == best), runs[0]) for runs in self.arms.values()]

    def comparison(self) -> Comparison:
        """Return all runs as `compare` has them; a control that would equal the baseline stands for it."""
        return self._compared(self.arms)

    def paired(self, arm: str = "dire", other: str | None = None) -> Comparison:
        """Return the comparison with an arm and another of the seeds that both have; None: control, or what it equals.

        Without such a seed it lacks the arm, so that no difference is formed.
        """
        pair = (self.control if other in (None, "control") else other, arm)
        seeds = [{run.seed for run in self.arms.get(arm, [])} for arm in pair]
        common = seeds[0] & seeds[1]
        arms = {
            name: [run for run in runs if run.seed in common] if name in pair and common else runs
            for name, runs in self.arms.items()
            if common or name != arm
        }
        return self._compared(arms)

    def _compared(self, arms: dict[str, list[ReportRun]]) -> Comparison:
        runs = {
            arm: [FinishedRun(run.folder, run.metrics, reused=True) for run in of_arm] for arm, of_arm in arms.items()
        }
        # a pair without a common seed may lack the arm that stands for control
        control, controlled, uncontrolled = split_recipes(self._recipes, self._with_term)
        runs, same = add_control(runs, control)
        return Comparison(
            method=self.first.method,
            recipe=str(self.first.recipe["name"]),
            ipc=self.first.ipc,
            seeds=self.seeds,
            engine=self.engine,
            runs=runs,
            same=same,
            controlled=controlled,
            uncontrolled=uncontrolled,
            steps=self._steps(runs) if self.ladder else (),
        )

    def _steps(self, runs: Collection[str]) -> tuple[Step, ...]:
        """Return the steps between the ladder's arms that were run; a control that wasn't is the arm that it equals."""
        recipes = self._recipes
        return find_steps({arm: recipes.get(arm, recipes.get(self.control, {})) for arm in order_arms(runs)})

    @property
    def control(self) -> str:
        """The arm that stands for control."""
        return find_control(self._recipes, self._with_term)

    @property
    def _recipes(self) -> dict[str, dict[str, Any]]:
        return {arm: runs[0].recipe for arm, runs in self.arms.items()}

    @property
    def _with_term(self) -> list[str]:
        return [arm for arm, runs in self.arms.items() if runs[0].terms]


def group(runs: Sequence[ReportRun], *, ladder: bool = False) -> list[Group]:
    """Group the runs of a report, in the order in which they were given.

    Args:
        ladder: compare arms from baseline to `dire` one with the next, also where no arm stands between.

    Raises:
        DirePlugError: the runs are of different datasets, or two of one arm have different settings.
    """
    if not runs:
        raise DirePlugError("no run was given; see `dire-plug list runs`")
    check_dataset(runs)
    engines: dict[str, list[str]] = {}
    for run in runs:
        known = engines.setdefault(_key(run), [])
        if run.engine != "none" and run.engine not in known:
            known.append(run.engine)
    found = []
    for key, names in engines.items():
        for engine in names or ["none"]:
            # real images belong to each engine's table
            mine = [run for run in runs if _key(run) == key and run.engine in (engine, "none")]
            found.append(_arrange(mine, ladder=ladder))
    says_protocol = any(run.is_judged for run in runs)
    return [replace(one, says_protocol=says_protocol) for one in found]


def check_dataset(runs: Sequence[ReportRun]) -> None:
    """Raise for runs of different datasets, whose numbers can't be compared.

    Raises:
        DirePlugError: with a run of each of two datasets.
    """
    first = runs[0]
    for run in runs:
        if run.provenance["dataset"] != first.provenance["dataset"]:
            detail = "" if run.dataset != first.dataset else ": other images, by their digests"
            raise DirePlugError(
                f"{first.name} is of {first.dataset} and {run.name} of {run.dataset}{detail}; runs of different "
                "datasets can't be compared: make a report of each"
            )


def _key(run: ReportRun) -> str:
    recipe = without_terms(run.recipe)
    alike = {part: recipe.get(part) for part in ALIKE}
    judged = run.metrics.get("judged", "test")
    # networks that only terms see don't change the evaluation
    networks = {name: one for name, one in run.metrics["networks"].items() if not name.startswith(FROZEN)}
    # students that learned in another precision stand in another table
    accelerated = run.metrics.get("accelerate", {}).get("networks", [])
    return digest([run.method, run.recipe["name"], run.ipc, alike, networks, judged, accelerated])


def _arrange(runs: Sequence[ReportRun], *, ladder: bool) -> Group:
    names = sorted({run.arm for run in runs}, key=_rank)
    arms = {arm: sorted((run for run in runs if run.arm == arm), key=lambda run: run.seed) for arm in names}
    for of_arm in arms.values():
        _check_settings(of_arm)
    return Group(arms, ladder or any(rung_number(arm) is not None for arm in arms))


def _rank(arm: str) -> tuple[int, int, str]:
    order = (*FIRST, "", *REAL_IMAGE_ARMS)  # "" is where other terms stand
    if (number := rung_number(arm)) is not None:
        return (order.index("baseline"), number, arm)  # a ladder's arms stand behind its first one
    return (order.index(arm) if arm in order else len(FIRST), 0, arm)


def _check_settings(runs: Sequence[ReportRun]) -> None:
    """Raise for runs of one arm whose settings differ, such as two values of a weight: they can't be averaged."""
    for first, run in itertools.pairwise(runs):
        mine, theirs = flatten(first.counted), flatten(run.counted)
        different = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        if different or run.seed == first.seed:
            what = ", ".join(different[:4]) or "the code or packages that made them"
            raise DirePlugError(
                f"{first.name} and {run.name} are both of the arm {run.arm}, but differ in {what}; "
                "a report holds one setting of an arm: leave out one of them"
            )
