"""Load a dataset by name: one of ours, a third party's, or a folder of the user's own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dire_plug import plugins
from dire_plug.data import (
    cifar,
    digits,
    fashion_mnist,
    image_folder,
    imagenet,
    imagenet_subsets,
    listing,
    tiny_imagenet,
)
from dire_plug.data.dataset import Dataset, DatasetSpec
from dire_plug.errors import DirePlugError, PluginError, nearest
from dire_plug.files import digest, expand_user, make_folder
from dire_plug.home import home

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        digits.SPEC,
        fashion_mnist.SPEC,
        cifar.CIFAR_10,
        cifar.CIFAR_100,
        tiny_imagenet.SPEC,
        *imagenet_subsets.SPECS,
        imagenet.SPEC,
    )
}
FOLDER = image_folder.NAME
"""The name under which a recipe has the user's own images, at `dataset.path`."""


@dataclass(frozen=True)
class DatasetSource:
    """Where a dataset's images come from, as a recipe says it.

    Attributes:
        name: one of `names()`, or `FOLDER`.
        path: the dataset's own folder; None looks below the data folder.
        test_fraction, split_seed: of the test images that are drawn, for a folder that has none of its own; None: .2
            and 0.
    """

    name: str
    path: str | None = None
    test_fraction: float | None = None
    split_seed: int | None = None

    def spec(self) -> DatasetSpec:
        """Return what is known of the dataset without reading images; of a folder, its classes.

        Raises:
            DirePlugError: the name is unknown, the folder isn't one of classes, or a third party's package is faulty.
        """
        if self.name == FOLDER:
            return image_folder.make_spec(self.path, test_fraction=self.test_fraction, split_seed=self.split_seed)
        if self.test_fraction is not None or self.split_seed is not None:
            raise DirePlugError(
                f"dataset: test_fraction and split_seed are for '{FOLDER}'; {self.name} has its own split"
            )
        if self.name in DATASETS:
            return DATASETS[self.name]
        if self.name not in (others := _third_party()):
            known = (*DATASETS, *others, FOLDER)
            hint = nearest(self.name, known)
            if Path(self.name).is_dir():
                hint = f" (did you mean the folder ./{self.name}?)"
            raise DirePlugError(f"dataset: '{self.name}' is unknown{hint}; known: {', '.join(known)}")
        return _plugin_spec(self.name)


def names() -> tuple[str, ...]:
    """Return the names of the datasets that need no path, installed packages' among them."""
    return (*DATASETS, *_third_party())


def default_root() -> Path:
    """Return the data folder: DIRE_PLUG_DATA, or `data` in the home folder.

    Raises:
        DirePlugError: DIRE_PLUG_DATA names no folder. It is never made: a typo would fetch the datasets again.
    """
    chosen = os.environ.get("DIRE_PLUG_DATA")
    if not chosen:
        return home() / "data"
    root = expand_user(chosen, where="DIRE_PLUG_DATA").absolute()
    if not root.is_dir():
        raise DirePlugError(f"DIRE_PLUG_DATA: Directory '{root}' does not exist. Make it, or correct the variable")
    return root


def class_count(source: DatasetSource | str) -> int:
    """Return the number of classes of a dataset, whether it is here or not; of a folder, which must be here.

    Raises:
        DirePlugError: as `DatasetSource.spec`.
    """
    return (DatasetSource(source) if isinstance(source, str) else source).spec().classes


def load(
    source: DatasetSource | str,
    *,
    root: Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    offline: bool = False,
    anew: bool = False,
) -> Dataset:
    """Load a dataset.

    Args:
        source: where it comes from; or one of `names()`.
        root: the data folder; None for `default_root()`.
        size: height and width to resize to, antialiased; None for the dataset's own.
        limit: the number of training images: of each class the first limit / classes; None for all.
        offline: never fetch what is missing.
        anew: list its folders again, whatever listing is kept.

    Raises:
        DirePlugError: the name or size is unknown, the dataset is missing or damaged, or the limit can't be met.
    """
    source = DatasetSource(source) if isinstance(source, str) else source
    spec = _at_path(source)
    spec.check_size(size)
    root = default_root() if root is None else root
    place = spec.find(root)
    if place is None and not offline and source.path is None:
        _download(spec, root)
        place = spec.find(root)
    if place is None:
        raise spec.absence(root)
    if anew:
        listing.forget(place)
    found = spec.read(place, size=size, limit=limit)
    if source.name == FOLDER or source.name in DATASETS:
        return found
    # a third party's code may change what it reads
    return replace(found, digest=digest([found.digest, plugins.code_of("datasets", source.name)]))


def _at_path(source: DatasetSource) -> DatasetSpec:
    """Return a dataset's specification; where the recipe has its path, that is the only place."""
    spec = source.spec()
    if source.path is None:
        return spec
    place = expand_user(source.path, where="dataset.path").absolute()
    return replace(spec, places=lambda root: (place,))


def _third_party() -> Mapping[str, object]:
    """Return the entry points of other packages' datasets.

    Raises:
        DirePlugError: one has the name of one of ours.
    """
    found = plugins.known("datasets")
    for name, point in found.items():
        if name in DATASETS or name == FOLDER:
            raise DirePlugError(f"{point.value} offers a dataset '{name}', as dire-plug itself does; uninstall it")
    return found


def _plugin_spec(name: str) -> DatasetSpec:
    made = plugins.load("datasets", name)
    where = f"plugin '{name}' ({plugins.known('datasets')[name].value})"
    try:
        spec = made().spec(name)
    except DirePlugError:
        raise
    except Exception as error:
        raise PluginError(f"{where}: its dataset cannot be made: {error!r}") from error
    if not isinstance(spec, DatasetSpec):
        raise PluginError(f"{where}: must be a class made from dire_plug.api.dataset.ImageDataset or FileDataset")
    return spec


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
    return [(spec, spec.find(root)) for spec in (DatasetSource(name).spec() for name in names())]
