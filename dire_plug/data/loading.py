"""Load a dataset by name."""

import os
from pathlib import Path

from dire_plug.data import cifar, digits, fashion_mnist, imagenet, listing, tiny_imagenet
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
    """Return the data folder: DIRE_PLUG_DATA, or `data` in the home folder.

    Raises:
        DirePlugError: DIRE_PLUG_DATA names no folder. It is never made: a typo would fetch the datasets again.
    """
    chosen = os.environ.get("DIRE_PLUG_DATA")
    if not chosen:
        return home() / "data"
    root = Path(chosen).expanduser().absolute()
    if not root.is_dir():
        raise DirePlugError(f"DIRE_PLUG_DATA: Directory '{root}' does not exist. Make it, or correct the variable")
    return root


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
    anew: bool = False,
) -> Dataset:
    """Load a dataset.

    Args:
        name: one of `names()`.
        root: the data folder; None for `default_root()`.
        size: height and width to resize to, antialiased; None for the dataset's own.
        limit: the number of training images: of each class the first limit / classes; None for all.
        offline: never fetch what is missing.
        anew: list its folders again, whatever listing is kept.

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
    if anew:
        listing.forget(place)
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


def find_all(root: Path | None = None) -> list[tuple[DatasetSpec, Path | None]]:
    """Return every dataset with the folder that holds it, or None; read names only, fetch nothing."""
    root = default_root() if root is None else root
    return [(spec, spec.find(root)) for spec in DATASETS.values()]
