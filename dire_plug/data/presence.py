"""Which datasets are here, and how to get the others."""

from dataclasses import dataclass
from pathlib import Path

from dire_plug.data.loading import FAMILIES, default_root


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
