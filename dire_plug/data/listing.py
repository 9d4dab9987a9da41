"""Keep the listing of a large folder dataset, so that it is listed once and not by every run.

A listing lies in `store/listings/` of the home, under the dataset's path. It is valid as long as the folders in it have
the times of modification that they had: a file that comes, goes, is renamed or is replaced by another changes its
folder's. One that is rewritten in place doesn't; it is refused when it is read, if its size changed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from dire_plug import home
from dire_plug.data.folders import INNER, File, Files
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, read_json, write_atomically

SETTLED = 2.0
"""Seconds that a folder must be older than its listing: file systems count its times in ticks of up to so many."""


@dataclass(frozen=True)
class Listing:
    """The image files of a dataset.

    Attributes:
        classes: the names of the class folders.
        splits: name of a split, which is its folder → its files.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Files]


def list_once(
    root: Path,
    splits: Sequence[str],
    *,
    name: str,
    limit: int | None,
    find: Callable[[], tuple[tuple[str, ...], Sequence[Sequence[File]]]],
    only: Sequence[str] | None = None,
) -> Listing:
    """Return the kept listing of a dataset's folder; where none is valid, what `find` finds, which is then kept.

    Args:
        root: the folder.
        splits: the folders of class folders in it.
        name: of the dataset: a folder may serve several.
        limit: of the training images; each has a listing of its own.
        find: lists; returns the classes, and the files of each split, class by class.
        only: the class folders that count; None: all.

    Raises:
        DirePlugError: `find` does.
    """
    kept = folder_of(root) / f"{name}-{'all' if limit is None else limit}.json"
    if (content := _read(kept, root)) is None:
        began, before = time.time_ns(), _times(root, splits, only)
        classes, files = find()
        found = {name: _group(root, some) for name, some in zip(splits, files, strict=True)}
        content = {"root": str(root.absolute()), "times": before, "classes": classes, "splits": found}
        # not of a folder that changes just now
        if _times(root, splits, only) == before and max(before.values(), default=0) < began - SETTLED * 1e9:
            _keep(kept, content)
    return Listing(
        tuple(content["classes"]), {name: _files(root, groups) for name, groups in content["splits"].items()}
    )


def forget(root: Path) -> None:
    """Remove the listings that are kept of a folder."""
    shutil.rmtree(folder_of(root), ignore_errors=True)


def folder_of(root: Path) -> Path:
    """Return where what is known of a dataset's folder is kept."""
    return home.store() / home.LISTINGS / digest(str(root.absolute()))[:20]


def _read(kept: Path, root: Path) -> dict[str, Any] | None:
    """Return a listing that is still true; None where there is none."""
    if not kept.is_file():
        return None
    try:
        content: dict[str, Any] = read_json(kept)
        now = {name: (root / name).stat().st_mtime_ns for name in content["times"]}
        return content if now == content["times"] and content["root"] == str(root.absolute()) else None
    # damaged, or a folder is gone: listing anew finds out what is there
    except (DirePlugError, OSError, KeyError, TypeError):
        return None


def _keep(path: Path, content: dict[str, Any]) -> None:
    # a store that can't be written costs time only
    with contextlib.suppress(DirePlugError):
        write_atomically(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _times(root: Path, splits: Sequence[str], only: Sequence[str] | None) -> dict[str, int]:
    """Return path below the root → time of modification, of all folders in which a file or a class could come or go."""
    folders = [root / split for split in splits if (root / split).is_dir()]
    classes = [
        path
        for folder in folders
        for path in (sorted(folder.iterdir()) if only is None else (folder / name for name in only))
        if path.is_dir()
    ]
    inner = [path / INNER for path in classes if (path / INNER).is_dir()]
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in (*folders, *classes, *inner)}


def _group(root: Path, files: Sequence[File]) -> list[dict[str, Any]]:
    """Return files as they are kept: by folder, so that its path stands there once."""
    found = []
    for (folder, label), group in groupby(files, key=lambda file: (file.path.parent, file.label)):
        members = list(group)
        names, sizes = [file.path.name for file in members], [file.bytes for file in members]
        found.append({"folder": folder.relative_to(root).as_posix(), "label": label, "names": names, "bytes": sizes})
    return found


def _files(root: Path, groups: Sequence[Mapping[str, Any]]) -> Files:
    names = [f"{one['folder']}/{name}" for one in groups for name in one["names"]]
    sizes = [size for one in groups for size in one["bytes"]]
    counts = torch.tensor([len(one["names"]) for one in groups])
    return Files(root, names, sizes, torch.tensor([one["label"] for one in groups]).repeat_interleave(counts))
