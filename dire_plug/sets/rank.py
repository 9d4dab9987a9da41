"""Rank a condensed set, whoever made it, by DD-Ranking's scores: train the students that they need, or find them.

Hard labels: the class is the label, nothing augments or mixes, SGD as in the protocol `hard-labels`, in the epochs and
batches of the recipe; DD-Ranking's own default is of that kind. The recipe's students, seeds and tests stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.recipe.evaluate import DeltSection, EvaluateSection, HardLabelsSection
from dire_plug.recipe.values import LEARNED
from dire_plug.sets.opened import SetRequest, fit_protocol, open_set
from dire_plug.sets.robust_scores import RATE, WEIGHT, RankedSet, Rate, check_weight
from dire_plug.stages.artefacts import FULL, Networks, Source
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.images import ImageSet
from dire_plug.stages.real_images import plan_budget, select_random, with_budget
from dire_plug.stages.squeeze import squeeze_loop
from dire_plug.store.runs import Run

OFF: Mapping[str, Any] = {"augmentation": "none", "padding": 0, "mixup": 0, "cutmix": 0, "dsa": "none"}
"""The keys of the protocols that augment or mix, and what turns them off."""
MOST_BYTES = 16 << 30
"""The largest training set of which students learn with hard labels: all images in float, in one piece."""

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
    opened = open_set(request)
    own, images, notes = fit_protocol(opened)
    per_class = opened.condensed.require_equal_classes()
    run = opened.run
    if how.full_accuracy is None:
        check_full(run)
    sets = {"set": images, "random": random_images(run, per_class=per_class), "full": full_images(run)}
    course = _Course(run, squeeze_loop(run), sets, own, how.rates)
    accuracies: dict[str, Students] = {}
    rates: dict[str, Rate] = {}
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
        accuracies["full hard"], rates["full"], budget = course.train_full(per_class)
    return RankedSet(
        condensed=opened.describe(),
        recipe=opened.recipe,
        seed=run.seed,
        weight=how.weight,
        accuracies=accuracies,
        full_accuracy=how.full_accuracy,
        rates=rates,
        budget=budget,
        notes=tuple(notes),
    )


def with_hard_labels(section: EvaluateSection, *, lr: float = RATE) -> EvaluateSection:
    """Return the protocol with the class for a label and without augmentation, in as many epochs.

    Args:
        lr: of SGD; a protocol with hard labels of its own keeps its learning rate.
    """
    if isinstance(section, HardLabelsSection):
        return section.model_copy(update={"dsa": "none"})
    shared = section.model_dump(include=set(EvaluateSection.model_fields) - {"protocol"})
    return HardLabelsSection(protocol="hard-labels", lr=lr, dsa="none", **shared)


def without_augmentation(section: EvaluateSection) -> EvaluateSection:
    """Return the protocol without augmentation and without mixing.

    Raises:
        DirePlugError: the protocol can't do without.
    """
    if isinstance(section, DeltSection):
        raise DirePlugError(
            f"the protocol '{section.protocol}' always crops and flips, so there is no score without it"
        )
    return section.model_copy(update={key: value for key, value in OFF.items() if key in type(section).model_fields})


def random_images(run: Run, *, per_class: int) -> ImageSet:
    """Return as many real images of each class, drawn by the run's seed; pixels as they are in the dataset."""
    return ImageSet(
        Source(digest={"random": per_class, "seed": run.seed}),
        lambda: select_random(run.dataset, ipc=per_class, seed=run.seed),
        name="random",
        synthesized=False,
    )


def full_images(run: Run) -> ImageSet:
    """Return all training images; see `check_full`."""
    train = run.dataset.train
    return ImageSet(Source(digest=FULL), lambda: (train.images(), train.labels), name=FULL, synthesized=False)


def check_full(run: Run) -> None:
    """Raise for a training set of which students can't learn in one piece.

    Raises:
        DirePlugError: it takes more than `MOST_BYTES` in float.
    """
    dataset = run.dataset
    if (needed := 4 * len(dataset.train) * 3 * dataset.size**2) > MOST_BYTES:
        raise DirePlugError(
            f"the {len(dataset.train)} training images of {dataset.name} at {dataset.size} pixels take "
            f"{needed / 2**30:.0f} GiB in one piece, and more than {MOST_BYTES >> 30} GiB aren't taken; give the "
            "accuracy of a student of all of them with hard labels instead: --full-accuracy PERCENT"
        )


@dataclass(frozen=True)
class _Course:
    """What all conditions share."""

    run: Run
    networks: Networks
    sets: Mapping[str, ImageSet]
    own: EvaluateSection
    rates: tuple[float, ...]

    def train(self, condition: str, section: EvaluateSection) -> Students:
        """Return the students of one condition, whose images its first word names."""
        images = replace(self.sets[condition.split()[0]], name=condition)
        students: Students = evaluate(self.run, self.networks, images, section=section)["students"]
        return students

    def train_hard(self, name: str) -> tuple[Students, Rate]:
        """Return the students of one set of images with hard labels, and the learning rate that they had."""
        return self._best_rate(f"{name} hard", self.own, learns=self.sets[name].synthesized)

    def train_full(self, per_class: int) -> tuple[Students, Rate, dict[str, int]]:
        """Return the students of all real images with hard labels, their learning rate, and how long they learned."""
        budget = plan_budget(self.run, self.own, ipc=per_class)
        ui.say(
            f"rank: students of all {budget.images:,} images learn for {budget.epochs} epochs, unless they are there"
        )
        students, rate = self._best_rate("full hard", with_budget(self.own, budget), learns=False)
        return students, rate, budget.to_json()

    def _best_rate(self, condition: str, section: EvaluateSection, *, learns: bool) -> tuple[Students, Rate]:
        if isinstance(section, HardLabelsSection):
            rate = section.lr if learns or section.lr != LEARNED else section.lr_without
            return self.train(condition, with_hard_labels(section)), rate
        tried = {rate: self.train(condition, with_hard_labels(section, lr=rate)) for rate in self.rates}
        best = max(tried, key=lambda rate: sum(student["mean"] for student in tried[rate].values()))
        return tried[best], best
