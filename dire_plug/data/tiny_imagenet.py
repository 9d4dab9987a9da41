"""Tiny-ImageNet at 64×64: 200 classes, 100,000 training images; the 10,000 of `val` are the test images.

Both layouts of `val` are read: as published (val/images and val_annotations.txt), and sorted into class folders.
"""

from pathlib import Path

from dire_plug.data.dataset import Dataset, DatasetSpec, make_tensor_dataset
from dire_plug.data.folders import SUFFIXES, File, decode_all, label_tensor, list_classes, list_images, list_training
from dire_plug.data.subsample import resize
from dire_plug.errors import DirePlugError

CLASSES = 200
SIZE = 64


def read(folder: Path, *, size: int | None, limit: int | None, expected: int = CLASSES) -> Dataset:
    """Decode Tiny-ImageNet, of `expected` classes, into memory."""
    classes = list_classes(folder / "train", expected=expected)
    train = list_training(folder / "train", classes, limit=limit)
    test = list_val(folder / "val", classes)
    return make_tensor_dataset(
        "tiny-imagenet",
        train=(resize(decode_all(train, size=SIZE), size), label_tensor(train)),
        test=(resize(decode_all(test, size=SIZE), size), label_tensor(test)),
        classes=classes,
    )


def list_val(val: Path, classes: tuple[str, ...]) -> list[File]:
    """Return the test files of either layout, class by class, by name."""
    if not (val / "val_annotations.txt").is_file() or not (val / "images").is_dir():
        return [file for label, name in enumerate(classes) for file in list_images(val / name, label)]
    labels = _read_annotations(val / "val_annotations.txt", classes)
    files = []
    for path in sorted((val / "images").iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.name not in labels:
                raise DirePlugError(f"{val / 'val_annotations.txt'}: says nothing of {path.name}; unpack the set again")
            files.append(File(path, labels.pop(path.name), path.stat().st_size))  # what is left over has no file
    if labels or not files:
        absent = min(labels, default="any image")
        raise DirePlugError(f"{val / 'images'}: {absent} is missing, which the set has; unpack it again")
    return sorted(files, key=lambda file: (file.label, file.path.name))


def _read_annotations(path: Path, classes: tuple[str, ...]) -> dict[str, int]:
    """Return the label of each file name: the first two of the tab-separated columns are name and class."""
    label_of = {name: label for label, name in enumerate(classes)}
    labels: dict[str, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or columns[1] not in label_of:
            raise DirePlugError(f"{path}, line {number}: names no class of the training set: {line[:60]!r}")
        labels[columns[0]] = label_of[columns[1]]
    return labels


def _places(root: Path) -> tuple[Path, ...]:
    return root / "tiny-imagenet-200", root / "tiny-imagenet"


def _missing(folder: Path) -> tuple[str, ...]:
    return tuple(f"{part}/" for part in ("train", "val") if not (folder / part).is_dir())


SPEC = DatasetSpec(
    name="tiny-imagenet",
    classes=CLASSES,
    sizes=(8, 64),
    layout="train/<class>/images/*.JPEG and val/",
    how="unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in the data folder",
    places=_places,
    missing=_missing,
    read=read,
)
