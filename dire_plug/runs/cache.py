"""Results that runs share: each in a folder named by the digest of all that made it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, make_folder, write_json
from dire_plug.runs.lock import hold


def cached(root: Path, *, kind: str, key: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """Return the folder `root/kind/<digest of key>`; call `make` with a work folder to fill it if it isn't there.

    The work folder outlives a killed process, so that `make` can go on from what it left; it becomes the entry by
    a rename, so an entry is whole or absent. Processes that want the same entry wait for each other, and say so.

    Raises:
        DirePlugError: the entry cannot be written.
    """
    entry = entry_of(root, kind=kind, key=key)
    name = entry.name
    if entry.is_dir():
        return entry
    with hold(root / kind / f"{name}.lock", wait=24 * 3600, what=f"the cache entry {entry}"):
        if entry.is_dir():
            return entry
        work = root / kind / f"{name}.partial"
        make_folder(work)
        write_json(work / "key.json", key)
        make(work)
        try:
            os.rename(work, entry)
        except OSError as error:
            raise DirePlugError(f"{entry}: cannot be written: {error.strerror}") from error
    return entry


def entry_of(root: Path, *, kind: str, key: dict[str, Any]) -> Path:
    """Return the folder of an entry, which is there if the entry is."""
    return root / kind / digest({"kind": kind, **key})[:16]
