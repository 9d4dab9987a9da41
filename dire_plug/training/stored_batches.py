"""Store batches with their soft labels: draw a batch, write it, and make the same bits again from its file.

The draws and the images are those of `transforms.train_transform` and `transforms.mixing`. A file holds one epoch:
N images in B batches take N·(2·outputs + 17) + 16·B bytes, and a short header; labels are half precision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Generator, Tensor

from dire_plug.data.augmentation.batch import normalise
from dire_plug.data.augmentation.draws import Augmentation, Crops, Cut, Mixed, Shape
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.training.transforms import cropping, mixing

FOLDER = "relabel"
BYTES_PER_IMAGE = 17
"""In an epoch, beside the logits: index, box, flip and partner."""
BYTES_PER_BATCH = 16


class TransformParams(NamedTuple):
    """The parameters drawn for one batch of n images: `Crops` and `Mixed`.

    Attributes:
        indices: which images of the set, [n], int64.
        boxes: [n, 4], int64: top, left, height, width of the crop; in the padded image where padding comes before.
        flips: [n], bool.
        partners: the position in the batch of the image that is mixed in, [n], int64.
        share: the image's own share; λ of mixup.
        cut: the box that CutMix pastes.
    """

    indices: Tensor
    boxes: Tensor
    flips: Tensor
    partners: Tensor
    share: float
    cut: Cut


@dataclass(frozen=True)
class StoredTransform:
    """A train transform in two parts: what it draws, which can be stored, and what that does to a batch.

    Attributes:
        augmentation: none, crop, crop_flip or resized_crop_flip.
        padding: pixels on each side before cropping.
        mixup, cutmix: the alpha of each; at most one isn't 0.
        mean, std: the normalisation.
    """

    augmentation: str
    padding: int
    mixup: float
    cutmix: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def draw(self, shape: Shape, indices: Tensor, *, generator: Generator) -> TransformParams:
        """Draw crops, flips and mixing for one batch.

        Args:
            shape: of the whole set, N, 3, H, W.
            indices: those of the batch, [n], int64, on the CPU.
            generator: on the CPU.
        """
        of_batch = (len(indices), *shape[1:])
        crops: Crops = self._cropping.draw(of_batch, generator)
        mixed: Mixed = self._mixing.draw(of_batch, generator)
        return TransformParams(indices, crops.boxes, crops.flips, mixed.partners, mixed.share, mixed.cut)

    def apply(self, images: Tensor, params: TransformParams) -> Tensor:
        """Return the batch as networks see it, float, [n, 3, H, W]: the same bits at each call.

        Args:
            images: those of the batch, uint8, or float in [0, 1], [n, 3, H, W].
            params: what `draw` returned for the batch, on the images' device.
        """
        cropped = self._cropping.apply(images, Crops(params.boxes, params.flips))
        inputs = normalise(cropped, self.mean, self.std)
        return self._mixing.apply(inputs, Mixed(params.partners, params.share, params.cut))

    @property
    def _cropping(self) -> Augmentation:
        return cropping(self.augmentation, padding=self.padding)

    @property
    def _mixing(self) -> Augmentation:
        return mixing(mixup_alpha=self.mixup, cutmix_alpha=self.cutmix)


def epoch_file(folder: Path, epoch: int) -> Path:
    """Return the file of an epoch, from 0, of the labels in a folder."""
    return folder / FOLDER / f"epoch-{epoch:04d}.safetensors"


def epoch_bytes(images: int, batches: int, outputs: int) -> int:
    """Return how many bytes an epoch's file takes, but for its header."""
    return images * (2 * outputs + BYTES_PER_IMAGE) + batches * BYTES_PER_BATCH


def is_stored(path: Path) -> bool:
    """Return whether `path` holds a whole epoch."""
    try:
        # the header has the size of all tensors, so a file that was cut off doesn't open
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def write_epoch(path: Path, batches: Sequence[tuple[TransformParams, Tensor]]) -> None:
    """Write the batches of an epoch atomically, each with its logits, [n, outputs], which are rounded to half.

    Raises:
        DirePlugError: it cannot be written.
    """
    params = [one for one, _ in batches]
    tensors = {
        "indices": torch.cat([one.indices for one in params]).int(),
        "boxes": torch.cat([one.boxes for one in params]).short(),
        "flips": torch.cat([one.flips for one in params]),
        "partners": torch.cat([one.partners for one in params]).int(),
        # Python floats: float32 would change the last bits of mixup's λ
        "shares": torch.tensor([one.share for one in params], dtype=torch.float64),
        "cuts": torch.tensor([one.cut for one in params], dtype=torch.int16),
        "logits": torch.cat([logits.half() for _, logits in batches]),
    }
    write_atomically(path, save(tensors))


def read_epoch(path: Path, *, batch_size: int) -> Iterator[tuple[TransformParams, Tensor]]:
    """Yield the batches of an epoch in order, each with its logits, half, [n, outputs].

    Raises:
        DirePlugError: the file is missing or damaged.
    """
    try:
        found = load_file(path)
        each = [torch.split(found[key], batch_size) for key in ("indices", "boxes", "flips", "partners", "logits")]
        shares, cuts = found["shares"].tolist(), found["cuts"].tolist()
    except (OSError, KeyError, SafetensorError) as error:
        raise DirePlugError(
            f"{path}: the soft labels cannot be read ({error}); remove the file and run the command again: it labels "
            "this epoch again, and students resume where they stopped"
        ) from error
    for indices, boxes, flips, partners, logits, share, cut in zip(*each, shares, cuts, strict=True):
        top, bottom, left, right = cut
        cut_box = (top, bottom, left, right)
        yield TransformParams(indices.long(), boxes.long(), flips, partners.long(), share, cut_box), logits
