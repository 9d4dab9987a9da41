"""Rank a condensed set, whoever made it, by DD-Ranking's scores: train the students that they need, or find them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.pipeline.outside import OpenedSet, SetRequest, open_set
from dire_plug.pipeline.ranked import RankedSet, Rate
from dire_plug.pipeline.set_protocol import fit_protocol, lay_out, learned_by
from dire_plug.recipe.evaluate import EvaluateSection, HardLabelsSection
from dire_plug.recipe.values import LEARNED
from dire_plug.runs.directory import RunFolder
from dire_plug.stages.full import plan_budget, with_budget
from dire_plug.stages.job import Job
from dire_plug.stages.ranking import (
    RATE,
    Lesson,
    check_full,
    full_lesson,
    random_lesson,
    train_students,
    with_hard_labels,
    without_augmentation,
)
from dire_plug.stages.robust_scores import WEIGHT, check_weight
from dire_plug.stages.squeeze import Teachers, squeeze_loop

if TYPE_CHECKING:
    from torch import Tensor

Students = dict[str, Any]


@dataclass(frozen=True)
class Ranking:
    """How a set is ranked.

    Attributes:
        rates: learning rates with hard labels; of several, each condition takes its best, chosen on the test images.
        weight: see `RankedSet`.
        full_accuracy: in percent, of a student of all real images with hard labels; None trains some.
        per_set: students of each condition and architecture; None takes the recipe's number.
    """

    rates: tuple[float, ...] = (RATE,)
    weight: float = WEIGHT
    full_accuracy: float | None = None
    per_set: int | None = None


def rank_set(request: SetRequest, how: Ranking | None = None) -> RankedSet:
    """Return the scores of a set; students that were trained before, by this or for another set, are found.

    Raises:
        DirePlugError: classes hold different numbers of images, the weight isn't in [0, 1]; see `open_set` and
            `stages.ranking`.
    """
    how = how or Ranking()
    check_weight(how.weight)
    if how.per_set is not None:
        request = replace(request, settings=(*request.settings, f"evaluate.per_synthesis={how.per_set}"))
    opened, loop, notes = fit_protocol(open_set(request))
    lessons = _lessons(opened, loop)
    if how.full_accuracy is None:
        check_full(opened.job)
    course = _Course(opened, squeeze_loop(opened.job), lessons, how.rates)
    accuracies: dict[str, Students] = {}
    rates: dict[str, Rate] = {}
    own = opened.job.recipe.evaluate
    for name in ("set", "random"):
        accuracies[f"{name} own"] = course.train(f"{name} own", own)
        accuracies[f"{name} hard"], rates[name] = course.train_hard(name)
    try:
        plain = without_augmentation(own)
    except DirePlugError as error:
        notes.append(f"no ARS: {error}")
    else:
        accuracies |= {name: course.train(name, plain) for name in ("set plain", "random plain")}
    budget = None
    if how.full_accuracy is None:
        accuracies["full hard"], rates["full"], budget = course.train_full()
    return RankedSet(
        condensed=opened.describe(),
        recipe=opened.recipe,
        seed=opened.job.seed,
        weight=how.weight,
        accuracies=accuracies,
        full_accuracy=how.full_accuracy,
        rates=rates,
        budget=budget,
        notes=tuple(notes),
    )


def _lessons(opened: OpenedSet, loop: Tensor | None) -> dict[str, Lesson]:
    """Return what students of the set and of as many random real images learn from."""
    condensed = opened.condensed
    per_class = condensed.require_equal_classes()
    digest = {"set": condensed.digest, "in_loop_space": loop is not None, "extras": learned_by(opened)}
    own = Lesson(condensed.images, condensed.labels, digest, partial(_lay_out, opened, loop))
    return {"set": own, "random": random_lesson(opened.job, per_class=per_class)}


def _lay_out(opened: OpenedSet, loop: Tensor | None, folder: Path) -> None:
    """Put into `folder` what the protocol reads there of the set, and the students that its run has trained.

    A student is taken only where it was made from the same images, networks and settings: `stages.evaluate` sees to it.
    Those that an interrupted ranking has finished there stay.
    """
    lay_out(opened, RunFolder(folder), loop)
    if opened.run is not None:
        make_folder(folder / "evaluate")
        for file in (opened.run.path / "evaluate").glob("*-[0-9]*.json"):
            if not (folder / "evaluate" / file.name).is_file():
                shutil.copyfile(file, folder / "evaluate" / file.name)


@dataclass(frozen=True)
class _Course:
    """What all conditions share."""

    opened: OpenedSet
    networks: Teachers
    lessons: Mapping[str, Lesson]
    rates: tuple[float, ...]

    def train(self, condition: str, section: EvaluateSection) -> Students:
        """Return the students of one condition, whose lesson its first word names."""
        return self._train(self._job(condition), self.lessons[condition.split()[0]], section)

    def train_hard(self, name: str) -> tuple[Students, Rate]:
        """Return the students of one lesson with hard labels, and the learning rate that they had."""
        return self._best_rate(self._job(f"{name} hard"), self.lessons[name])

    def train_full(self) -> tuple[Students, Rate, dict[str, int]]:
        """Return the students of all real images with hard labels, their learning rate, and how long they learned."""
        job = self._job("full hard")
        budget = plan_budget(self._as_large_as_the_set(job))
        ui.say(
            f"rank: students of all {budget.images:,} images learn for {budget.epochs} epochs, unless they are there"
        )
        return *self._best_rate(with_budget(job, budget), full_lesson(job)), budget.to_json()

    def _best_rate(self, job: Job, lesson: Lesson) -> tuple[Students, Rate]:
        section = job.recipe.evaluate
        if isinstance(section, HardLabelsSection):
            rate = section.lr_without if section.lr == LEARNED and job.engine == "none" else section.lr
            return self._train(job, lesson, with_hard_labels(section)), rate
        tried = {rate: self._train(job, lesson, with_hard_labels(section, lr=rate)) for rate in self.rates}
        best = max(tried, key=lambda rate: sum(student["mean"] for student in tried[rate].values()))
        return tried[best], best

    def _train(self, job: Job, lesson: Lesson, section: EvaluateSection) -> Students:
        return train_students(job, self.networks, lesson, section)

    def _as_large_as_the_set(self, job: Job) -> Job:
        """Return the job with the set's images per class, which the recipe needn't have."""
        per_class = self.opened.condensed.require_equal_classes()
        return replace(job, recipe=job.recipe.model_copy(update={"ipc": per_class}))

    def _job(self, condition: str) -> Job:
        """Return the set's job; where real images stand in its place, as an arm of real images has it."""
        job = replace(self.opened.job, arm=condition)
        return job if condition.startswith("set ") else replace(job, engine="none")
