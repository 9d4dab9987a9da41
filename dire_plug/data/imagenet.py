"""ImageNet-1K at 224×224, read on demand: the files of `train`; those of `val` are the test images.

Every image is resized so that its shorter side is 256 and cropped to the central 224 (in proportion at other sizes):
the transform of evaluation and of embeddings.
"""

from collections.abc import Callable
from pathlib import Path

from dire_plug.data.dataset import Dataset, DatasetSpec, make_dataset
from dire_plug.data.folders import SUFFIXES, File, FolderSplit, list_classes, list_images, list_training
from dire_plug.data.listing import list_once
from dire_plug.errors import DirePlugError

CLASSES = 1000
SIZE = 224
SIZES = (64, 512)
TRAIN, VAL = "train", "val"


def read(folder: Path, *, size: int | None, limit: int | None, expected: int = CLASSES) -> Dataset:
    """List ImageNet-1K, of `expected` classes, or read the listing that is kept; no image is decoded yet."""

    def find() -> tuple[str, ...]:
        classes = list_classes(folder / TRAIN, expected=expected)
        _check_val(folder / VAL, classes)
        return classes

    return _read("imagenet-1k", folder, find, size=size, limit=limit)


def read_classes(name: str, folder: Path, classes: tuple[str, ...], *, size: int | None, limit: int | None) -> Dataset:
    """List these classes of a folder of ImageNet's layout, whatever others it holds, or read the kept listing."""
    return _read(name, folder, lambda: classes, size=size, limit=limit, only=classes)


def _read(
    name: str,
    folder: Path,
    find_classes: Callable[[], tuple[str, ...]],
    *,
    size: int | None,
    limit: int | None,
    only: tuple[str, ...] | None = None,
) -> Dataset:
    def find() -> tuple[tuple[str, ...], list[list[File]]]:
        classes = find_classes()
        train = list_training(folder / TRAIN, classes, limit=limit)
        test = [file for label, one in enumerate(classes) for file in list_images(folder / VAL / one, label)]
        return classes, [train, test]

    listing = list_once(folder, (TRAIN, VAL), name=name, limit=limit, find=find, only=only)
    return make_dataset(
        name,
        train=FolderSplit(listing.splits[TRAIN], size or SIZE),
        test=FolderSplit(listing.splits[VAL], size or SIZE),
        classes=listing.classes,
        size=size or SIZE,
    )


def _check_val(val: Path, classes: tuple[str, ...]) -> None:
    """Raise for validation images that lie unsorted, or are sorted into other classes."""
    flat = sum(1 for path in val.iterdir() if path.suffix.lower() in SUFFIXES)
    if flat:
        raise DirePlugError(
            f"{val}: {flat} images lie here unsorted. Sort them into one folder per class (val/n01440764/…), as "
            "torchvision.datasets.ImageNet(root, split='val') does from ILSVRC2012_img_val.tar and the devkit"
        )
    if list_classes(val, expected=len(classes)) != classes:
        raise DirePlugError(f"{val}: its class folders are not those of {val.parent / 'train'}")


def _places(root: Path) -> tuple[Path, ...]:
    return root / "imagenet-1k", root / "imagenet"


def _missing(folder: Path) -> tuple[str, ...]:
    return tuple(f"{part}/" for part in (TRAIN, VAL) if not (folder / part).is_dir())


SPEC = DatasetSpec(
    name="imagenet-1k",
    classes=CLASSES,
    sizes=SIZES,
    layout="{train,val}/<class>/*.JPEG, 1000 classes each,",
    how="register at https://image-net.org, get ILSVRC2012 and sort both halves into class folders",
    places=_places,
    missing=_missing,
    read=read,
)
