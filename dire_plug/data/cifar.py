"""CIFAR-10 and CIFAR-100 at 32×32: 50,000 training and 10,000 test images, read by torchvision."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.exceptions import VisibleDeprecationWarning
from torch import Tensor

from dire_plug.data.dataset import Dataset, DatasetSpec, make_tensor_dataset
from dire_plug.data.subsample import first_of_each_class, resize
from dire_plug.errors import DirePlugError


def read(folder: Path, *, classes: int, size: int | None, limit: int | None) -> Dataset:
    """Read CIFAR with `classes` classes from the folder that holds torchvision's; its checksums are verified."""
    train = _open(folder, classes, train=True)
    pixels, labels = _take(train)
    kept = first_of_each_class(labels, limit=limit, classes=len(train.classes))
    test_pixels, test_labels = _take(_open(folder, classes, train=False))
    return make_tensor_dataset(
        f"cifar-{classes}",
        train=(resize(pixels[kept], size), labels[kept]),
        test=(resize(test_pixels, size), test_labels),
        classes=train.classes,
    )


def _open(folder: Path, classes: int, *, train: bool) -> Any:
    try:
        with warnings.catch_warnings():
            # The published pickles state numpy dtypes in a way that numpy deprecates.
            warnings.simplefilter("ignore", category=_numpy_deprecation())
            # torchvision compares the files' MD5 sums here, and raises RuntimeError where they differ
            return _kind(classes)(str(folder), train=train, download=False)
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        where = folder / _kind(classes).base_folder
        raise DirePlugError(
            f"{where}: not the published CIFAR-{classes}: {error}. Remove the folder and get it again"
        ) from error


def _numpy_deprecation() -> type[Warning]:
    return VisibleDeprecationWarning


def _take(found: Any) -> tuple[Tensor, Tensor]:
    """Return pixels, uint8 [N, 3, 32, 32], and labels, int64 [N]."""
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor(found.targets, dtype=torch.int64)


def _kind(classes: int) -> Any:
    # here: all recipes know of this dataset, and torchvision takes seconds
    from torchvision import datasets

    return datasets.CIFAR10 if classes == 10 else datasets.CIFAR100


def _places(root: Path, *, classes: int) -> tuple[Path, ...]:
    return root / f"cifar-{classes}", root


def _missing(folder: Path, *, inside: str) -> tuple[str, ...]:
    return () if (folder / inside).is_dir() else (f"{inside}/",)


def _download(root: Path, *, classes: int) -> None:
    _kind(classes)(str(root), download=True)


def _spec(classes: int, inside: str) -> DatasetSpec:
    download: Callable[[Path], None] = partial(_download, classes=classes)
    return DatasetSpec(
        name=f"cifar-{classes}",
        classes=classes,
        sizes=(8, 64),
        layout=f"the folder {inside} as torchvision unpacks it",
        how=(
            f"run once with the network, and torchvision fetches it; or unpack cifar-{classes}-python.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html"
        ),
        places=partial(_places, classes=classes),
        missing=partial(_missing, inside=inside),
        read=partial(read, classes=classes),
        download=download,
    )


CIFAR_10 = _spec(10, "cifar-10-batches-py")
CIFAR_100 = _spec(100, "cifar-100-python")
