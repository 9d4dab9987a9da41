"""The files of each dataset with two training images and one test image of each class, uniformly grey."""

import gzip
import hashlib
import io
import pickle
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from dire_plug.data import fashion_mnist, imagenet_subsets

TRAIN_PER_CLASS = 2


def grey(labels: Tensor, index: int = 0) -> Tensor:
    """Return the grey level of each class's image of that number in its split."""
    return (labels + 100 * index) % 256


def write_digits(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Write nothing: scikit-learn carries the digits, which are real."""


def write_fashion_mnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    (root / "fashion-mnist").mkdir()
    hashes = {}
    for name in fashion_mnist.SHA256:
        levels, labels = _scrambled(10, train=name.startswith("train"))
        values = labels if "labels" in name else levels[:, None, None].expand(-1, 28, 28)
        content = idx_bytes(values)
        hashes[name] = hashlib.sha256(content).hexdigest()
        (root / "fashion-mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
    patch.setattr(fashion_mnist, "SHA256", hashes)


def idx_bytes(values: Tensor) -> bytes:
    """Return an IDX file of unsigned bytes."""
    shape = tuple(values.shape)
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + bytes(values.flatten().tolist())


def write_cifar_10(root: Path, patch: pytest.MonkeyPatch) -> None:
    files = {name: _cifar(10, "labels", train=name != "test_batch") for name in ("data_batch_1", "test_batch")}
    meta = {"label_names": [f"class {label}" for label in range(10)]}
    _write_cifar(root / "cifar-10-batches-py", datasets.CIFAR10, patch, **files, **{"batches.meta": meta})


def write_cifar_100(root: Path, patch: pytest.MonkeyPatch) -> None:
    files = {name: _cifar(100, "fine_labels", train=name == "train") for name in ("train", "test")}
    meta = {"fine_label_names": [f"class {label}" for label in range(100)]}
    _write_cifar(root / "cifar-100-python", datasets.CIFAR100, patch, **files, meta=meta)


def write_tiny_imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, lines = root / "tiny-imagenet-200", []
    for label in range(200):
        for index in range(TRAIN_PER_CLASS):
            _write_image(folder / "train" / f"n{label:03d}" / "images" / f"{index}.JPEG", label, index, pixels=64)
        # the files' names go by the label, backwards
        _write_image(folder / "val" / "images" / f"val_{999 - label}.JPEG", label, 0, pixels=64)
        lines.append(f"val_{999 - label}.JPEG\tn{label:03d}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def write_imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    for label in range(1000):
        for split, count in (("train", TRAIN_PER_CLASS), ("val", 1)):
            for index in range(count):
                _write_image(root / "imagenet-1k" / split / f"n{label:04d}" / f"{index}.JPEG", label, index, pixels=8)


def write_subset(root: Path, patch: pytest.MonkeyPatch, *, name: str) -> None:
    """Write a folder of the subset's classes, and of one more, which doesn't count."""
    spec = next(spec for spec in imagenet_subsets.SPECS if spec.name == name)
    lacking = spec.missing(root / name)
    classes = sorted({part.split("/")[1] for part in lacking})
    for label, one in [*enumerate(classes), (len(classes), "n00000000")]:
        for split, count in (("train", TRAIN_PER_CLASS), ("val", 1)):
            for index in range(count):
                _write_image(root / name / split / one / f"{index}.JPEG", label, index, pixels=8)


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "digits": write_digits,
    "fashion-mnist": write_fashion_mnist,
    "cifar-10": write_cifar_10,
    "cifar-100": write_cifar_100,
    "tiny-imagenet": write_tiny_imagenet,
    **{spec.name: partial(write_subset, name=spec.name) for spec in imagenet_subsets.SPECS},
    "imagenet-1k": write_imagenet,
}
"""Dataset → what writes its files below a data folder, and tells the reader their checksums."""


def _scrambled(classes: int, *, train: bool) -> tuple[Tensor, Tensor]:
    """Return the grey level and the label of each image of a split: classes backwards, over and over."""
    labels = torch.arange(classes).flip(0)
    indices = range(TRAIN_PER_CLASS if train else 1)
    return torch.cat([grey(labels, index) for index in indices]), labels.repeat(len(indices))


def _cifar(classes: int, key: str, *, train: bool) -> dict[str, Any]:
    levels, labels = _scrambled(classes, train=train)
    pixels = levels.to(torch.uint8)[:, None].expand(-1, 3072).contiguous()
    return {"data": pixels.numpy(), key: labels.tolist()}


def _write_cifar(folder: Path, kind: Any, patch: pytest.MonkeyPatch, **files: Any) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    md5 = {name: calculate_md5(str(folder / name)) for name in files}
    train, test, meta = ([[name, md5[name]]] for name in files)
    patch.setattr(kind, "train_list", train)
    patch.setattr(kind, "test_list", test)
    key = next(iter(files[meta[0][0]]))
    patch.setattr(kind, "meta", {"filename": meta[0][0], "key": key, "md5": meta[0][1]})


def _write_image(path: Path, label: int, index: int, *, pixels: int) -> None:
    level = int(grey(torch.tensor(label), index))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.new("RGB", (pixels, pixels), (level, level, level)).save(content, "JPEG")
    path.write_bytes(content.getvalue())
