"""Serve our images instead of torchvision's `ImageFolder`, whatever folder a script names.

Needed by G-VBSM `Branch_Tiny_ImageNet/recover/tiny_in_dataset.py` 39, 46 and by its ImageNet-1K script, 69, which read
the training images once, to compute statistics; the former opens the test images too and reads none. LPLD
`imagenet1k_forward/forward_once.py` 121, 163 and `tiny_forward/forward_once.py` 100, 107 do likewise; they test on the
folder or split `val`, only to print the accuracy, so it has one image; the second has a dataset of its own. EDC
`utils.py` 556 derives a class of it that draws start images by itself.
"""

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import torchvision
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset

from dire_plug.devices import count_cores
from dire_plug.errors import DirePlugError
from dire_plug.image_files import decode

PATHS = "paths"
"""The key of the metadata of a JSON list of files, which replaces the tensor of images."""


def install(*, device: str, file: str, classes: int = 0, also: str = "") -> None:
    """Serve one file's images to every `ImageFolder`.

    Args:
        device: the child's.
        file: a safetensors file: `train.labels`, [N]; and `train.images`, [N, 3, H, W] uint8, or in the metadata
            `paths`, a JSON list of N image files, which are decoded when they are read.
        classes: how many classes the dataset says it has, for scripts that count them.
        also: `module.Class`: a dataset of upstream's own that is replaced too; its module is then never imported.
    """

    class Ours(Images):  # the file is the class's, since scripts make instances with arguments of their own
        source = Path(file)

    Ours.classes = [str(number) for number in range(classes)]
    torchvision.datasets.ImageFolder = Ours
    if also:
        name, _, attribute = also.rpartition(".")
        setattr(module := ModuleType(name), attribute, Ours)
        sys.modules[name] = module


class Images(Dataset[tuple[Any, Any]]):
    """A dataset with the attributes of an `ImageFolder` that upstream uses."""

    source: Path
    classes: Sequence[str] = ()

    def __init__(
        self, root: object, transform: Callable[..., Any] | None = None, split: str = "", **ignored: Any
    ) -> None:
        """Read the file; `root` is ignored, but a folder or a split `val` has the first image alone.

        Raises:
            DirePlugError: the file cannot be read, or holds neither images nor paths for its labels.
        """
        self.root, self.transform = root, transform
        try:
            with safe_open(str(self.source), framework="pt") as found:
                self.targets: list[int] = found.get_tensor("train.labels").tolist()
                self._paths: list[str] | None = json.loads((found.metadata() or {}).get(PATHS, "null"))
                self._pixels = None if self._paths is not None else found.get_tensor("train.images")
        except (OSError, SafetensorError, ValueError) as error:
            raise DirePlugError(f"{self.source}: cannot be read as images for upstream's script: {error}") from error
        images = self._paths if self._pixels is None else self._pixels
        if images is None or len(images) != len(self.targets):
            raise DirePlugError(f"{self.source}: holds {len(images or ())} images for {len(self.targets)} labels")
        if "val" in (split, Path(str(root)).name):
            self.targets = self.targets[:1]

    @property
    def samples(self) -> list[tuple[int, int]]:
        """Return (index, label) of each image, for a script that hands the first to `loader` itself."""
        return list(enumerate(self.targets))

    imgs = samples

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the transformed image, made from a PIL image, and its label."""
        return self._transformed(index, self.loader(index))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return the images and labels of a batch, as a `DataLoader` asks for them.

        Images are decoded in as many threads as there are cores, then transformed here in their order, so that the
        transforms draw the numbers that they would draw image by image.
        """
        with ThreadPoolExecutor(count_cores()) as pool:
            return [self._transformed(*pair) for pair in zip(indices, pool.map(self.loader, indices), strict=True)]

    def _transformed(self, index: int, image: Image.Image) -> tuple[Any, Any]:
        return self.transform(image) if self.transform else image, self.targets[index]

    def loader(self, index: int) -> Image.Image:
        """Return one image, not transformed."""
        if self._pixels is not None:
            return Image.fromarray(self._pixels[index].permute(1, 2, 0).contiguous().numpy())
        assert self._paths is not None
        return decode(Path(self._paths[index]))
