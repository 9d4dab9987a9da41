"""A dataset of real images: two splits, the classes, and a digest of what determines it."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from dire_plug import home
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json
from dire_plug.types import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, float, float]
AT_ONCE = 1024
"""Images whose levels are counted at once."""
STATISTICS: dict[str, tuple[Triple, Triple]] = {
    "fashion-mnist": ((0.2861, 0.2861, 0.2861), (0.3530, 0.3530, 0.3530)),
    "cifar-10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar-100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "imagenet-1k": (IMAGENET_MEAN, IMAGENET_STD),
    "imagenette": (IMAGENET_MEAN, IMAGENET_STD),
    "imagewoof": (IMAGENET_MEAN, IMAGENET_STD),
    "imagenet-100": (IMAGENET_MEAN, IMAGENET_STD),
}
"""Dataset → mean and standard deviation by which `get_dataset` of dc_benchmark's DM normalises it (grey: its one number
three times), and MTT's the subsets of ImageNet. MTT takes those of cifar-10 for CIFAR-100 too."""


class Split(Protocol):
    """The images of one half of a dataset, with their labels."""

    @property
    def labels(self) -> Tensor:
        """The labels, [N], int64."""

    def __len__(self) -> int:
        """Return N."""

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Return the images at `indices` ([n], int64), or all of them: uint8, [n, 3, h, w], a tensor of its own.

        Raises:
            DirePlugError: a file cannot be decoded.
        """


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """A split in memory.

    Attributes:
        pixels: uint8, [N, 3, h, w], or [N, 1, h, w] where the images are grey; those are given out with three equal
            channels.
        labels: [N], int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Return the images at `indices`, or all: uint8, [n, 3, h, w]."""
        chosen = self.pixels.clone() if indices is None else self.pixels[indices.to(self.pixels.device)]
        return chosen.expand(-1, 3, -1, -1).contiguous()

    def describe(self) -> Iterable[bytes]:
        """Yield what determines this split: shape, pixels and labels."""
        yield repr(tuple(self.pixels.shape)).encode()
        yield self.pixels.contiguous().numpy().tobytes()
        yield self.labels.contiguous().numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Real images by name.

    Attributes:
        name: as `load` takes it.
        train, test: the splits.
        classes: one name per label.
        size: height and width.
        digest: sha256, in hex, of what determines the images and labels.
        judged: what `test` holds: the test set, or validation images held out of the training set.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    size: int
    digest: str
    judged: Literal["test", "validation"] = "test"

    @cached_property
    def measured(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of each channel of the training images, in [0, 1]."""
        if isinstance(self.train, TensorSplit):
            return _statistics_of(_count_levels(self.train))
        kept_in = home.store() / home.LISTINGS / f"statistics-{self.digest}.json"
        if kept_in.is_file():
            with contextlib.suppress(DirePlugError, TypeError, ValueError):
                mean, std = (tuple(map(float, three)) for three in read_json(kept_in))
                with contextlib.suppress(OSError):
                    kept_in.touch()  # `clean` removes what no run has used for a while
                return cast(Triple, mean), cast(Triple, std)
        found = _statistics_of(_count_levels(self.train))
        # a store that can't be written costs time only
        with contextlib.suppress(DirePlugError):
            write_json(kept_in, found)
        return found


def normalisation_of(dataset: Dataset) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation of each channel by which a dataset's own network normalises it.

    Those of `STATISTICS`; else of all training images, rounded to four digits, which are kept in the store under the
    dataset's digest where the images aren't in memory.
    """
    if dataset.name in STATISTICS:
        return STATISTICS[dataset.name]
    return dataset.measured


def _count_levels(split: Split) -> Tensor:
    """Return how often each channel of a split's images has each level: [3, 256], int64."""
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for first in range(0, len(split), AT_ONCE):
        images = split.images(torch.arange(first, min(first + AT_ONCE, len(split))))
        counts += torch.stack([torch.bincount(images[:, one].flatten(), minlength=256).cpu() for one in range(3)])
    return counts


def _statistics_of(counts: Tensor) -> tuple[Triple, Triple]:
    """Return mean and standard deviation of each channel, from how often it has each level, [3, 256]."""
    levels, share = torch.arange(256).double() / 255, counts.double() / counts.sum(1, keepdim=True)
    mean = (share * levels).sum(1)
    std = (share * (levels - mean[:, None]).square()).sum(1).sqrt().clamp(min=1e-4)
    first, second = (tuple(round(value, 4) for value in channel.tolist()) for channel in (mean, std))
    return cast(Triple, first), cast(Triple, second)


def on_device(dataset: Dataset, device: torch.device) -> Dataset:
    """Return the dataset with the pixels of its splits on `device`, where they are in memory and fit beside a training.

    On a GPU a split may take half of the free memory; a split that doesn't fit, or is read on demand, stays as it is.
    """
    return replace(dataset, train=_moved(dataset.train, device), test=_moved(dataset.test, device))


def _moved(split: Split, device: torch.device) -> Split:
    if device.type != "cuda" or not isinstance(split, TensorSplit):
        return split
    # half of what is free: the training beside it needs the rest
    free, _ = torch.cuda.mem_get_info(device)
    fits = split.pixels.numel() < free // 2
    return TensorSplit(split.pixels.to(device), split.labels) if fits else split


class Described(Split, Protocol):
    """A split that can say what determines it."""

    def describe(self) -> Iterable[bytes]:
        """Yield the bytes that determine this split."""


def make_dataset(name: str, *, train: Described, test: Described, classes: Iterable[str], size: int) -> Dataset:
    """Put a dataset together and take its digest."""
    names = tuple(classes)
    # names and size too: the same pixels under other classes are another dataset
    seen = hashlib.sha256(repr((names, size)).encode())
    for split in (train, test):
        for part in split.describe():
            seen.update(part)
    return Dataset(name=name, train=train, test=test, classes=names, size=size, digest=seen.hexdigest())


def make_tensor_dataset(
    name: str,
    *,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: Iterable[str],
) -> Dataset:
    """Put a dataset in memory together from (pixels, labels) of its training and test images."""
    pixels, labels = train
    return make_dataset(
        name,
        train=TensorSplit(pixels, labels.to(torch.int64)),
        test=TensorSplit(test[0], test[1].to(torch.int64)),
        classes=classes,
        size=pixels.shape[-1],
    )


class Read(Protocol):
    """Read a dataset from the folder where it was found."""

    def __call__(self, folder: Path, *, size: int | None, limit: int | None) -> Dataset:
        """Return the dataset at `size` (None: its own), with `limit` training images (None: all)."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset by name.

    Attributes:
        name: as recipes spell it.
        classes: how many.
        sizes: the least and the greatest height and width on offer.
        layout: what a folder must hold, for messages.
        how: how to get the dataset, for messages.
        places: from the data folder to the folders where the dataset may be, the first one preferred.
        missing: what a folder lacks to be the dataset; empty where it is. Reads names only.
        read: reads it.
        download: fetches it below the data folder; None where nobody may.
    """

    name: str
    classes: int
    sizes: tuple[int, int]
    layout: str
    how: str
    places: Callable[[Path], tuple[Path, ...]]
    missing: Callable[[Path], tuple[str, ...]]
    read: Read
    download: Callable[[Path], None] | None = None

    def find(self, root: Path) -> Path | None:
        """Return the first place that holds the dataset, or None."""
        return next((place for place in self.places(root) if place.is_dir() and not self.missing(place)), None)

    def absence(self, root: Path) -> DirePlugError:
        """Return the error that says what was looked for, where, and how to get it."""
        looked = "\n".join(f"  {place}: {self._state(place)}" for place in self.places(root))
        return DirePlugError(
            f"{self.name} was not found. Looked for {self.layout} in\n{looked}\nTo get it: {self.how}. "
            f"DIRE_PLUG_DATA sets the data folder."
        )

    def check_size(self, size: int | None) -> None:
        """Raise for a size that the dataset isn't offered at."""
        least, greatest = self.sizes
        if size is not None and not least <= size <= greatest:
            raise DirePlugError(f"dataset {self.name}: size {size} is not offered; use {least} to {greatest}")

    def _state(self, place: Path) -> str:
        if not place.is_dir():
            return "no such folder"
        absent = self.missing(place)
        return f"lacks {', '.join(absent[:4])}{' …' if len(absent) > 4 else ''}"
