"""Read image files, and the images of a run from its folder, as arrays: without torch."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from dire_plug.errors import DirePlugError
from dire_plug.types import Adapter

FORMATS = ("JPEG", "PNG", "WEBP")
"""The formats that are opened. Pillow goes by the content, and for some formats starts a program (EPS: Ghostscript)."""
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error)
"""What opening and decoding an image raises, where the file is at fault."""
MOST_PIXELS = 89_478_485
"""More in one image are taken for an attack, as by Pillow, which only warns from there to twice as many."""
TENSORS = "images.safetensors"
"""In a run's folder: its images before saving, and their labels."""


def decode(path: Path, *, upright: bool = False) -> Image.Image:
    """Decode an image file to RGB; `upright` as in `open_image`.

    Raises:
        DirePlugError: it is truncated or no image that `open_image` takes.
    """
    try:
        return open_image(path, upright=upright)
    except UNREADABLE as error:
        raise DirePlugError(f"{path}: the image cannot be decoded: {error}. Get this file again") from error


def open_image(path: Path, *, upright: bool = False) -> Image.Image:
    """Open an image file as RGB, 8 bits a channel.

    Args:
        upright: whether to turn a photo as its EXIF says that the camera was held.

    Raises:
        As `check_image`; OSError: it is truncated; ValueError: its EXIF data are damaged.
    """
    with check_image(path) as image:
        try:
            return (ImageOps.exif_transpose(image) if upright else image).convert("RGB")
        except struct.error as error:
            raise ValueError("its EXIF data are damaged") from error


def check_image(path: Path) -> Image.Image:
    """Return an image file opened, not decoded: its header is read and found to be one that is taken.

    Raises:
        OSError: it cannot be read, or is of none of `FORMATS`, whatever its name says.
        ValueError: it has 16 bits of grey, of which RGB would keep none above 255, or too many pixels.
        SyntaxError: it is damaged.
    """
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise OSError(f"its content is none of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"more than {MOST_PIXELS:,} pixels") from error
    problem = None
    if image.width * image.height > MOST_PIXELS:
        problem = f"more than {MOST_PIXELS:,} pixels"
    # Pillow's conversion to RGB would cut such values off at 255 without a warning
    elif image.mode.startswith(("I", "F")):
        problem = f"its grey levels have more than 8 bits (Pillow's mode {image.mode}); save it with 8"
    if problem is not None:
        image.close()
        raise ValueError(problem)
    return image


def image_path(folder: Path, adapter: Adapter, label: int, number: int, suffix: str | None = None) -> Path:
    """Return where an image lies below `folder`."""
    path = folder / adapter.image_path(label, number)
    return path if suffix is None else path.with_suffix(suffix)


def read_image(folder: Path, adapter: Adapter, label: int, number: int, suffix: str | None = None) -> NDArray[np.uint8]:
    """Read one image that a synthesis saved: uint8 [H, W, 3].

    Raises:
        DirePlugError: the file is missing or damaged.
    """
    path = image_path(folder, adapter, label, number, suffix)
    try:
        return np.array(open_image(path))
    except FileNotFoundError as error:
        what = f"image {number} of class {label} is missing"
        raise DirePlugError(f"{path}: {what}; {advice(folder)}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DirePlugError(f"{path}: the image is damaged ({error}); {advice(folder)}") from error


def advice(folder: Path) -> str:
    """Return what to do where a saved image is missing or damaged."""
    return f"remove {folder} and run the command again"


def read_arrays(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read a run's images before saving: float [N, 3, H, W] in [0, 1] and labels [N], by class, then image.

    Raises:
        DirePlugError: the file is missing or damaged.
    """
    path = folder / TENSORS
    if not path.is_file() and (folder / "passes").is_dir():
        raise DirePlugError(
            f"{path}: this set is too large for one file, so its tensors lie in {folder / 'passes'}; "
            "set evaluate.source=saved"
        )
    try:
        with safe_open(path, framework="np") as found:
            return found.get_tensor("images"), found.get_tensor("labels")
    except (OSError, SafetensorError) as error:
        raise DirePlugError(f"{path}: cannot be read ({error}); remove it and run the command again") from error
