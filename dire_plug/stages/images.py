"""The condensed images of a run as files: saved like upstream does, read like its evaluation does, or as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.types import Adapter

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = "images.safetensors"


def save_images(
    folder: Path,
    adapter: Adapter,
    *,
    images: Tensor,
    labels: Sequence[int],
    numbers: Sequence[int],
    suffix: str | None = None,
) -> None:
    """Save each image where and as upstream would: the suffix is the format, Pillow's defaults the quality.

    Args:
        images: [N, 3, H, W]; uint8, or float in [0, 1], whose grey levels are cut off, not rounded, as upstream does.
        labels, numbers: the class of each image, and which image of the class it is.
        suffix: the script's, where it isn't the adapter's.

    Raises:
        DirePlugError: a file cannot be written.
    """
    import torch
    from PIL import Image

    pixels = images if images.dtype == torch.uint8 else (images * 255).to(torch.uint8)
    arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()
    for array, label, number in zip(arrays, labels, numbers, strict=True):
        path = _image_path(folder, adapter, label, number, suffix)
        make_folder(path.parent)
        try:
            Image.fromarray(array).save(path)
        except OSError as error:
            raise DirePlugError(f"{path}: the image cannot be written: {error}") from error


def _image_path(folder: Path, adapter: Adapter, label: int, number: int, suffix: str | None) -> Path:
    path = folder / adapter.image_path(label, number)
    return path if suffix is None else path.with_suffix(suffix)


def read_saved(
    folder: Path, adapter: Adapter, *, classes: int, ipc: int, suffix: str | None = None
) -> tuple[Tensor, Tensor]:
    """Read the images that a synthesis saved: uint8 [classes·ipc, 3, H, W] and labels, by class, then image.

    Raises:
        DirePlugError: a file is missing, damaged, or of another size than the first.
    """
    import torch

    images: Tensor | None = None  # one tensor from the start: a list of 50,000 images would take as much again
    for label in range(classes):
        for number in range(ipc):
            image = read_image(folder, adapter, label=label, number=number, suffix=suffix)
            if images is None:
                images = image.new_empty(classes * ipc, *image.shape)
            if image.shape != images.shape[1:]:
                raise DirePlugError(
                    f"{_image_path(folder, adapter, label, number, suffix)}: is {_size(image)}, the first image is "
                    f"{_size(images)}; the folder mixes two syntheses: {_advice(folder)}"
                )
            images[label * ipc + number] = image
    assert images is not None
    return images, torch.arange(classes).repeat_interleave(ipc)


def read_image(folder: Path, adapter: Adapter, *, label: int, number: int, suffix: str | None = None) -> Tensor:
    """Read one image that a synthesis saved: uint8 [3, H, W].

    Raises:
        DirePlugError: the file is missing or damaged.
    """
    path = _image_path(folder, adapter, label, number, suffix)
    try:
        return _read(path)
    except FileNotFoundError as error:
        what = f"image {number} of class {label} is missing"
        raise DirePlugError(f"{path}: {what}; {_advice(folder)}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DirePlugError(f"{path}: the image is damaged ({error}); {_advice(folder)}") from error


def _advice(folder: Path) -> str:
    return f"remove {folder.with_name(TENSORS)} and run the command again: it recovers the images anew"


def read_tensors(folder: Path) -> tuple[Tensor, Tensor]:
    """Read a run's images before saving: float [N, 3, H, W] in [0, 1] and labels [N], by class, then image.

    Raises:
        DirePlugError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / TENSORS
    if not path.is_file() and (folder / "passes").is_dir():
        raise DirePlugError(
            f"{path}: this set is too large for one file, so its tensors lie in {folder / 'passes'}; "
            "set evaluate.source=saved"
        )
    try:
        found = load_file(path)
        return found["images"], found["labels"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DirePlugError(f"{path}: cannot be read ({error}); remove it and recover again") from error


def _read(path: Path) -> Tensor:
    """Read one image as uint8 [3, H, W]; errors are Pillow's."""
    import numpy as np
    import torch

    from dire_plug.data.folders import open_image

    return torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1)


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}×{image.shape[-2]}"
