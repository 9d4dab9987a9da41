"""Read a condensed set from disk, from any source, check it against the real dataset, and convert it to pixels.

Files of images are pixels. Tensors that a loop saved are often what its network saw: normalised (MTT, DM), or whitened
(MTT with `--zca`). Such values have no bounds; as pixels they are cut off at 0 and 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dire_plug.data.augmentation.batch import normalise
from dire_plug.data.augmentation.zca import fit
from dire_plug.data.dataset import STATISTICS, Dataset, Triple
from dire_plug.data.subsample import resize as resize_pixels
from dire_plug.errors import DirePlugError, nearest
from dire_plug.sets.set_files import SUFFIXES, check_size, label_folders, read_folders, read_tensor_file

SLACK = 1e-4
"""How far rounding errors may leave [0, 1]."""


@dataclass(frozen=True)
class Space:
    """The space of an image's numbers, with mean and std where it is normalised."""

    kind: Literal["pixels", "normalised", "zca"]
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)


def read_space(kind: str | None, normalised_by: str | None) -> Space | None:
    """Return the space that a user names; None where none is named, so that only pixels fit.

    Args:
        normalised_by: a dataset of `STATISTICS`, or six numbers by comma: means, then standard deviations.

    Raises:
        DirePlugError: the two contradict each other, one is missing, or the numbers can't be used.
    """
    if normalised_by is None:
        if kind == "normalised":
            raise DirePlugError(
                "--space normalised: by what? Add --normalised-by with a dataset "
                f"({', '.join(STATISTICS)}) or with three means and three standard deviations by comma"
            )
        return None if kind is None else Space("zca" if kind == "zca" else "pixels")
    if kind not in (None, "normalised"):
        raise DirePlugError(f"--normalised-by contradicts --space {kind}; leave one of them out")
    if normalised_by in STATISTICS:
        return Space("normalised", *STATISTICS[normalised_by])
    return _read_numbers(normalised_by)


def _read_numbers(text: str) -> Space:
    try:
        m1, m2, m3, s1, s2, s3 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DirePlugError(
            f"--normalised-by {text}: neither a dataset whose statistics are known{nearest(text, STATISTICS)} "
            f"({', '.join(STATISTICS)}) nor six numbers by comma: three means, three standard deviations"
        ) from error
    if min(s1, s2, s3) <= 0:
        raise DirePlugError(f"--normalised-by {text}: a standard deviation must be greater than 0")
    return Space("normalised", (m1, m2, m3), (s1, s2, s3))


def to_pixels(images: Tensor, space: Space, dataset: Dataset) -> tuple[Tensor, float]:
    """Return float images of `space` as pixels in [0, 1], [n, 3, h, w], and the share of values that were cut off.

    Args:
        dataset: whose training images the whitening is fitted on, where the space is `zca`.
    """
    pixels = images
    if space.kind == "normalised":
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (space.mean, space.std))
        pixels = images * std + mean
    elif space.kind == "zca":
        train = dataset.train.images().cpu()
        pixels = fit(normalise(train, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))).invert(images)
    # measured before clipping, for the note
    outside = (pixels < -SLACK) | (pixels > 1 + SLACK)
    return pixels.clamp(0, 1), float(outside.double().mean())


def are_pixels(images: Tensor) -> bool:
    """Return whether float images lie in [0, 1]."""
    return float(images.min()) >= -SLACK and float(images.max()) <= 1 + SLACK


@dataclass(frozen=True, eq=False)
class CondensedSet:
    """Condensed images and their labels.

    Attributes:
        path: where they lie.
        images: [n, 3, size, size], uint8, or float in [0, 1]; class by class.
        labels: [n], int64, ascending.
        notes: how it was read: the rule of the labels, what was resized or clipped.
        loop: [n, 3, size, size], float, unbounded: the images in the space of their loop, where they were given so.
    """

    path: Path
    images: Tensor
    labels: Tensor
    notes: tuple[str, ...] = ()
    loop: Tensor | None = None

    @property
    def counts(self) -> list[int]:
        """The number of images of each class."""
        return [int(count) for count in torch.bincount(self.labels)]

    @property
    def per_class(self) -> int | None:
        """The number of images of a class where all have as many, else None."""
        return self.counts[0] if len(set(self.counts)) == 1 else None

    def require_equal_classes(self) -> int:
        """Return the number of images of a class, where students can be compared.

        Raises:
            DirePlugError: classes hold different numbers.
        """
        if self.per_class is None:
            least, most = min(self.counts), max(self.counts)
            raise DirePlugError(
                f"{self.path}: classes hold {least} to {most} images; students are compared at as many of each: "
                f"--ipc {least} takes the first ones of each class"
            )
        return self.per_class

    @cached_property
    def digest(self) -> str:
        """The sha256, in hex, of images and labels."""
        # the same bytes may be other images
        seen = hashlib.sha256(f"{list(self.images.shape)} {self.images.dtype}".encode())
        for tensor in (self.images, self.labels, *(() if self.loop is None else (self.loop,))):
            seen.update(tensor.flatten().numpy())
        return seen.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return counts, digest and notes, JSON-like."""
        counts = self.counts
        return {
            "images": len(self.labels),
            "classes": len(counts),
            "per_class": {"least": min(counts), "most": max(counts)},
            "digest": self.digest,
            "notes": list(self.notes),
        }


def read_condensed(
    path: Path, dataset: Dataset, *, space: Space | None = None, ipc: int | None = None, resize: bool = False
) -> CondensedSet:
    """Read the condensed set at `path`: a tree of class folders, or a file of tensors (see `set_files`).

    Args:
        dataset: the real one that it condenses: the set must have its classes and size.
        space: of a file's tensors; None: they must be pixels.
        ipc: the first so many images of each class; None takes all.
        resize: whether images of another size than the dataset's are resized.

    Raises:
        DirePlugError: there is no such set, it is damaged, or it doesn't fit the dataset; the message says which
            option may help.
    """
    require_set(path)
    if path.is_dir():
        folders, rule = label_folders(_find_class_folders(path), dataset)
        if space is not None and space.kind != "pixels":
            raise DirePlugError(f"--space {space.kind}: {path} holds image files, which are pixels; leave it out")
        images, labels = read_folders(folders, dataset, ipc=ipc, resize=resize)
        size = f"{dataset.size}×{dataset.size}"
        resized = (f"images of another size were resized to {size}",) if resize else ()
        return CondensedSet(path, images, labels, (rule, *resized))
    return _read_file(path, dataset, space=space, ipc=ipc, resize=resize)


def _find_class_folders(root: Path) -> Path:
    """Return where the class folders lie: in `root`, or in train/ where that is all that it has, as datasets do."""
    folders = [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."]
    return root / "train" if folders == ["train"] else root


def require_set(path: Path) -> None:
    """Raise for a path that can be no condensed set, before anything is read or fetched.

    Raises:
        DirePlugError: nothing is there, it is a file of another kind, or a folder of tensor files, none of them named.
    """
    if path.is_dir():
        files = sorted(entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES)
        if files and not any(entry.is_dir() for entry in path.iterdir()):
            raise DirePlugError(f"{path}: holds no class folder but tensors; name the file: {', '.join(files[:5])}")
    elif not path.is_file():
        raise DirePlugError(
            f"{path.absolute()}: no such file or folder; name a tree of class folders, or a tensor file"
        )
    elif path.suffix not in SUFFIXES:
        raise DirePlugError(f"{path}: neither a folder nor a file of tensors ({', '.join(SUFFIXES)})")


def _read_file(path: Path, dataset: Dataset, *, space: Space | None, ipc: int | None, resize: bool) -> CondensedSet:
    """Return a file's tensors in the order of the classes, as pixels, and beside them those in the loop's space."""
    stored, labels, rule, loop = read_tensor_file(path)
    if not resize:
        check_size(stored, dataset, where=path)
    rows = _choose_rows(labels, dataset, ipc=ipc, where=path)
    given, labels, notes = stored[rows], labels[rows], [rule]
    space = _find_space(given, space, path)
    loop = None if loop is None else loop[rows].float()
    images = given
    if given.is_floating_point():
        images, outside = to_pixels(given, space, dataset)
        # normalised or whitened tensors are what the loop had
        loop = loop if space.kind == "pixels" else given
        if outside:
            notes.append(f"{outside:.1%} of the values lay outside [0, 1] as pixels and were clipped")
    if tuple(images.shape[-2:]) != (dataset.size, dataset.size):
        notes.append(f"resized from {images.shape[-1]}×{images.shape[-2]} to {dataset.size}×{dataset.size}")
        # whitening and statistics don't survive resizing
        images, loop = resize_pixels(images, dataset.size), None
    return CondensedSet(path, images, labels, tuple(notes), loop)


def _choose_rows(labels: Tensor, dataset: Dataset, *, ipc: int | None, where: Path) -> Tensor:
    """Return the rows to take: class by class, of each the first `ipc` in the file's order.

    Raises:
        DirePlugError: labels don't fit the dataset's classes, or a class has too few images.
    """
    least, most, classes = int(labels.min()), int(labels.max()), len(dataset.classes)
    if least < 0 or most >= classes:
        raise DirePlugError(
            f"{where}: its labels go from {least} to {most}, {dataset.name} has {classes} classes, 0 to {classes - 1}; "
            "is it a set of another dataset?"
        )
    counts = torch.bincount(labels, minlength=classes)
    fewest = int(counts.argmin())
    if int(counts[fewest]) < (ipc or 1):
        name = f"class {fewest} ({dataset.classes[fewest]})"
        if not counts[fewest]:
            found = f"{int((counts > 0).sum())} classes, {dataset.name} has {classes}"
            raise DirePlugError(f"{where}: no image of {name}: it holds {found}; is it a set of another dataset?")
        raise DirePlugError(f"{where}: {name} has {int(counts[fewest])} images, --ipc {ipc} were asked for; lower it")
    # stable: the file's order within a class stays
    order = torch.argsort(labels, stable=True)
    # of each row, its number within its class
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return order if ipc is None else order[rank < ipc]


def _find_space(images: Tensor, given: Space | None, path: Path) -> Space:
    """Return the space of a file's images.

    Raises:
        DirePlugError: the given space can't be theirs, or none was given and they are no pixels.
    """
    if not images.is_floating_point():
        if given is not None and given.kind != "pixels":
            raise DirePlugError(f"--space {given.kind}: {path} holds uint8 images, which are pixels; leave it out")
        return Space("pixels")
    if given is not None or are_pixels(images):
        return given or Space("pixels")
    least, most = float(images.min()), float(images.max())
    levels = " Pixels from 0 to 255? Save them as uint8." if least >= 0 and 1.5 < most <= 255 else ""
    raise DirePlugError(
        f"{path}: values from {least:.3g} to {most:.3g} aren't pixels in [0, 1].{levels} Name their space: "
        "--normalised-by DATASET (or six numbers), --space zca (MTT with --zca), or --space pixels to clip them"
    )
