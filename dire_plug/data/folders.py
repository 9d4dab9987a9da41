"""Read folders of image files, one per class: decoded in memory, or on demand."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dire_plug.data.subsample import images_per_class
from dire_plug.devices import count_cores
from dire_plug.errors import DirePlugError
from dire_plug.image_files import decode

SUFFIXES = (".jpeg", ".jpg", ".png")
INNER = "images"
"""A folder of a class folder in which its images may lie."""


@dataclass(frozen=True)
class File:
    """One image file: its path, its label, its size in bytes."""

    path: Path
    label: int
    bytes: int


def list_classes(folder: Path, *, expected: int) -> tuple[str, ...]:
    """Return the sorted names of the class folders in `folder`.

    Raises:
        DirePlugError: there are not `expected` of them.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) != expected:
        raise DirePlugError(
            f"{folder}: holds {len(names)} class folders, expected {expected}. The dataset is incomplete"
        )
    return tuple(names)


def list_training(folder: Path, classes: Sequence[str], *, limit: int | None) -> list[File]:
    """Return the training files `folder/<class>/[images/]*`, class by class; of each class the first limit / classes.

    Raises:
        DirePlugError: a class folder is empty, or holds fewer images than the limit asks for.
    """
    per_class = None if limit is None else images_per_class(limit, len(classes))
    files: list[File] = []
    for label, name in enumerate(classes):
        found = list_images(folder / name, label, limit=per_class)
        if per_class is not None and len(found) < per_class:
            raise DirePlugError(
                f"{folder / name}: holds {len(found)} images, but limit {limit} asks for {per_class} of each class"
            )
        files += found
    return files


def list_images(folder: Path, label: int, *, limit: int | None = None) -> list[File]:
    """Return the first `limit` image files of one class by name; in `folder` or in its own folder `images`.

    Raises:
        DirePlugError: there is none, or no such folder.
    """
    place = folder / INNER if (folder / INNER).is_dir() else folder
    try:
        entries = [entry for entry in os.scandir(place) if entry.name.lower().endswith(SUFFIXES)]
    except OSError as error:
        raise DirePlugError(f"{place}: the class folder cannot be read: {error.strerror}") from error
    if not entries:
        raise DirePlugError(f"{place}: the class folder holds no image ({', '.join(SUFFIXES)}); unpack the set again")
    # scandir's order is the file system's, and `limit` takes the first ones
    entries.sort(key=lambda entry: entry.name)
    return [File(Path(entry.path), label, entry.stat().st_size) for entry in entries[:limit]]


def label_tensor(files: Sequence[File]) -> Tensor:
    """Return the labels of files, [N], int64."""
    return torch.tensor([file.label for file in files], dtype=torch.int64)


def decode_all(files: Sequence[File], *, size: int) -> Tensor:
    """Decode images that are `size` × `size` already: uint8, [N, 3, size, size]."""

    def read(file: File) -> Tensor:
        image = decode(file.path)
        if image.size != (size, size):
            raise DirePlugError(f"{file.path}: the image is {image.width}×{image.height}, expected {size}×{size}")
        return to_tensor(image)

    return _stack(read, files, size)


def decode_cropped(files: Sequence[File], *, size: int, whole: bool = False) -> Tensor:
    """Decode images of any shape as `crop` fits them; `whole` ones are turned upright."""

    def read(file: File) -> Tensor:
        _check_unchanged(file)
        return crop(decode(file.path, upright=whole), size, whole=whole)

    return _stack(read, files, size)


def crop(image: Image.Image, size: int, *, whole: bool) -> Tensor:
    """Return the centre of an image: uint8, [3, size, size].

    The shorter side is resized, antialiased, to 256/224 of `size`, as ImageNet's transform does; where `whole`, to
    `size`, so that an image of that size stays as it is and nothing is cut off a square one.
    """
    from torchvision.transforms.v2 import functional

    resized = functional.resize(image, [size if whole else round(size * 256 / 224)], antialias=True)
    return to_tensor(functional.center_crop(resized, [size, size]))


def _check_unchanged(file: File) -> None:
    """Raise for a file that has another size than when it was listed, which decides the dataset's digest.

    Only a rewriting in place comes this far: a listing sees files that came, went or were replaced by others.
    """
    with contextlib.suppress(OSError):  # decoding tells what is wrong
        if (now := file.path.stat().st_size) != file.bytes:
            raise DirePlugError(
                f"{file.path}: has {now} bytes, and had {file.bytes} when the dataset was listed; have it "
                "listed anew: --rerun data of run, compare or evaluate"
            )


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8, [3, h, w]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _stack(read: Callable[[File], Tensor], files: Sequence[File], size: int) -> Tensor:
    """Decode into one tensor, in as many threads as there are cores: Pillow lets go of the interpreter meanwhile."""
    pixels = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor(count_cores()) as pool:
        for index, image in enumerate(pool.map(read, files)):
            pixels[index] = image
    return pixels


@dataclass(frozen=True, eq=False)
class Files:
    """Image files below one folder, held by name: a million objects would take seconds to make.

    Attributes:
        root: the folder.
        names: path of each below it, with slashes, [N].
        sizes: in bytes, [N].
        labels: [N], int64.
        contents: the sha256 of each, [N], where they are known.
    """

    root: Path
    names: Sequence[str]
    sizes: Sequence[int]
    labels: Tensor
    contents: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> File:
        return File(self.root / self.names[index], int(self.labels[index]), self.sizes[index])

    def __iter__(self) -> Iterator[File]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: Tensor) -> "Files":
        """Return those at `indices`, [n], int64."""
        at = indices.tolist()
        contents = None if self.contents is None else [self.contents[one] for one in at]
        names, sizes = [self.names[one] for one in at], [self.sizes[one] for one in at]
        return Files(self.root, names, sizes, self.labels[indices], contents)


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """A split whose images are read on demand, each time they are asked for.

    Attributes:
        files: the images.
        size: height and width that they are resized and cropped to.
        whole: as `crop` takes it.
    """

    files: Files
    size: int
    whole: bool = False

    @property
    def labels(self) -> Tensor:
        """The labels, [N], int64."""
        return self.files.labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Decode the images at `indices`, or all (only where memory holds them): uint8, [n, 3, size, size].

        Raises:
            DirePlugError: a file can't be decoded, or has another size than when it was listed.
        """
        every = range(len(self)) if indices is None else indices.tolist()
        return decode_cropped([self.files[index] for index in every], size=self.size, whole=self.whole)

    def read_whole(self, index: int) -> Tensor:
        """Decode one image as its file has it, neither resized nor cut: uint8, [3, h, w].

        Raises:
            DirePlugError: the file can't be decoded, or has another size than when it was listed.
        """
        file = self.files[index]
        _check_unchanged(file)
        return to_tensor(decode(file.path, upright=self.whole))

    def describe(self) -> Iterable[bytes]:
        """Yield what determines this split, image by image: label and content, else relative path and size in bytes."""
        if self.files.contents is not None:
            known = zip(self.files.contents, self.labels.tolist(), strict=True)
            yield "".join([f"{content}\0{label}\n" for content, label in known]).encode()
            return
        rows = zip(self.files.names, self.files.sizes, self.labels.tolist(), strict=True)
        # at once: the digest of a million files is otherwise mostly calls
        yield "".join([f"{name}\0{size}\0{label}\n" for name, size, label in rows]).encode()


def make_folder_split(
    root: Path, files: Sequence[File], *, size: int, contents: Sequence[str] | None = None, whole: bool = False
) -> FolderSplit:
    """Put a split of files together; `contents` and `whole` are those of `Files` and `FolderSplit`."""
    names = [file.path.relative_to(root).as_posix() for file in files]
    return FolderSplit(Files(root, names, [file.bytes for file in files], label_tensor(files), contents), size, whole)
