"""Load a dataset by name."""

import os
from dataclasses import dataclass
from pathlib import Path

from dire_plug.data import cifar, digits, fashion_mnist, imagenet, tiny_imagenet
from dire_plug.data.dataset import Dataset, Family
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import make_folder
from dire_plug.home import home

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        digits.FAMILY,
        fashion_mnist.FAMILY,
        cifar.CIFAR_10,
        cifar.CIFAR_100,
        tiny_imagenet.FAMILY,
        imagenet.FAMILY,
    )
}


def names() -> tuple[str, ...]:
    """Return the names that `load` takes."""
    return tuple(FAMILIES)


def default_root() -> Path:
    """Return the data folder: DIRE_PLUG_DATA, or `data` in the home folder."""
    chosen = os.environ.get("DIRE_PLUG_DATA")
    return Path(chosen).expanduser().absolute() if chosen else home() / "data"


def class_count(name: str) -> int:
    """Return the number of classes of a dataset, whether it is here or not.

    Raises:
        DirePlugError: the name is unknown.
    """
    return _family(name).classes


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
    family = _family(name)
    family.check_size(size)
    root = default_root() if root is None else root
    place = family.find(root)
    if place is None and not offline:
        _download(family, root)
        place = family.find(root)
    if place is None:
        raise family.absence(root)
    return family.read(place, size=size, limit=limit)


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise DirePlugError(f"dataset: '{name}' is unknown{nearest(name, FAMILIES)}; known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _download(family: Family, root: Path) -> None:
    """Fetch a dataset where that is possible; say what was looked for when it fails."""
    if family.download is None:
        return
    make_folder(root)
    try:
        family.download(root)
    except (OSError, RuntimeError) as error:
        raise DirePlugError(f"{family.absence(root)}\nFetching it failed: {error}") from error


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
    for family in FAMILIES.values():
        place = family.find(root)
        first = next(iter(family.places(root)), root)
        answers.append(DataStatus(family.name, place is not None, str(place or first), family.how))
    return answers
