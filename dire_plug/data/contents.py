"""Know image files by their content, and decode them once: for folders of a user's own, whose files may be photos.

Kept in `store/listings/` of the home, beside the listings: of each file its sha256 and the size of its image, valid as
long as the file's times and its size are as they were; and the images of a dataset decoded at one size, in a file that
is mapped into memory, under the digest of all that they come from.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import ExifTags
from torch import Tensor

from dire_plug import ui
from dire_plug.data.dataset import Dataset, TensorSplit
from dire_plug.data.folders import File, FolderSplit, crop
from dire_plug.data.listing import SETTLED, folder_of
from dire_plug.devices import count_cores
from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, new_folder, read_json, write_atomically, write_json
from dire_plug.image_files import UNREADABLE, check_image, open_image

REVISION = 1
"""Raised when the same files give other pixels."""
MOST_KEPT = 2 << 30
"""Bytes of a dataset's pixels up to which they are decoded once and kept; above, images are read on demand."""
SHOWN = 5
"""Problems that an error lists."""
ON_ITS_SIDE = (5, 6, 7, 8)
"""The orientations of EXIF in which a photo's height is its width."""
CONTENTS, PIXELS, ABOUT = "contents.json", "pixels.bin", "about.json"

Made = TypeVar("Made")


@dataclass(frozen=True)
class Content:
    """What is known of an image file.

    Attributes:
        sha256: of the file.
        width, height: of its image, upright.
        transparent: whether it has an alpha channel.
    """

    sha256: str
    width: int
    height: int
    transparent: bool


def look_at(root: Path, files: Sequence[File]) -> list[Content]:
    """Return the content of each file below `root`; a file that hasn't changed since isn't read again.

    Raises:
        DirePlugError: images can't be used; the message counts them.
    """
    kept_in = folder_of(root) / CONTENTS
    known = _read_known(kept_in, root)
    names = [file.path.relative_to(root).as_posix() for file in files]
    stamps = [_stamp(file.path) for file in files]
    new = [at for at, name in enumerate(names) if name not in known or known[name]["stamp"] != stamps[at]]
    now = time.time_ns()
    made = _each(root, [files[at] for at in new], lambda _, path: _look(path), what="look at")
    found = dict(zip(new, made, strict=True))
    # a file that was written just now may change again within one tick of its clock
    settled = [at for at in new if max(stamps[at][1:]) < now - SETTLED * 1e9]
    if settled:
        known |= {names[at]: {"stamp": stamps[at], **asdict(found[at])} for at in settled}
        content = {"root": str(root.absolute()), "files": known}
        # a store that can't be written costs time only
        with contextlib.suppress(DirePlugError):
            write_atomically(kept_in, json.dumps(content, ensure_ascii=False, separators=(",", ":")))
    return [found[at] if at in found else _content(known[name]) for at, name in enumerate(names)]


def _read_known(path: Path, root: Path) -> dict[str, Any]:
    """Return relative path → stamp and content of the files that were looked at; none where the record is damaged."""
    try:
        content = read_json(path)
        files: dict[str, Any] = content["files"]
        whole = all(map(_is_whole, files.values()))
        return files if whole and content["root"] == str(root.absolute()) else {}
    except (DirePlugError, KeyError, TypeError, AttributeError):
        return {}


def _is_whole(kept: Mapping[str, Any]) -> bool:
    return isinstance(kept["sha256"], str) and all(
        isinstance(one, int) for one in (*kept["stamp"], kept["width"], kept["height"], kept["transparent"])
    )


def _content(kept: Mapping[str, Any]) -> Content:
    return Content(kept["sha256"], kept["width"], kept["height"], kept["transparent"])


def _stamp(path: Path) -> list[int]:
    """Return a file's size and times: of its content, and of its entry, which no copying tool sets back."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _look(path: Path) -> Content:
    with check_image(path) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation) in ON_ITS_SIDE:
            width, height = height, width
        transparent = image.has_transparency_data
    return Content(digest_file(path), width, height, transparent)


def _each(root: Path, files: Sequence[File], make: Callable[[int, Path], Made], *, what: str) -> list[Made]:
    """Return what `make` does of the number and path of each file, in as many threads as there are cores.

    Raises:
        DirePlugError: files can't be used: all are tried, so that all are counted.
    """

    def attempt(at: int, file: File) -> Made | str:
        try:
            return make(at, file.path)
        except UNREADABLE as error:
            return str(error) or type(error).__name__

    made, problems = list[Made](), list[str]()
    with (
        ThreadPoolExecutor(count_cores()) as pool,
        ui.progress(f"data: {what} {len(files)} images of {root}", len(files)) as advance,
    ):
        for done, (file, one) in enumerate(
            zip(files, pool.map(attempt, range(len(files)), files), strict=True), start=1
        ):
            if isinstance(one, str):
                problems.append(f"{file.path.relative_to(root)}: {one}")
            else:
                made.append(one)
            advance(done)
    if problems:
        raise bad_images(root, problems, of=len(files))
    return made


def bad_images(root: Path, problems: Sequence[str], *, of: int) -> DirePlugError:
    """Return the error for images that can't be used."""
    lines = [f"  {one}" for one in problems[:SHOWN]] + ["  …"] * (len(problems) > SHOWN)
    count = f"{len(problems)} of {of} images can't be read"
    return DirePlugError("\n".join([f"{root}: {count}:", *lines, "Remove them, or save them again as JPEG or PNG"]))


def keep_pixels(dataset: Dataset, root: Path) -> Dataset:
    """Return a dataset whose splits, files below `root`, are decoded in memory; one that is too large as it is.

    Raises:
        DirePlugError: images can't be decoded.
    """
    train, test = dataset.train, dataset.test
    assert isinstance(train, FolderSplit)
    assert isinstance(test, FolderSplit)
    shape = (len(train) + len(test), 3, dataset.size, dataset.size)
    if shape[0] * 3 * dataset.size**2 > MOST_KEPT:
        return dataset
    folder = folder_of(root) / f"pixels-{dataset.digest[:20]}-{REVISION}"
    if (pixels := _read_pixels(folder, shape)) is None:
        pixels = _decode(root, [*train.files, *test.files], dataset.size)
        with contextlib.suppress(DirePlugError):
            _write_pixels(folder, pixels)
    first, rest = pixels[: len(train)], pixels[len(train) :]
    return replace(dataset, train=TensorSplit(first, train.labels), test=TensorSplit(rest, test.labels))


def _decode(root: Path, files: Sequence[File], size: int) -> Tensor:
    # each into its place: a list of images, stacked in the end, would hold all of them twice
    pixels = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def read(at: int, path: Path) -> None:
        pixels[at] = crop(open_image(path, upright=True), size, whole=True)

    _each(root, files, read, what=f"decode at {size} pixels")
    return pixels


def _write_pixels(folder: Path, pixels: Tensor) -> None:
    with new_folder(folder) as made:
        pixels.numpy().tofile(made / PIXELS)
        write_json(made / ABOUT, {"sha256": digest_file(made / PIXELS)})


def _read_pixels(folder: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Return the kept images, uint8, mapped from their file; None where there are none, or not those any more."""
    try:
        if digest_file(folder / PIXELS) != read_json(folder / ABOUT)["sha256"]:
            return None
        # `clean` removes what no run has used for a while
        os.utime(folder / ABOUT)
        count = torch.Size(shape).numel()
        # private: whoever writes into an image changes no file
        return torch.from_file(str(folder / PIXELS), shared=False, size=count, dtype=torch.uint8).view(shape)
    except (DirePlugError, OSError, RuntimeError, KeyError, TypeError):
        return None
