"""Read a condensed set from disk, from any source, and check it against the real dataset."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dire_plug.data.dataset import Dataset
from dire_plug.data.subsample import resize as resize_pixels
from dire_plug.errors import DirePlugError
from dire_plug.sets.class_folders import check_size, label_folders, read_folders
from dire_plug.sets.normalisation import Space, are_pixels, to_pixels
from dire_plug.sets.tensor_files import SUFFIXES, read_tensor_file


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
    """Read the condensed set at `path`: a tree of class folders, or a file of tensors (see `tensor_files`).

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
        folders, rule = label_folders(path, dataset)
        if space is not None and space.kind != "pixels":
            raise DirePlugError(f"--space {space.kind}: {path} holds image files, which are pixels; leave it out")
        images, labels = read_folders(folders, dataset, ipc=ipc, resize=resize)
        size = f"{dataset.size}×{dataset.size}"
        resized = (f"images of another size were resized to {size}",) if resize else ()
        return CondensedSet(path, images, labels, (rule, *resized))
    return _read_file(path, dataset, space=space, ipc=ipc, resize=resize)


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
