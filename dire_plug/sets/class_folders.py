"""Read condensed images from one folder per class, and find the label of each folder.

RDED writes 00000 …, SRe2L, CDA, DWA, INFER, DELT, G-VBSM and the DiRe release new000 …; others take the classes' own
names, such as wnids.
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from dire_plug.data.dataset import Dataset
from dire_plug.data.folders import SUFFIXES, decode, to_tensor
from dire_plug.data.subsample import resize as resize_pixels
from dire_plug.errors import DirePlugError

_NUMBERED = re.compile(r"(\D*)(\d+)")


def label_folders(root: Path, dataset: Dataset) -> tuple[list[Path], str]:
    """Return the class folders in `root`, except hidden ones, in the order of their labels, and the rule in words.

    The first rule that fits decides: all are names of the dataset's classes; one prefix and consecutive numbers, whose
    order counts (2 before 10); else sorted by name.

    Raises:
        DirePlugError: there isn't one for each class, or some are names of classes and others aren't.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) != len(dataset.classes):
        raise _wrong_count(root, names, dataset)
    known = set(dataset.classes)
    unknown = [name for name in names if name not in known]
    if not unknown:
        return [root / name for name in dataset.classes], "folders are named after the classes"
    if len(unknown) < len(names):
        raise DirePlugError(
            f"{root}: '{unknown[0]}' is no class of {dataset.name}, whose classes other folders are named after; "
            "is it a set of another dataset?"
        )
    numbered = _by_number(names)
    ordered, order = (numbered, "by their numbers") if numbered else (names, "by their names in alphabetical order")
    rule = f"folders are labelled {order}: {ordered[0]} is {dataset.classes[0]}, {ordered[-1]} {dataset.classes[-1]}"
    return [root / name for name in ordered], rule


def read_folders(
    folders: Sequence[Path], dataset: Dataset, *, ipc: int | None = None, resize: bool = False
) -> tuple[Tensor, Tensor]:
    """Read the images of class folders: uint8, [n, 3, size, size], and labels, [n], class by class, by file name.

    Args:
        folders: by label.
        ipc: the first so many of each class; None takes all.
        resize: whether images of another size than the dataset's are resized, antialiased.

    Raises:
        DirePlugError: a class has no image or fewer than `ipc`, an image is damaged or of another size.
    """
    files = [_list_files(folder, ipc) for folder in folders]
    labels = torch.arange(len(folders)).repeat_interleave(torch.tensor([len(own) for own in files]))
    paths = [path for own in files for path in own]
    size = dataset.size
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)

    def read(path: Path) -> Tensor:
        image = to_tensor(decode(path))
        if not resize:
            check_size(image, dataset, where=path)
        return resize_pixels(image[None], size)[0]

    # decoding releases the interpreter's lock
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for index, image in enumerate(pool.map(read, paths)):
            images[index] = image
    return images, labels


def check_size(images: Tensor, dataset: Dataset, *, where: Path) -> None:
    """Raise for images, [..., h, w], of another size than the dataset's."""
    height, width = images.shape[-2:]
    if (height, width) != (dataset.size, dataset.size):
        raise DirePlugError(
            f"{where}: {width}×{height} pixels, the real images of {dataset.name} are {dataset.size}×{dataset.size} "
            "here; --resize resizes the set, --set dataset.size=… the real images where the dataset allows it"
        )


def _list_files(folder: Path, ipc: int | None) -> list[Path]:
    """Return the first `ipc` image files of a class by name, in its folder or in that folder's own `images`."""
    # Tiny-ImageNet keeps the images of a class in a folder of that name
    inner = folder / "images" if (folder / "images").is_dir() else folder
    names = sorted(name for name in os.listdir(inner) if name.lower().endswith(SUFFIXES))
    if not names:
        raise DirePlugError(f"{inner}: the class has no image ({', '.join(SUFFIXES)}); each class needs one")
    if ipc is not None and len(names) < ipc:
        raise DirePlugError(f"{inner}: the class has {len(names)} images, --ipc {ipc} were asked for; lower it")
    return [inner / name for name in names[:ipc]]


def _by_number(names: Sequence[str]) -> list[str] | None:
    """Sort names of one prefix and consecutive numbers by their numbers; return None for other names."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    # as numbers: 10 comes after 2
    parts = sorted((int(match[2]), match[1], match[0]) for match in found if match)
    first = parts[0][0] if parts else 0
    alike = len({prefix for _, prefix, _ in parts}) == 1 and len(parts) == len(names)
    if not alike or [number for number, _, _ in parts] != list(range(first, first + len(names))):
        return None
    return [name for _, _, name in parts]


def _wrong_count(root: Path, names: Sequence[str], dataset: Dataset) -> DirePlugError:
    expected = len(dataset.classes)
    message = f"{root}: holds {len(names)} class folders, {dataset.name} has {expected} classes"
    inner = [name for name in names if sum(entry.is_dir() for entry in os.scandir(root / name)) == expected]
    if inner:
        return DirePlugError(f"{message}; did you mean {root / inner[0]}?")
    if not names and any(name.lower().endswith(SUFFIXES) for name in os.listdir(root)):
        return DirePlugError(f"{message}; its images lie unsorted: sort them into one folder per class")
    if absent := sorted(set(dataset.classes) - set(names)) if set(names) <= set(dataset.classes) else []:
        return DirePlugError(f"{message}; there is no folder for {', '.join(absent[:5])}{' …' * (len(absent) > 5)}")
    return DirePlugError(f"{message}; is it a set of another dataset?")
