"""Batches that are stored with their soft labels: what is drawn for one, its file, and the same bits again from it.

The draws and the images are those of `views.training_view` and `views.mixing`. A file holds one epoch: N images in B
batches take N·(2·outputs + 17) + 16·B bytes, and a short header; labels are half precision. Imports torch: import it
late.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Generator, Tensor

from dire_plug.data.augmentation.batch import (
    Cut,
    crop_flip_at,
    cutmix_at,
    draw_boxes,
    draw_cutmix,
    draw_mix,
    mixup_at,
    normalise,
    resized_crop_flip_at,
)
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.training.transforms import LEAST_SCALE

RATIO = (3 / 4, 4 / 3)
"""Of the sides of a resized crop (torchvision's numbers)."""
NO_CUT: Cut = (0, 0, 0, 0)
FOLDER = "relabel"
BYTES_PER_IMAGE = 17
"""In an epoch, beside the logits: index, box, flip and partner."""
BYTES_PER_BATCH = 16


@dataclass(frozen=True)
class Geometry:
    """How images are shown.

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


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn for one batch of n images; tensors are on the CPU.

    Attributes:
        indices: which images of the set, [n], int64.
        boxes: [n, 4], int64: top, left, height, width of the crop; in the padded image where padding comes before.
        flips: [n], bool.
        partners: the place in the batch of the image that is mixed in, [n], int64.
        share: the image's own share; λ of mixup.
        cut: the box that CutMix pastes.
    """

    indices: Tensor
    boxes: Tensor
    flips: Tensor
    partners: Tensor
    share: float
    cut: Cut


def draw(images: Tensor, indices: Tensor, *, geometry: Geometry, generator: Generator) -> Drawn:
    """Draw crops, flips and mixing for one batch.

    Args:
        images: the whole set, [N, 3, H, W].
        indices: those of the batch, [n], int64, on the CPU.
        geometry: how images are shown.
        generator: on the CPU.
    """
    batch = images[:1].cpu().expand(len(indices), -1, -1, -1)  # only its shape is asked
    boxes, flips = _draw_crops(batch, geometry, generator)
    partners, share, cut = torch.arange(len(indices)), 1.0, NO_CUT
    if geometry.cutmix:
        partners, cut, share = draw_cutmix(batch, alpha=geometry.cutmix, generator=generator)
    elif geometry.mixup:
        partners, share = draw_mix(batch, geometry.mixup, generator)
    return Drawn(indices, boxes, flips, partners, share, cut)


def rebuild(images: Tensor, drawn: Drawn, *, geometry: Geometry, device: torch.device) -> Tensor:
    """Return the batch as networks see it, float, [n, 3, H, W], on `device`.

    Args:
        images: the whole set, uint8, or float in [0, 1], [N, 3, H, W], on any device.
        drawn: what `draw` gave.
        geometry: the one that was drawn with.
        device: where the batch is made.
    """
    batch = images[drawn.indices.to(images.device)].to(device)
    seen = normalise(_crop(batch, drawn, geometry), geometry.mean, geometry.std)
    partners = drawn.partners.to(device)
    if geometry.cutmix:
        return cutmix_at(seen, partners, drawn.cut)
    return mixup_at(seen, partners, drawn.share) if geometry.mixup else seen


def epoch_file(folder: Path, epoch: int) -> Path:
    """Return the file of an epoch, from 0, of the labels in a folder."""
    return folder / FOLDER / f"epoch-{epoch:04d}.safetensors"


def epoch_bytes(images: int, batches: int, outputs: int) -> int:
    """Return how many bytes an epoch's file takes, but for its header."""
    return images * (2 * outputs + BYTES_PER_IMAGE) + batches * BYTES_PER_BATCH


def is_stored(path: Path) -> bool:
    """Tell whether an epoch lies in `path` whole."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def write_epoch(path: Path, batches: Sequence[tuple[Drawn, Tensor]]) -> None:
    """Write the batches of an epoch atomically, each with its logits, [n, outputs], which are rounded to half.

    Raises:
        DirePlugError: it cannot be written.
    """
    drawn = [one for one, _ in batches]
    tensors = {
        "indices": torch.cat([one.indices for one in drawn]).int(),
        "boxes": torch.cat([one.boxes for one in drawn]).short(),
        "flips": torch.cat([one.flips for one in drawn]),
        "partners": torch.cat([one.partners for one in drawn]).int(),
        "shares": torch.tensor([one.share for one in drawn], dtype=torch.float64),
        "cuts": torch.tensor([one.cut for one in drawn], dtype=torch.int16),
        "logits": torch.cat([logits.half() for _, logits in batches]),
    }
    write_atomically(path, save(tensors))


def read_epoch(path: Path, *, batch_size: int) -> Iterator[tuple[Drawn, Tensor]]:
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
            "this epoch anew, and students go on where they stopped"
        ) from error
    for indices, boxes, flips, partners, logits, share, cut in zip(*each, shares, cuts, strict=True):
        top, bottom, left, right = cut
        yield Drawn(indices.long(), boxes.long(), flips, partners.long(), share, (top, bottom, left, right)), logits


def _draw_crops(batch: Tensor, geometry: Geometry, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw (boxes, flips) in the order of `augment.resized_crop_flip` and `augment.crop_flip`."""
    count, (height, width) = len(batch), batch.shape[-2:]
    if geometry.augmentation == "resized_crop_flip":
        boxes = draw_boxes(batch, generator=generator, scale=(LEAST_SCALE, 1.0), ratio=RATIO)
        return boxes, torch.rand(count, generator=generator) < 0.5
    corners = torch.zeros(2, count, dtype=torch.int64)
    flips = torch.zeros(count, dtype=torch.bool)
    if geometry.augmentation != "none":
        corners = torch.randint(0, 2 * geometry.padding + 1, (2, count), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if geometry.augmentation == "crop_flip" else 0)
    sides = torch.tensor([height, width]).expand(count, 2)
    return torch.cat([corners.T, sides], dim=1), flips


def _crop(batch: Tensor, drawn: Drawn, geometry: Geometry) -> Tensor:
    if geometry.augmentation == "none":
        return batch
    if geometry.augmentation == "resized_crop_flip":
        return resized_crop_flip_at(batch, drawn.boxes, drawn.flips)
    tops, lefts = drawn.boxes[:, 0], drawn.boxes[:, 1]
    return crop_flip_at(batch, tops, lefts, drawn.flips, geometry.padding)
