"""Soft labels on disk: a file for each epoch, with what was drawn for its batches.

An epoch of N images in B batches takes N·(2·outputs + 17) + 16·B bytes, and a short header: labels are half precision.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.stages.replay import Drawn

FOLDER = "relabel"
BYTES_PER_IMAGE = 17
"""In an epoch, beside the logits: index, box, flip and partner."""
BYTES_PER_BATCH = 16


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
