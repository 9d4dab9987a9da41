"""The two scores of DD-Ranking (arXiv 2505.13300): what a condensed set is worth besides its labels and augmentation.

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

from dire_plug.errors import DirePlugError

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
    """Return a combined difference, in [−1, 1], brought to [0, 1]."""
    return (math.exp(value) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def _check_fractions(*accuracies: float) -> None:
    if not all(0 <= accuracy <= 1 for accuracy in accuracies):
        raise DirePlugError(f"robust scores: accuracies must be fractions in [0, 1], not {accuracies}")


def check_weight(weight: float) -> None:
    """Refuse a weight outside [0, 1]."""
    if not 0 <= weight <= 1:
        raise DirePlugError(f"robust scores: the weight must be in [0, 1], not {weight}")
