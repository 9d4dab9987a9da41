"""Add a dataset: a class, named by an entry point of the group `dire_plug.datasets`.

    class Leaves(ImageDataset):
        classes = ("ash", "oak")
        size = 64

        def read(self, folder: Path) -> tuple[Images, Images]: ...

`FileDataset` is the same for image files. The tool resizes, limits, splits validation images off, and names what is
made of the images by their content and by the package's code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dire_plug.data.dataset import Dataset, DatasetSpec, make_tensor_dataset
from dire_plug.data.image_folder import read_files
from dire_plug.data.subsample import first_of_each_class, resize
from dire_plug.errors import DirePlugError, PluginError

__all__ = ["DirePlugError", "FileDataset", "ImageDataset", "Images", "PluginError"]

Images = tuple[Tensor, Tensor]
"""Pixels, uint8, [N, 3, h, h] or grey [N, 1, h, h], and labels, int64, [N]."""


class _Named(ABC):
    """What both kinds of datasets say of themselves."""

    classes: ClassVar[Sequence[str]]
    """The names of the classes, by label."""
    size: ClassVar[int]
    """The height and width of the images, where a recipe asks for no other."""
    sizes: ClassVar[tuple[int, int]] = (8, 512)
    """The least and the greatest that a recipe may ask for."""
    layout: ClassVar[str] = "its files"
    """What the folder holds, for the message that it isn't there."""
    how: ClassVar[str] = "see its package"
    """How to get it, likewise."""

    def places(self, root: Path, name: str) -> Sequence[Path]:
        """Return the folders where it may be; `name` below the data folder `root`. A recipe's `dataset.path` wins."""
        return (root / name,)

    def missing(self, folder: Path) -> Sequence[str]:
        """Return what a folder lacks to be the dataset; nothing where it is. Read names only."""
        return ()

    def spec(self, name: str) -> DatasetSpec:
        """Return what the tool needs to know: called by it."""
        return DatasetSpec(
            name=name,
            classes=len(self.classes),
            sizes=self.sizes,
            layout=self.layout,
            how=self.how,
            places=lambda root: tuple(self.places(root, name)),
            missing=lambda folder: tuple(self.missing(folder)),
            read=partial(self._read, name=name),
        )

    def _read(self, folder: Path, *, size: int | None, limit: int | None, name: str) -> Dataset:
        try:
            return self._make(name, folder, size=size or self.size, limit=limit)
        except DirePlugError:
            raise
        except Exception as error:
            raise PluginError(f"dataset '{name}': {type(self).__qualname__}: {folder}: {error!r}") from error

    @abstractmethod
    def _make(self, name: str, folder: Path, *, size: int, limit: int | None) -> Dataset: ...


class ImageDataset(_Named):
    """The base of a dataset that fits in memory."""

    @abstractmethod
    def read(self, folder: Path) -> tuple[Images, Images]:
        """Return the training and the test images of the folder that holds the dataset."""

    def _make(self, name: str, folder: Path, *, size: int, limit: int | None) -> Dataset:
        train, test = (_check(name, split, of=len(self.classes)) for split in self.read(folder))
        kept = first_of_each_class(train[1], limit=limit, classes=len(self.classes))
        return make_tensor_dataset(
            name,
            train=(resize(train[0][kept], size), train[1][kept]),
            test=(resize(test[0], size), test[1]),
            classes=self.classes,
        )


class FileDataset(_Named):
    """The base of a dataset of image files of any shape: JPEG, PNG or WebP."""

    @abstractmethod
    def files(self, folder: Path) -> tuple[Sequence[tuple[Path, int]], Sequence[tuple[Path, int]]]:
        """Return the training and the test files, below the folder, with the label of each.

        They are resized and cropped to the centre; decoded once and kept, where not too many.
        """

    def _make(self, name: str, folder: Path, *, size: int, limit: int | None) -> Dataset:
        train, test = self.files(folder)
        return read_files(name, folder, tuple(self.classes), train=train, test=test, size=size, limit=limit)


def _check(name: str, split: Images, *, of: int) -> Images:
    """Return a split whose tensors are as `Images` says.

    Raises:
        PluginError: they aren't.
    """
    pixels, labels = split
    shape = tuple(pixels.shape)
    if pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise PluginError(
            f"dataset '{name}': images must be uint8, [N, 3 or 1, h, h]; they are {pixels.dtype}, {list(shape)}"
        )
    if tuple(labels.shape) != shape[:1] or labels.is_floating_point():
        raise PluginError(
            f"dataset '{name}': labels must be whole numbers, [{shape[0]}]; they are {labels.dtype}, "
            f"{list(labels.shape)}"
        )
    if torch.unique(labels).tolist() != list(range(of)):
        raise PluginError(f"dataset '{name}': each split must hold images of the labels 0 to {of - 1}, all of them")
    return pixels, labels
