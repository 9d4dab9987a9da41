"""Draw what a batch's augmentation needs before it is applied, so that the draws of an epoch go to the device at once.

A number that goes to a GPU in each step makes the host wait for the GPU, and so does one that comes back. So every
augmentation is in two parts: what it draws, on the host, and what that does to images, on their device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor

Shape = Sequence[int]
"""Of a batch of images: n, C, H, W."""
Drawn = TypeVar("Drawn")
Cut = tuple[int, int, int, int]
"""The box that CutMix pastes: top, bottom, left, right; the ends are outside of it."""
NO_CUT: Cut = (0, 0, 0, 0)


@dataclass(frozen=True)
class Augmentation:
    """A random change of a batch of images, in two parts.

    Attributes:
        draw: from the shape of the batch and a generator, usually on the CPU, to what is drawn: tensors and numbers of
            the host in tuples, which may be nested and named.
        apply: from the images and what was drawn, its tensors where the images are, to the changed images.
    """

    draw: Callable[[Shape, Generator], Any]
    apply: Callable[[Tensor, Any], Tensor]

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Draw for a batch and change it."""
        return self.apply(images, to_device(self.draw(images.shape, generator), images.device))


class Crops(NamedTuple):
    """The crops of a batch.

    Attributes:
        boxes: top, left, height, width, int64, [n, 4]; in the padded image where padding comes before.
        flips: which are flipped, left to right, bool, [n].
    """

    boxes: Tensor
    flips: Tensor


class Mixed(NamedTuple):
    """How a batch is mixed.

    Attributes:
        partners: the position in the batch of the image that is mixed in, int64, [n].
        share: the image's own share; λ of mixup.
        cut: the box that CutMix pastes.
    """

    partners: Tensor
    share: float
    cut: Cut


def to_device(drawn: Drawn, device: torch.device) -> Drawn:
    """Return what was drawn, in lists and tuples, with all of its tensors on `device`, one copy for each dtype."""
    tensors: list[Tensor] = []

    def keep(one: Tensor) -> Tensor:
        tensors.append(one)
        return one

    _rebuild(drawn, keep)
    if device.type == "cpu" or any(one.device.type != "cpu" for one in tensors):
        moved = iter([one.to(device) for one in tensors])
    else:
        moved = iter(_upload_all(tensors, device))
    found: Drawn = _rebuild(drawn, lambda _: next(moved))
    return found


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on `device`; where that is a GPU, the host doesn't wait for the copy."""
    # only this way round: a copy to the host that isn't waited for could be read too early
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    # from pageable memory the copy would wait for what the GPU has still to do
    source = tensor.pin_memory() if device.type == "cuda" else tensor
    # Apple's devices would read the memory after it was freed
    return source.to(device, non_blocking=device.type != "mps")


def _upload_all(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    found: list[Tensor | None] = [None] * len(tensors)
    for dtype in {one.dtype for one in tensors}:
        places = [place for place, one in enumerate(tensors) if one.dtype == dtype]
        together = upload(torch.cat([tensors[place].flatten() for place in places]), device)
        parts = torch.split(together, [tensors[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            found[place] = part.view(tensors[place].shape)
    return [one for one in found if one is not None]


def _rebuild(drawn: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return lists and tuples with each tensor changed; the order of the calls is that of the tensors."""
    if isinstance(drawn, Tensor):
        return change(drawn)
    if isinstance(drawn, list):
        return [_rebuild(one, change) for one in drawn]
    if isinstance(drawn, tuple):
        parts = [_rebuild(one, change) for one in drawn]
        # a named tuple takes its parts one by one
        return type(drawn)(*parts) if hasattr(drawn, "_fields") else tuple(parts)
    return drawn
