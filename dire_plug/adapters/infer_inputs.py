"""What INFER's scripts read: checkpoints at paths of their own, and real images as tensors or as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from dire_plug.files import make_folder

if TYPE_CHECKING:
    from torch import Tensor

PRETRAINED = "pretrained"
START = "start"
"""Folders among the inputs."""
_COMPRESSION = 0
"""Of PNG: none, since the files live for one run."""
NETWORKS: Mapping[str, str] = MappingProxyType(
    {
        "resnet-18": "resnet18",
        "resnet-small": "resnet18",
        "mobilenet-v2-ufc": "mobilenetV2",
        "efficientnet-b0-ufc": "efficientnet",
        "shufflenet-g2-ufc": "shufflenet",
        "mobilenet-v2": "mobilenet_v2",
        "efficientnet-b0": "efficientnet_b0",
    }
)
"""Architecture → how upstream names it: in the folder of its checkpoint, or as torchvision does."""


def checkpoint_path(architecture: str, dataset: str | None) -> str:
    """Return where, below the inputs, a checkpoint lies; the CIFAR script reads a folder for each of its datasets."""
    name = NETWORKS[architecture]
    return f"{PRETRAINED}/{name}.pt" if dataset is None else f"{PRETRAINED}/{dataset}/{name}_E200/ckpt.pth"


def write_tensors(folder: Path, start: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Write `tensor_{i}.pt`: the i-th image of every class, normalised, [C, 3, H, W].

    Args:
        folder: is made.
        start: [C, n, 3, H, W], uint8.
        mean, std: of the script.
    """
    import torch

    from dire_plug.data.augmentation.batch import normalise

    make_folder(folder)
    for image in range(start.shape[1]):
        torch.save(normalise(start[:, image], mean, std), folder / f"tensor_{image}.pt")


def write_files(folder: Path, start: Tensor) -> None:
    """Write a folder for each class with its images as PNG, sorted as the classes are.

    Args:
        folder: is made.
        start: [C, n, 3, H, W], uint8.
    """
    from PIL import Image

    for label, images in enumerate(start):
        make_folder(of_class := folder / f"{label:05d}")
        for image, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(pixels).save(of_class / f"{image:05d}.png", compress_level=_COMPRESSION)
