"""What `load` and `status` need to know of a family of datasets, and how a family is found on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dire_plug.data.dataset import Dataset
from dire_plug.errors import DirePlugError


class Read(Protocol):
    """Read a dataset from the folder where it was found."""

    def __call__(self, folder: Path, *, size: int | None, limit: int | None) -> Dataset:
        """Return the dataset at `size` (None: its own), with `limit` training images (None: all)."""


@dataclass(frozen=True)
class Family:
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
        """Refuse a size that the family doesn't offer."""
        least, greatest = self.sizes
        if size is not None and not least <= size <= greatest:
            raise DirePlugError(f"dataset {self.name}: size {size} is not offered; use {least} to {greatest}")

    def _state(self, place: Path) -> str:
        if not place.is_dir():
            return "no such folder"
        absent = self.missing(place)
        return f"lacks {', '.join(absent[:4])}{' …' if len(absent) > 4 else ''}"
