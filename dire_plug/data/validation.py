"""Hold validation images out of the training images, so that a setting can be chosen without the test set.

Of each class as many are drawn, by numpy's `RandomState` (whose stream is frozen) with a fixed seed: every method, arm
and run seed of a dataset holds out the same ones. What is left is the training set of everything: the networks, the
real embeddings, real start images and the arms of real images.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dire_plug.data.dataset import Dataset, Split, TensorSplit
from dire_plug.data.folders import FolderSplit
from dire_plug.errors import DirePlugError

Judge = Literal["test", "validation"]

SEED = 0
FEWEST_LEFT = 2
"""A class keeps at least so many times the images that it gives."""
MOST = 5000
"""The default's upper bound in all, as many as are customary for CIFAR-10."""
SHARE = 5
"""The default is at most one image in so many."""


def hold_out(dataset: Dataset, count: int, *, judge: Judge) -> Dataset:
    """Return the dataset without `count` of its training images, judged on the test set or on those.

    Under the judge `validation` the test set isn't in what is returned. The digest is one under both judges, so that
    they share networks and embeddings; what depends on the judge asks `Dataset.judged` as well.

    Args:
        count: validation images in all, a multiple of the number of classes.

    Raises:
        DirePlugError: the classes can't share `count` equally, or one has too few images.
    """
    labels = dataset.train.labels
    held_out = draw_validation(labels, count, classes=dataset.classes)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    # what is left is another training set, whose networks must not be mixed up with the whole one's
    seen = hashlib.sha256(f"{dataset.digest} without".encode())
    seen.update(held_out.numpy().tobytes())
    return replace(
        dataset,
        train=take(dataset.train, torch.nonzero(kept).flatten()),
        test=dataset.test if judge == "test" else take(dataset.train, held_out),
        digest=seen.hexdigest(),
        judged=judge,
    )


def draw_validation(labels: Tensor, count: int, *, classes: tuple[str, ...]) -> Tensor:
    """Return the ascending indices of `count` images, as many of each class: [count], int64.

    Args:
        labels: [N], int64.
        classes: one name per label.

    Raises:
        DirePlugError: see `hold_out`.
    """
    if problems := validation_problems(count, classes=len(classes), judge="validation"):
        raise DirePlugError(": ".join(problems[0]))
    # minlength: a class at the end may have no image at all
    per_class, counts = count // len(classes), np.bincount(labels.numpy(), minlength=len(classes))
    label = int(counts.argmin())
    most = int(counts[label]) // FEWEST_LEFT
    if per_class > most:
        raise DirePlugError(
            f"dataset.validation: {count} images are {per_class} of each class, but class '{classes[label]}' has "
            f"{int(counts[label])} training images and keeps half of them; use at most {most * len(classes)}"
        )
    random = np.random.RandomState(SEED)
    chosen = [random.permutation(np.flatnonzero(labels.numpy() == label))[:per_class] for label in range(len(classes))]
    return torch.from_numpy(np.sort(np.concatenate(chosen))).to(torch.int64)


def validation_problems(count: int | None, *, classes: int, judge: Judge) -> list[tuple[str, str]]:
    """Return (dotted key, message) of what doesn't fit in a recipe that holds `count` images out, or none."""
    if count is None:
        message = "is 'validation', but dataset.validation holds no image out; set it to a number of images"
        return [("evaluate.judge", message)] if judge == "validation" else []
    if count >= classes and count % classes == 0:
        return []
    lower = count // classes * classes
    better = f"{lower} or {lower + classes}" if lower else str(classes)
    return [("dataset.validation", f"{count} images can't be shared equally by {classes} classes; use {better}")]


def default_count(dataset: Dataset) -> int:
    """Return how many images to hold out where nobody says: a fifth of the smallest class's from each, `MOST` in all.

    Raises:
        DirePlugError: a class has too few images for one.
    """
    classes = len(dataset.classes)
    counts = torch.bincount(dataset.train.labels, minlength=classes)
    per_class = min(int(counts.min()) // SHARE, max(1, MOST // classes))
    if per_class == 0:
        label = int(counts.argmin())
        raise DirePlugError(
            f"class '{dataset.classes[label]}' of {dataset.name} has {int(counts[label])} training images; holding one "
            f"out for validation takes {SHARE}; raise dataset.limit"
        )
    return per_class * classes


def take(split: Split, indices: Tensor) -> Split:
    """Return the images at `indices`, ascending, as a split of the same kind."""
    if isinstance(split, FolderSplit):
        return replace(split, files=split.files.take(indices))
    assert isinstance(split, TensorSplit), "a split is in memory or read on demand"
    return TensorSplit(split.pixels[indices], split.labels[indices])
