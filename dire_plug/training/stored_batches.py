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
from safetensors.torch import save
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
ROUNDING = 1e-6


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


def count_stored(images: int, *, batch_size: int, epochs: int, kept: float) -> list[int]:
    """Return how many batches of each epoch are stored: of all epochs' batches the first, a share `kept` of them."""
    each = -(-images // batch_size)
    # rounded down as LPLD's, but past the rounding of a share such as 1 − 0.975
    whole, rest = divmod(max(1, int(kept * epochs * each + ROUNDING)), each)
    return [each] * whole + ([rest] if rest else [])


def draw_stored(counts: Sequence[int], *, images: int, batch_size: int, generator: Generator) -> list[tuple[int, int]]:
    """Draw an epoch's batches out of the stored ones, with replacement: which epoch's, and which of it.

    In place of a smaller last batch of an epoch comes the one before, as in LPLD's `train_FKD_label_pruning_batch.py`.
    """
    each = -(-images // batch_size)
    drawn = torch.randint(sum(counts), (each,), generator=generator)
    found = [divmod(number, each) for number in drawn.tolist()]
    short = each - 1 if images % batch_size and each > 1 else None
    return [(epoch, batch - 1 if batch == short else batch) for epoch, batch in found]


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


def read_epoch(
    path: Path, *, batch_size: int, only: Sequence[int] | None = None
) -> Iterator[tuple[TransformParams, Tensor]]:
    """Yield the batches of an epoch in order, or those of the numbers in `only`; each with its logits, half, [n, K].

    Raises:
        DirePlugError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_slice(key) for key in ("indices", "boxes", "flips", "partners", "logits")}
            shares, cuts = file.get_tensor("shares").tolist(), file.get_tensor("cuts").tolist()
            spans = [slice(number * batch_size, (number + 1) * batch_size) for number in range(len(shares))]
            numbers = range(len(shares)) if only is None else only
            each = [[found[key][spans[number]] for number in numbers] for key in found]
    except (OSError, KeyError, SafetensorError) as error:
        raise DirePlugError(
            f"{path}: the soft labels cannot be read ({error}); remove the file and run the command again: it labels "
            "this epoch again, and students resume where they stopped"
        ) from error
    for number, indices, boxes, flips, partners, logits in zip(numbers, *each, strict=True):
        top, bottom, left, right = cuts[number]
        cut_box = (top, bottom, left, right)
        yield TransformParams(indices.long(), boxes.long(), flips, partners.long(), shares[number], cut_box), logits
