"""A folder of a user's own images, one folder a class: in `train/` and `test/` (or `val/`), or split by a draw.

Images of any shape are resized so that their shorter side has the dataset's size, antialiased, and cropped to the
centre; those of that size stay as they are. Photos are turned upright by their EXIF. The dataset's digest is that of
the files' contents and labels: neither of the path nor of names or times.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dire_plug import ui
from dire_plug.data.contents import SHOWN, Content, keep_pixels, look_at
from dire_plug.data.dataset import Dataset, DatasetSpec, make_dataset
from dire_plug.data.folders import INNER, File, FolderSplit, make_folder_split
from dire_plug.data.subsample import images_per_class
from dire_plug.errors import DirePlugError
from dire_plug.files import expand_user
from dire_plug.types import IMAGE_SUFFIXES

NAME = "folder"
TRAIN, TESTS = "train", ("test", "val")
TEST_FRACTION = 0.2
SIZES = (8, 512)
HIDDEN = (".", "__")
"""How names of folders begin that aren't classes, such as __MACOSX."""
LAYOUT = "one folder of images a class, or train/ and test/ (or val/) with one folder a class in each"


@dataclass(frozen=True)
class Layout:
    """Where the classes of a folder lie; without `test`, the test images are drawn from `train`."""

    classes: tuple[str, ...]
    train: Path
    test: Path | None


def make_spec(path: str | None, *, test_fraction: float | None = None, split_seed: int | None = None) -> DatasetSpec:
    """Return the specification of one folder, whose classes are counted; no image is read.

    Args:
        test_fraction, split_seed: of the test images that are drawn where it has none; None: .2 and 0.

    Raises:
        DirePlugError: no path is given, there is no such folder, it doesn't hold classes, or a draw is asked for though
            it has test images.
    """
    if path is None:
        raise DirePlugError(f"dataset.path: is missing: where are the images? Set it to a folder that holds {LAYOUT}")
    folder = expand_user(path, where="dataset.path").absolute()
    layout = find_layout(folder)
    if layout.test is not None and (test_fraction is not None or split_seed is not None):
        raise DirePlugError(
            "dataset: test_fraction and split_seed are for a folder without test images, and "
            f"{layout.test} holds some; leave them out"
        )
    return DatasetSpec(
        name=NAME,
        classes=len(layout.classes),
        sizes=SIZES,
        layout=LAYOUT,
        how="set dataset.path",
        places=lambda root: (folder,),
        missing=lambda place: (),
        read=partial(read, test_fraction=test_fraction or TEST_FRACTION, split_seed=split_seed or 0),
    )


def find_layout(folder: Path) -> Layout:
    """Return where the classes lie.

    Raises:
        DirePlugError: there is no such folder, it holds fewer than two classes, or other classes to test than to train.
    """
    if not folder.is_dir():
        raise DirePlugError(
            f"dataset.path: {folder}: no such folder. A relative path starts from the working folder, "
            f"which is {Path.cwd()}"
        )
    inside = _folders(folder)
    # a class may be called `train`: then it holds images, and no folders
    if TRAIN not in inside or not _folders(folder / TRAIN):
        return Layout(_check_classes(folder, inside), folder, None)
    classes = _check_classes(folder / TRAIN, _folders(folder / TRAIN))
    tests = [name for name in TESTS if name in inside]
    if others := [name for name in inside if name not in (TRAIN, *TESTS)]:
        raise DirePlugError(
            f"{folder}: holds train/ and {others[0]}/; test images lie in test/ or val/. Rename it, or move it away"
        )
    if not tests:
        return Layout(classes, folder / TRAIN, None)
    if len(tests) > 1:
        ui.say_once(f"{folder}: test/ holds the test images; val/ isn't read")
    test = folder / tests[0]
    found = _folders(test)
    if absent := sorted(set(classes) - set(found)):
        raise DirePlugError(f"{test}: lacks {_some(absent)}, which train/ has; each class needs test images")
    if unknown := sorted(set(found) - set(classes)):
        raise DirePlugError(f"{test}: holds {_some(unknown)}, which train/ lacks; names must agree, in case too")
    return Layout(classes, folder / TRAIN, test)


def _check_classes(folder: Path, names: list[str]) -> tuple[str, ...]:
    if len(names) >= 2:
        return tuple(names)
    found = f"holds one class folder, '{names[0]}'" if names else "holds no class folder"
    hint = f"It holds {LAYOUT}"
    if names and len(_folders(folder / names[0])) > 1:
        hint = f"Did you mean {folder / names[0]}, which holds folders itself?"
    elif any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(folder)):
        hint = "Its images lie in it directly: sort them into one folder a class"
    raise DirePlugError(f"dataset.path: {folder}: {found}; two classes at least are needed. {hint}")


def _folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder.

    Raises:
        DirePlugError: it can't be read, or a name isn't UTF-8.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(HIDDEN)]
    except OSError as error:
        raise DirePlugError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted(_check_name(folder, name) for name in names)


def _check_name(folder: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DirePlugError(f"{folder}: the name {name!a} isn't UTF-8; rename it") from error
    return name


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def read(folder: Path, *, size: int | None, limit: int | None, test_fraction: float, split_seed: int) -> Dataset:
    """Read a folder; its images are decoded once and kept, unless there are too many of them for that.

    Raises:
        DirePlugError: a class has too few images, images can't be used, or they differ in size and none is asked for.
    """
    layout = find_layout(folder)
    train = _list(layout.train, layout.classes)
    if layout.test is None:
        train, test = _draw(train, layout, fraction=test_fraction, seed=split_seed)
    else:
        test = _list(layout.test, layout.classes)
    return _make(f"{NAME} {folder.name}", folder, layout.classes, train=train, test=test, size=size, limit=limit)


def read_files(
    name: str,
    folder: Path,
    classes: tuple[str, ...],
    *,
    train: Iterable[tuple[Path, int]],
    test: Iterable[tuple[Path, int]],
    size: int | None,
    limit: int | None,
) -> Dataset:
    """Read image files below a folder, given with their labels, as `read` does; sorted by label, and by name in it.

    Raises:
        DirePlugError: as `read`; or a label is none of the classes', or a file isn't below the folder.
    """
    splits = {"train": train, "test": test}
    found = {split: [list[File]() for _ in classes] for split in splits}
    for split, files in splits.items():
        for path, label in files:
            if not 0 <= label < len(classes) or not path.is_relative_to(folder):
                raise DirePlugError(
                    f"{name}: {path}, label {label}: files lie below {folder}, labels are 0 to {len(classes) - 1}"
                )
            found[split][label].append(File(path, label, path.stat().st_size))
        for label, of_class in enumerate(found[split]):
            of_class.sort(key=lambda file: file.path)
            if not of_class:
                raise DirePlugError(f"{name}: class '{classes[label]}' has no {split} image in {folder}")
    return _make(name, folder, classes, **found, size=size, limit=limit)


def _make(
    name: str,
    folder: Path,
    classes: tuple[str, ...],
    *,
    train: list[list[File]],
    test: list[list[File]],
    size: int | None,
    limit: int | None,
) -> Dataset:
    if limit is not None:
        train = _first(train, classes, limit=limit)
    flat, tested = [file for of_class in train for file in of_class], [file for of_class in test for file in of_class]
    seen = look_at(folder, [*flat, *tested])
    size = size or _own_size(folder, [*flat, *tested], seen)
    _say(folder, flat, seen[: len(flat)], seen[len(flat) :])
    dataset = make_dataset(
        name,
        train=_split(folder, flat, seen[: len(flat)], size),
        test=_split(folder, tested, seen[len(flat) :], size),
        classes=classes,
        size=size,
    )
    return keep_pixels(dataset, folder)


def _list(place: Path, classes: Sequence[str]) -> list[list[File]]:
    """Return the image files of each class, by name."""
    found, others, problems = list[list[File]](), dict[str, int](), list[str]()
    for label, name in enumerate(classes):
        folder = place / name / INNER if (place / name / INNER).is_dir() else place / name
        images, deeper = list[File](), _folders(folder)
        for entry in os.scandir(folder):
            suffix = Path(entry.name).suffix.lower()
            if entry.name.startswith(HIDDEN) or not entry.is_file():
                continue
            if suffix in IMAGE_SUFFIXES:
                path = folder / _check_name(folder, entry.name)
                images.append(File(path, label, entry.stat().st_size))
            else:
                others[suffix or "no suffix"] = others.get(suffix or "no suffix", 0) + 1
        if deeper:
            problems.append(f"{folder}: holds the folder '{deeper[0]}'; images lie in the class folder itself")
        elif not images:
            problems.append(f"{folder}: holds no image; known are {', '.join(IMAGE_SUFFIXES)}")
        found.append(sorted(images, key=lambda file: file.path.name))
    if others:
        which = ", ".join(f"{count} of {suffix}" for suffix, count in sorted(others.items()))
        ui.say_once(f"{place}: ignored files, since only {', '.join(IMAGE_SUFFIXES)} are read: {which}")
    if problems:
        raise DirePlugError("\n".join([*problems[:SHOWN], *["…"] * (len(problems) > SHOWN)]))
    return found


def _draw(
    files: list[list[File]], layout: Layout, *, fraction: float, seed: int
) -> tuple[list[list[File]], list[list[File]]]:
    """Return (training, test) files of each class; the share that is tested is drawn, at least one of a class."""
    # the legacy generator: numpy promises that its stream never changes
    random, train, test = np.random.RandomState(seed), list[list[File]](), list[list[File]]()
    for name, of_class in zip(layout.classes, files, strict=True):
        count = max(1, round(fraction * len(of_class)))
        if count >= len(of_class):
            raise DirePlugError(
                f"{layout.train / name}: of its {len(of_class)} images {count} would be drawn to test, and none is "
                "left to learn from; add images, or lower dataset.test_fraction"
            )
        drawn = set(random.permutation(len(of_class))[:count].tolist())
        test.append([file for at, file in enumerate(of_class) if at in drawn])
        train.append([file for at, file in enumerate(of_class) if at not in drawn])
    return train, test


def _first(files: list[list[File]], classes: Sequence[str], *, limit: int) -> list[list[File]]:
    """Return the first limit / classes of each class."""
    per_class = images_per_class(limit, len(files))
    for name, of_class in zip(classes, files, strict=True):
        if len(of_class) < per_class:
            raise DirePlugError(
                f"dataset.limit: {limit} asks for {per_class} training images of each class, but '{name}' has "
                f"{len(of_class)}; use at most {min(map(len, files)) * len(files)}"
            )
    return [of_class[:per_class] for of_class in files]


def _own_size(folder: Path, files: Sequence[File], seen: Sequence[Content]) -> int:
    """Return the height and width that all images have.

    Raises:
        DirePlugError: they differ.
    """
    first = seen[0]
    for file, one in zip(files, seen, strict=True):
        if one.width != one.height or one.width != first.width:
            others = "" if one.width != one.height else f", and {first.width}×{first.height} another"
            raise DirePlugError(
                "dataset.size: is missing, and the images aren't squares of one size: "
                f"{file.path.relative_to(folder)} has {one.width}×{one.height} pixels{others}; set it to the height "
                "and width at which to run: --set dataset.size=32"
            )
    if not SIZES[0] <= first.width <= SIZES[1]:
        raise DirePlugError(
            f"dataset.size: is missing: the images have {first.width} pixels; set it to {SIZES[0]} to {SIZES[1]}"
        )
    return first.width


def _say(folder: Path, files: Sequence[File], train: Sequence[Content], test: Sequence[Content]) -> None:
    """Print what a user should know of images that are usable all the same."""
    both = [*train, *test]
    if count := sum(one.transparent for one in both):
        ui.say_once(f"{folder}: {count} images have an alpha channel, which is dropped")
    tested = {one.sha256 for one in test}
    copies = [file for file, one in zip(files, train, strict=True) if one.sha256 in tested]
    if copies:
        ui.warn(
            f"{folder}: {len(copies)} training images are test images too, byte for byte, such as "
            f"{copies[0].path.relative_to(folder)}; accuracies are too high"
        )


def _split(root: Path, files: Sequence[File], seen: Sequence[Content], size: int) -> FolderSplit:
    return make_folder_split(root, files, size=size, contents=[one.sha256 for one in seen], whole=True)
