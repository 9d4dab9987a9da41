"""The images among which DELT's `data_selection.py` selects: written as the image folder that it ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dire_plug.api.method import (
    DirePlugError,
)
from dire_plug.files import make_folder

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.data import Dataset

COMPRESSION = 1
"""Of PNG: the least, since the files live until the selection is made."""


def candidates_needed(ipc: int, criteria: str) -> int:
    """Return the number of images of a class that a selection of `ipc` needs.

    `medium` steps away from the middle of the ranking, ⌈n/2⌉, in turns, ⌊ipc/2⌋ places towards its end; with fewer
    images than this it reads past the end (`data_selection.py` 254-259).
    """
    return 2 * (ipc // 2 + 1) if criteria == "medium" else ipc


def candidates_problem(name: str, count: int, *, ipc: int, criteria: str) -> str | None:
    """Say what is wrong where a class has `count` images, or return None."""
    if count >= (needed := candidates_needed(ipc, criteria)):
        return None
    return (
        f"{name} has {count} images, but DELT's '{criteria}' selection needs {needed} candidates of each class for "
        f"IPC {ipc}; take more training images or a lower IPC"
    )


def check_candidates(dataset: Dataset, *, ipc: int, criteria: str) -> None:
    """Refuse a dataset that is short of candidates in some class.

    Raises:
        DirePlugError: one line for each such class.
    """
    counts = dataset.train.labels.bincount(minlength=len(dataset.classes)).tolist()
    named = zip(dataset.classes, counts, strict=True)
    found = [candidates_problem(f"class '{name}'", count, ipc=ipc, criteria=criteria) for name, count in named]
    if problems := [problem for problem in found if problem]:
        raise DirePlugError("\n".join(f"prepare: {dataset.name}: {problem}" for problem in problems))


def write_candidates(folder: Path, dataset: Dataset) -> None:
    """Write the training images as `folder/<label>/<index>.png`, so that sorted class folders are the labels.

    Images that the dataset reads on demand are linked: upstream's script resizes and crops the files itself.
    """
    from dire_plug.data.folders import FolderSplit

    split = dataset.train
    for label in range(len(dataset.classes)):
        make_folder(class_folder := folder / f"{label:05d}")
        indices = (split.labels == label).nonzero().squeeze(1)
        if isinstance(split, FolderSplit):
            for index in indices.tolist():
                path = split.files[index].path.absolute()
                (class_folder / f"{index:07d}{path.suffix}").symlink_to(path)
        else:
            _write_images(class_folder, split.images(indices).cpu(), indices.tolist())


def _write_images(folder: Path, images: Tensor, numbers: list[int]) -> None:
    from PIL import Image

    for number, pixels in zip(numbers, images.permute(0, 2, 3, 1).numpy(), strict=True):
        Image.fromarray(pixels).save(folder / f"{number:07d}.png", compress_level=COMPRESSION)
