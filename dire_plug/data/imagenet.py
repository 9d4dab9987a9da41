"""ImageNet-1K at 224×224, read on demand: the files of `train`; those of `val` are the test images.

Every image is resized so that its shorter side is 256 and cropped to the central 224 (in proportion at other sizes):
the transform of evaluation and of embeddings.
"""

from pathlib import Path

from dire_plug.data.dataset import Dataset, DatasetSpec, make_dataset
from dire_plug.data.folders import SUFFIXES, list_classes, list_images, list_training, make_folder_split
from dire_plug.errors import DirePlugError

CLASSES = 1000
SIZE = 224


def read(folder: Path, *, size: int | None, limit: int | None, expected: int = CLASSES) -> Dataset:
    """List ImageNet-1K, of `expected` classes; no image is decoded yet."""
    classes = list_classes(folder / "train", expected=expected)
    _check_val(folder / "val", classes)
    train = list_training(folder / "train", classes, limit=limit)
    test = [file for label, name in enumerate(classes) for file in list_images(folder / "val" / name, label)]
    return make_dataset(
        "imagenet-1k",
        train=make_folder_split(folder, train, size=size or SIZE),
        test=make_folder_split(folder, test, size=size or SIZE),
        classes=classes,
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
    return tuple(f"{part}/" for part in ("train", "val") if not (folder / part).is_dir())


SPEC = DatasetSpec(
    name="imagenet-1k",
    classes=CLASSES,
    sizes=(64, 512),
    layout="{train,val}/<class>/*.JPEG, 1000 classes each,",
    how="register at https://image-net.org, get ILSVRC2012 and sort both halves into class folders",
    places=_places,
    missing=_missing,
    read=read,
)
