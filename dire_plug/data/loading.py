"""Load a dataset by name."""

import os
from dataclasses import dataclass
from pathlib import Path

from dire_plug.data import cifar, digits, fashion_mnist, imagenet, tiny_imagenet
from dire_plug.data.dataset import Dataset, DatasetSpec
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import make_folder
from dire_plug.home import home

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        digits.SPEC,
        fashion_mnist.SPEC,
        cifar.CIFAR_10,
        cifar.CIFAR_100,
        tiny_imagenet.SPEC,
        imagenet.SPEC,
    )
}


def names() -> tuple[str, ...]:
    """Return the names that `load` takes."""
    return tuple(DATASETS)


def default_root() -> Path:
    """Return the data folder: DIRE_PLUG_DATA, or `data` in the home folder."""
    chosen = os.environ.get("DIRE_PLUG_DATA")
    return Path(chosen).expanduser().absolute() if chosen else home() / "data"


def class_count(name: str) -> int:
    """Return the number of classes of a dataset, whether it is here or not.

    Raises:
        DirePlugError: the name is unknown.
    """
    return _spec(name).classes


def load(
    name: str,
    *,
    root: Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    offline: bool = False,
) -> Dataset:
    """Load a dataset.

    Args:
        name: one of `names()`.
        root: the data folder; None for `default_root()`.
        size: height and width to resize to, antialiased; None for the dataset's own.
        limit: the number of training images: of each class the first limit / classes; None for all.
        offline: never fetch what is missing.

    Raises:
        DirePlugError: the name or size is unknown, the dataset is missing or damaged, or the limit can't be met.
    """
    spec = _spec(name)
    spec.check_size(size)
    root = default_root() if root is None else root
    place = spec.find(root)
    if place is None and not offline:
        _download(spec, root)
        place = spec.find(root)
    if place is None:
        raise spec.absence(root)
    return spec.read(place, size=size, limit=limit)


def _spec(name: str) -> DatasetSpec:
    if name not in DATASETS:
        raise DirePlugError(f"dataset: '{name}' is unknown{nearest(name, DATASETS)}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def _download(spec: DatasetSpec, root: Path) -> None:
    """Fetch a dataset where that is possible; say what was looked for when it fails."""
    if spec.download is None:
        return
    make_folder(root)
    try:
        spec.download(root)
    except (OSError, RuntimeError) as error:
        raise DirePlugError(f"{spec.absence(root)}\nFetching it failed: {error}") from error


@dataclass(frozen=True)
class DataStatus:
    """Whether one dataset is here.

    Attributes:
        name: as `load` takes it.
        found: whether its files are there, by name; they aren't read.
        where: the folder, or where `load` would look first.
        how: how to get it.
    """

    name: str
    found: bool
    where: str
    how: str


def status(root: Path | None = None) -> list[DataStatus]:
    """Return what is here of every dataset; read names only, fetch nothing."""
    root = default_root() if root is None else root
    answers = []
    for spec in DATASETS.values():
        place = spec.find(root)
        first = next(iter(spec.places(root)), root)
        answers.append(DataStatus(spec.name, place is not None, str(place or first), spec.how))
    return answers
