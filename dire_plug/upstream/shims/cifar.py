"""Serve our images instead of torchvision's CIFAR-10 and CIFAR-100; nothing is downloaded.

Needed by MTT `utils.py` 62-63, 129-130, DM `methods/dc/utils.py` 53-54, 64-65, and G-VBSM's CIFAR synthesis 71 and
`squeeze/train.py`, all with `download=True`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torchvision
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from dire_plug.errors import DirePlugError

NAMES = ("CIFAR10", "CIFAR100")
KEYS = tuple(f"{split}.{what}" for split in ("train", "test") for what in ("images", "labels"))


def install(*, device: str, file: str, classes: Sequence[str] = ()) -> None:
    """Serve both datasets from one file.

    Args:
        device: the child's.
        file: a safetensors file: `train.images`, `test.images`, [N, 3, H, W] uint8; `train.labels`, `test.labels`, [N].
        classes: the names of the classes; else the file's metadata `classes`, a JSON list; else their numbers.

    Raises:
        DirePlugError: the file cannot be read, lacks a tensor, or images and labels don't match.
    """
    path = Path(file)
    named = list(classes) or _classes_of(path)

    class Ours(Cifar):
        source = path
        names = named

    for name in NAMES:
        setattr(torchvision.datasets, name, Ours)


class Cifar(Dataset[tuple[Any, Any]]):
    """A dataset with the attributes of torchvision's CIFAR datasets that upstream uses.

    Attributes:
        data: [N, H, W, 3], uint8, numpy.
        targets: the labels, int.
        classes: the names of the classes.
    """

    source: Path
    names: Sequence[str]

    def __init__(
        self,
        root: object = None,
        train: bool = True,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
    ) -> None:
        """Read one split; `root` and `download` are ignored."""
        images, labels = _read(self.source, "train" if train else "test")
        self.root, self.train, self.transform, self.target_transform = root, train, transform, target_transform
        # as torchvision keeps it: scripts read `.data` and index it themselves
        self.data = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets: list[int] = labels.tolist()
        self.classes = list(self.names) or [str(label) for label in range(max(self.targets, default=-1) + 1)]
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the transformed image, made from a PIL image, and its label."""
        image, label = Image.fromarray(self.data[index]), self.targets[index]
        return (
            self.transform(image) if self.transform else image,
            self.target_transform(label) if self.target_transform else label,
        )


def _classes_of(path: Path) -> list[str]:
    """Return the names in the metadata, or none; check that every tensor is there."""
    try:
        with safe_open(str(path), framework="pt") as file:
            lacking = [key for key in KEYS if key not in file.keys()]  # noqa: SIM118 (it is no mapping)
            names = json.loads((file.metadata() or {}).get("classes", "[]"))
    except (OSError, SafetensorError, ValueError) as error:
        raise DirePlugError(f"{path}: cannot be read as a dataset for upstream's script: {error}") from error
    if lacking:
        raise DirePlugError(
            f"{path}: lacks {', '.join(lacking)}; a dataset for upstream's script holds {', '.join(KEYS)}"
        )
    return list(map(str, names))


def _read(path: Path, split: str) -> tuple[Tensor, Tensor]:
    with safe_open(str(path), framework="pt") as file:
        images, labels = file.get_tensor(f"{split}.images"), file.get_tensor(f"{split}.labels")
    if str(images.dtype) != "torch.uint8" or images.ndim != 4 or images.shape[1] != 3 or len(images) != len(labels):
        raise DirePlugError(
            f"{path}: {split}.images must be [N, 3, H, W] uint8 with N labels; they are {list(images.shape)} "
            f"{images.dtype} with {len(labels)} labels"
        )
    return images, labels
