"""Hold a set of condensed images for students and metrics; save and read a run's image files as upstream does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.image_files import advice, image_path, read_arrays, read_image
from dire_plug.stages.artefacts import Source
from dire_plug.types import LOOP, Adapter


@dataclass(frozen=True)
class ImageSet:
    """A set of images as students and metrics take it, read at the first use.

    Attributes:
        source: identifies the set.
        read: returns the images, [n, 3, h, w], uint8, or float in [0, 1], by class, and their labels, [n].
        read_loop: returns the images in the space of the loop, unbounded; None where only pixels are known.
        whitened: whether that space is the whitened one.
        extras: what the synthesis learned beside the images.
        synthesized: False where the images are real ones.
        name: of the set in progress bars: the arm.
    """

    source: Source
    read: Callable[[], tuple[Tensor, Tensor]]
    name: str
    read_loop: Callable[[], Tensor | None] = lambda: None
    whitened: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)
    synthesized: bool = True

    @cached_property
    def _decoded(self) -> tuple[Tensor, Tensor]:
        """All at once, for all stages, each of which holds them all (ImageNet-1K at IPC 50: 7.5 GB of uint8)."""
        return self.read()

    @property
    def images(self) -> Tensor:
        """[n, 3, h, w], uint8, or float in [0, 1]."""
        return self._decoded[0]

    @property
    def labels(self) -> Tensor:
        """[n], int64."""
        return self._decoded[1]


def save_images(
    folder: Path,
    adapter: Adapter,
    *,
    images: Tensor,
    labels: Sequence[int],
    numbers: Sequence[int],
    suffix: str | None = None,
) -> None:
    """Save each image as upstream does: the suffix gives the format, Pillow's defaults the quality.

    Args:
        images: [N, 3, H, W]; uint8, or float in [0, 1], which is truncated to uint8, not rounded, as upstream does.
        labels, numbers: the class of each image, and which image of the class it is.
        suffix: the script's, where it isn't the adapter's.

    Raises:
        DirePlugError: a file cannot be written.
    """
    # `.to(uint8)` truncates, as upstream's does: rounding would give other files
    pixels = images if images.dtype == torch.uint8 else (images * 255).to(torch.uint8)
    arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()
    for array, label, number in zip(arrays, labels, numbers, strict=True):
        path = image_path(folder, adapter, label, number, suffix)
        make_folder(path.parent)
        try:
            Image.fromarray(array).save(path)
        except OSError as error:
            raise DirePlugError(f"{path}: the image cannot be written: {error}") from error


def read_saved(
    folder: Path, adapter: Adapter, *, classes: int, ipc: int, suffix: str | None = None
) -> tuple[Tensor, Tensor]:
    """Read the images that a synthesis saved: uint8 [classes·ipc, 3, H, W] and labels, by class, then image.

    Raises:
        DirePlugError: a file is missing, damaged, or of another size than the first.
    """
    images: Tensor | None = None  # one tensor from the start: a list of 50,000 images would take as much again
    for label in range(classes):
        for number in range(ipc):
            image = torch.from_numpy(read_image(folder, adapter, label, number, suffix)).permute(2, 0, 1)
            if images is None:
                images = image.new_empty(classes * ipc, *image.shape)
            if image.shape != images.shape[1:]:
                raise DirePlugError(
                    f"{image_path(folder, adapter, label, number, suffix)}: is {_size(image)}, the first image is "
                    f"{_size(images)}; the folder mixes two syntheses: {advice(folder)}"
                )
            images[label * ipc + number] = image
    assert images is not None
    return images, torch.arange(classes).repeat_interleave(ipc)


def read_tensors(folder: Path) -> tuple[Tensor, Tensor]:
    """Read a run's images as `read_arrays` does, as tensors."""
    images, labels = read_arrays(folder)
    return torch.from_numpy(images), torch.from_numpy(labels)


def read_loop_tensors(file: Path) -> Tensor | None:
    """Read a run's images as its loop left them: [N, 3, H, W], unbounded; None where only their pixels are kept.

    Raises:
        DirePlugError: the file is damaged.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as found:
            images: Tensor | None = found.get_tensor(LOOP) if LOOP in found.keys() else None  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DirePlugError(f"{file}: cannot be read ({error}); remove it and run the command again") from error
    return images


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}×{image.shape[-2]}"
