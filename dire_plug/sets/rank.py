"""Rank a condensed set, from any source, by DD-Ranking's scores: train the students that they need, or reuse them.

Hard labels: the class is the label, nothing augments or mixes, SGD as in the protocol `hard-labels`, in the epochs and
batches of the recipe; DD-Ranking's own default is of that kind. The recipe's students, seeds and tests stay.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.pipeline.request import fewest
from dire_plug.recipe.check import FULL
from dire_plug.recipe.evaluate import DeltSection, EvaluateSection, HardLabelsSection
from dire_plug.recipe.values import LEARNED
from dire_plug.sets.opened import OpenedSet, SetRequest, fit_protocol, open_set
from dire_plug.sets.robust_scores import RATE, WEIGHT, LearningRate, RankedSet, check_weight
from dire_plug.stages.artefacts import Source
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.images import ImageSet
from dire_plug.stages.real_images import plan_budget, select_random, too_few, with_budget
from dire_plug.stages.squeeze import squeeze_loop
from dire_plug.store.lease import until_kept
from dire_plug.store.runs import Run

OFF: Mapping[str, Any] = {"augmentation": "none", "padding": 0, "mixup": 0, "cutmix": 0, "dsa": "none"}
"""The keys of the protocols that augment or mix, and what turns them off."""
MOST_BYTES = 16 << 30
"""The largest training set for students with hard labels: all its pixels, uint8, in one tensor."""

Students = dict[str, Any]


@until_kept
def rank_set(
    request: SetRequest,
    *,
    rates: Sequence[float] = (RATE,),
    weight: float = WEIGHT,
    full_accuracy: float | None = None,
    per_set: int | None = None,
) -> RankedSet:
    """Return the scores of a set; students that were trained before, for this or for another set, are reused.

    Args:
        rates: learning rates with hard labels; of several, each condition takes its best, chosen on the test images.
        weight: see `RankedSet`.
        full_accuracy: in percent, of a student of all real images with hard labels; None trains some.
        per_set: students of each condition and architecture; None takes the recipe's number.

    Raises:
        DirePlugError: classes hold different numbers of images, the weight isn't in [0, 1]; see `open_set` and
            `stages.evaluate`.
    """
    check_weight(weight)
    opened, own, images, notes = _open(request, per_set)
    per_class = opened.condensed.require_equal_classes()
    run = opened.run
    if full_accuracy is None:
        check_full(run)  # before anything is trained
    sets = {"set": images, "random": random_images(run, per_class=per_class), "full": full_images(run)}
    networks = squeeze_loop(run)

    def train(condition: str, section: EvaluateSection) -> Students:
        """Return the students of one condition, whose first word names its images."""
        named = replace(sets[condition.split()[0]], name=condition)
        students: Students = evaluate(run, networks, named, section=section)["students"]
        return students

    accuracies: dict[str, Students] = {}
    chosen: dict[str, LearningRate] = {}
    for name in ("set", "random"):
        accuracies[f"{name} own"] = train(f"{name} own", own)
        learns = sets[name].synthesized
        accuracies[f"{name} hard"], chosen[name] = _train_hard(train, f"{name} hard", own, rates, learns=learns)
    try:
        plain = without_augmentation(own)
    except DirePlugError as error:
        notes.append(f"no ARS: {error}")
    else:
        accuracies |= {name: train(name, plain) for name in ("set plain", "random plain")}
    budget = None
    if full_accuracy is None:
        # as many steps as a student of the set takes, so that only the images differ
        budget = plan_budget(run, own, ipc=per_class)
        ui.say(f"rank: students of all {budget.images:,} images train for {budget.epochs} epochs, unless they exist")
        section = with_budget(own, budget)
        accuracies["full hard"], chosen["full"] = _train_hard(train, "full hard", section, rates, learns=False)
    return RankedSet(
        condensed=opened.describe(),
        recipe=opened.recipe,
        seed=run.seed,
        weight=weight,
        accuracies=accuracies,
        full_accuracy=full_accuracy,
        rates=chosen,
        budget=None if budget is None else budget.to_json(),
        notes=tuple(notes),
    )


def open_for_ranking(
    request: SetRequest,
    *,
    rates: Sequence[float] = (RATE,),
    full_accuracy: float | None = None,
    per_set: int | None = None,
) -> tuple[Run, list[tuple[str, EvaluateSection, ImageSet]]]:
    """Return the run that judges a set, and name, protocol and images of all students that `rank_set` trains.

    Raises:
        DirePlugError: see `rank_set`.
    """
    opened, own, images, _ = _open(request, per_set)
    run, per_class = opened.run, opened.condensed.require_equal_classes()
    found = []
    for name, of_set in {"set": images, "random": random_images(run, per_class=per_class)}.items():
        found.append((f"{name} own", own, of_set))
        found += [(f"{name} hard at {lr}", section, of_set) for lr, section in _hard_sections(own, rates)]
        with contextlib.suppress(DirePlugError):  # a protocol that always augments has no score without
            found.append((f"{name} plain", without_augmentation(own), of_set))
    if full_accuracy is None:
        check_full(run)
        section = with_budget(own, plan_budget(run, own, ipc=per_class))
        found += [(f"full hard at {lr}", hard, full_images(run)) for lr, hard in _hard_sections(section, rates)]
    return run, found


def _open(request: SetRequest, per_set: int | None) -> tuple[OpenedSet, EvaluateSection, ImageSet, list[str]]:
    if per_set is not None:
        request = replace(request, settings=(*request.settings, f"evaluate.per_synthesis={per_set}"))
    opened = open_set(request)
    least, name = fewest(opened.run.dataset)
    if (wanted := opened.condensed.require_equal_classes()) > least:
        # as many random images are ranked beside it
        raise too_few(opened.run.dataset, name, count=least, ipc=wanted)
    return opened, *fit_protocol(opened)


def _hard_sections(section: EvaluateSection, rates: Sequence[float]) -> list[tuple[LearningRate, EvaluateSection]]:
    """Return (learning rate, protocol with hard labels) of those that are tried."""
    if isinstance(section, HardLabelsSection):
        return [(section.lr, with_hard_labels(section))]
    return [(rate, with_hard_labels(section, lr=rate)) for rate in rates]


def _train_hard(
    train: Callable[[str, EvaluateSection], Students],
    condition: str,
    section: EvaluateSection,
    rates: Sequence[float],
    *,
    learns: bool,
) -> tuple[Students, LearningRate]:
    """Return the students of a condition with hard labels, and their learning rate: the best of several on test.

    Args:
        learns: whether the images may come with a learning rate that their synthesis learned.
    """
    if isinstance(section, HardLabelsSection):
        rate = section.lr if learns or section.lr != LEARNED else section.lr_without
        return train(condition, with_hard_labels(section)), rate
    tried = {rate: train(condition, with_hard_labels(section, lr=rate)) for rate in rates}
    best = max(tried, key=lambda rate: sum(student["mean"] for student in tried[rate].values()))
    return tried[best], best


def with_hard_labels(section: EvaluateSection, *, lr: float = RATE) -> EvaluateSection:
    """Return the protocol with the class for a label and without augmentation, in as many epochs.

    Args:
        lr: of SGD; a protocol with hard labels of its own keeps its learning rate.
    """
    if isinstance(section, HardLabelsSection):
        return section.model_copy(update={"dsa": "none"})
    # students, epochs, batches and tests of the recipe
    shared = section.model_dump(include=set(EvaluateSection.model_fields) - {"protocol"})
    return HardLabelsSection(protocol="hard-labels", lr=lr, dsa="none", **shared)


def without_augmentation(section: EvaluateSection) -> EvaluateSection:
    """Return the protocol without augmentation and without mixing.

    Raises:
        DirePlugError: the protocol can't do without.
    """
    if isinstance(section, DeltSection):
        raise DirePlugError(
            f"the protocol '{section.protocol}' always crops and flips, so there is no score without augmentation"
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
    """Raise for a training set that is too large for one tensor.

    Raises:
        DirePlugError: it takes more than `MOST_BYTES`.
    """
    dataset = run.dataset
    if (needed := len(dataset.train) * 3 * dataset.size**2) > MOST_BYTES:
        raise DirePlugError(
            f"the {len(dataset.train)} training images of {dataset.name} at {dataset.size} pixels take "
            f"{needed / 2**30:.0f} GiB in one tensor, more than the limit of {MOST_BYTES >> 30} GiB; give the "
            "accuracy of a student of all of them with hard labels instead: --full-accuracy PERCENT"
        )
