"""Compute DD-Ranking's two scores (arXiv 2505.13300): the value of a set apart from its labels and augmentation.

Accuracies are fractions in [0, 1], of students tested on the same real images:

    hard-label recovery      HLR = full, hard labels − set, hard labels
    improvement over random  IOR = set − as many random real images, both under the method's own protocol
    label-robust score       LRS = squash(w·IOR − (1 − w)·HLR)
    augmentation-robust      ARS = squash(w·IOR with augmentation + (1 − w)·IOR without)
    squash(x) = (exp(x) − exp(−1)) / (exp(1) − exp(−1)), from [−1, 1] onto [0, 1]; squash(0) = 0.269

As the description in the package `ddranking` 0.2.0 has them, with w = 1/2. Its code puts percentage points into the
exponential, which leaves [0, 1]: docs/ranking.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dire_plug.errors import DirePlugError
from dire_plug.measures import to_key

# No torch in this module: the command's help shows these two.
WEIGHT = 0.5
RATE = 0.01
"""Of SGD with hard labels: the protocol's own, and what DD-Ranking takes for all images of CIFAR."""


def hard_label_recovery(*, full_hard: float, set_hard: float) -> float:
    """Return HLR: by how much students of the full training set are better, both with hard labels; the less the better.

    Raises:
        DirePlugError: an accuracy isn't a fraction.
    """
    _check_fractions(full_hard, set_hard)
    return full_hard - set_hard


def improvement_over_random(*, of_set: float, of_random: float) -> float:
    """Return IOR: by how much students of the set are better than those of random real images, under one protocol.

    Raises:
        DirePlugError: an accuracy isn't a fraction.
    """
    _check_fractions(of_set, of_random)
    return of_set - of_random


def label_robust_score(*, recovery: float, improvement: float, weight: float = WEIGHT) -> float:
    """Return LRS, in [0, 1], of HLR and IOR; `weight` is IOR's.

    Raises:
        DirePlugError: the weight isn't in [0, 1].
    """
    check_weight(weight)
    return squash(weight * improvement - (1 - weight) * recovery)


def augmentation_robust_score(*, augmented: float, plain: float, weight: float = WEIGHT) -> float:
    """Return ARS, in [0, 1], of the improvement over random with augmentation and without; `weight` is the former's.

    Raises:
        DirePlugError: the weight isn't in [0, 1].
    """
    check_weight(weight)
    return squash(weight * augmented + (1 - weight) * plain)


def squash(value: float) -> float:
    """Map a combined difference from [−1, 1] onto [0, 1]."""
    return (math.exp(value) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def _check_fractions(*accuracies: float) -> None:
    if not all(0 <= accuracy <= 1 for accuracy in accuracies):
        raise DirePlugError(f"robust scores: accuracies must be fractions in [0, 1], not {accuracies}")


def check_weight(weight: float) -> None:
    """Raise for a weight outside [0, 1]."""
    if not 0 <= weight <= 1:
        raise DirePlugError(f"robust scores: the weight must be in [0, 1], not {weight}")


LearningRate = float | str
"""A learning rate; `learned`: the one that the set's synthesis learned."""
Accuracies = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Condition → architecture → {"last": [per student], "best": […]}, in percent.

A condition is `set`, `random` or `full`, and `own` (the recipe's protocol), `hard` (hard labels, no augmentation) or
`plain` (the recipe's protocol without augmentation).
"""


@dataclass(frozen=True)
class RankedSet:
    """The scores of one set and the accuracies behind them.

    Attributes:
        condensed: the set, as `OpenedSet.describe` describes it.
        recipe: METHOD/NAME, whose protocol, students and networks these are.
        seed: of students and random images.
        weight: of the improvement over random in LRS, and of that with augmentation in ARS.
        accuracies: `full hard` isn't there where the accuracy of all real images was given.
        full_accuracy: in percent, as it was given.
        rates: condition → the learning rate of its hard labels.
        budget: how long students of all images learned; None where they weren't trained.
        notes: caveats.
    """

    condensed: dict[str, Any]
    recipe: str
    seed: int
    weight: float
    accuracies: Accuracies
    full_accuracy: float | None
    rates: dict[str, LearningRate]
    budget: dict[str, int] | None
    notes: tuple[str, ...]

    @property
    def architectures(self) -> list[str]:
        """The students."""
        return list(self.accuracies["set own"])

    def scores(self, architecture: str, kind: Literal["last", "best"] = "last") -> dict[str, list[float]]:
        """Return HLR, IOR, LRS, and where they are known IOR plain and ARS: fractions, one value a student.

        Student k of the set stands beside student k of the random images and of all images: they share their seed.
        """

        def read(condition: str) -> list[float]:
            return [value / 100 for value in self.accuracies[condition][architecture][kind]]

        own, hard = _improvements(read("set own"), read("random own")), read("set hard")
        # a given accuracy stands for every student
        full = read("full hard") if self.full_accuracy is None else [self.full_accuracy / 100] * len(hard)
        recovery = [hard_label_recovery(full_hard=a, set_hard=b) for a, b in zip(full, hard, strict=True)]
        both = zip(recovery, own, strict=True)
        scores = [label_robust_score(recovery=a, improvement=b, weight=self.weight) for a, b in both]
        found = {"HLR": recovery, "IOR": own, "LRS": scores}
        if "set plain" in self.accuracies:  # DELT's protocol always augments
            plain = _improvements(read("set plain"), read("random plain"))
            pairs = zip(own, plain, strict=True)
            robust = [augmentation_robust_score(augmented=a, plain=b, weight=self.weight) for a, b in pairs]
            found |= {"IOR plain": plain, "ARS": robust}
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the fields with the scores, JSON-like."""
        students = [student for one in self.accuracies.values() for student in one.values()]
        kinds: list[Literal["last", "best"]] = ["last"]
        # of a protocol that leaves out tests no best is known
        if all(student["best"] is not None for student in students):
            kinds.append("best")
        return {
            "set": self.condensed,
            "recipe": self.recipe,
            "seed": self.seed,
            "weight": self.weight,
            "scores": {
                kind: {
                    name: {to_key(score): values for score, values in self.scores(name, kind).items()}
                    for name in self.architectures
                }
                for kind in kinds
            },
            "accuracies": {to_key(condition): of_students for condition, of_students in self.accuracies.items()},
            "full_accuracy": self.full_accuracy,
            "rates": self.rates,
            "budget": self.budget,
            "notes": list(self.notes),
        }


def _improvements(of_set: Sequence[float], of_random: Sequence[float]) -> list[float]:
    return [improvement_over_random(of_set=a, of_random=b) for a, b in zip(of_set, of_random, strict=True)]
