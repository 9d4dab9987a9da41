"""Make images of real patches by RDED's rule: the crops that a network finds easiest, several put together into one.

RDED (Sun et al., CVPR 2024, arXiv 2312.03526) as its `synthesize/main.py` and `synthesize/utils.py` do it at commit
3f6453d, in our own words. f is its `factor`, s = size // f the side of a patch.

- Some images of a class, its `mipc`, give `num_crop` square crops each, as large as torchvision's RandomResizedCrop
  draws them, .08 to 1 of the image's area, and resized to s.
- A trained network in eval mode scores each patch by the cross-entropy of its class; zeros surround the patch, after
  normalisation, up to the size that the network takes.
- Each image keeps its best crop, and the IPC·f² images with the lowest loss are taken.
- f × f patches make an image: the best IPC patches are the top left corners of all images, the next IPC stand to
  their right, and so on, row by row.

Ties go to the earlier crop, and the earlier image.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional as F

from dire_plug.data.augmentation.batch import draw_boxes
from dire_plug.data.dataset import Split
from dire_plug.data.folders import FolderSplit
from dire_plug.devices import count_cores
from dire_plug.errors import DirePlugError

SCALE = (0.08, 1.0)
"""Least and greatest share of an image's area that a crop has (torchvision's numbers)."""
SQUARE = (1.0, 1.0)


def cut_patches(
    split: Split, indices: Tensor, draw: Callable[[int, Tensor], Tensor], *, side: int
) -> tuple[Tensor, Tensor]:
    """Return boxes of images, and the patches in them, resized by antialiased bilinear interpolation.

    Images that are read on demand are cropped as their files have them, before anything is cut off or made smaller,
    which is what RDED does; others as the dataset has them.

    Args:
        indices: of the images, [n], int64.
        draw: the place of an image in `indices` and its pixels, [3, h, w] → its boxes, [k, 4]: top, left, height,
            width; called from several threads.
        side: of the patches.

    Returns:
        (boxes, patches): int64, [n, k, 4], and uint8, [n, k, 3, side, side], both on the CPU.

    Raises:
        DirePlugError: a file can't be decoded, or has another size than when it was listed.
    """
    from torchvision.transforms.v2 import functional

    read: Callable[[int], Tensor]
    if isinstance(split, FolderSplit):
        at = indices.tolist()

        def read(place: int) -> Tensor:
            return split.read_whole(at[place])

    else:
        read = split.images(indices).cpu().__getitem__

    def cut(place: int) -> tuple[Tensor, Tensor]:
        image, size = read(place), [side, side]
        boxes = draw(place, image)
        # on the CPU, whatever the device: the same patches everywhere
        patches = [functional.resized_crop(image, *box, size=size, antialias=True) for box in boxes.tolist()]
        return boxes, torch.stack(patches)

    with ThreadPoolExecutor(count_cores()) as pool:
        boxes, patches = zip(*pool.map(cut, range(len(indices))), strict=True)
    return torch.stack(boxes), torch.stack(patches)


def draw_squares(image: Tensor, count: int, *, seed: int) -> Tensor:
    """Draw square boxes, of .08 to 1 of its area, in an image, [3, h, w]: int64, [count, 4], as `draw_boxes` does."""
    generator = torch.Generator().manual_seed(seed)
    return draw_boxes((count, *image.shape), generator=generator, scale=SCALE, ratio=SQUARE)


def surround(patches: Tensor, size: int) -> Tensor:
    """Put zeros around normalised patches, [n, 3, s, s] → [n, 3, size, size]; of an odd margin more right and below."""
    margin = size - patches.shape[-1]
    before = margin // 2
    return F.pad(patches, (before, margin - before, before, margin - before))


def choose_patches(losses: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the images whose best crop has the lowest loss, the lowest first, and which crop that is.

    Args:
        losses: of each crop, [n, k].
        count: how many images, 1 … n.

    Returns:
        (rows, crops): int64, [count] each.

    Raises:
        DirePlugError: a loss isn't finite, or there are fewer images.
    """
    if bad := int((~losses.isfinite()).sum()):
        raise DirePlugError(
            f"patches: the teacher's loss is NaN or infinity for {bad} of {losses.numel()}; look at the images and "
            "the teacher"
        )
    if not 1 <= count <= len(losses):
        raise DirePlugError(f"{count} patches can't be chosen out of {len(losses)}; ask for 1 to {len(losses)}")
    best, crops = losses.min(1).values, losses.argmin(1)
    # min and argmin apart: only argmin is the first one of several on every device
    rows = torch.sort(best, stable=True).indices[:count]
    return rows, crops[rows]


def put_together(patches: Tensor, *, size: int, factor: int) -> Tensor:
    """Return images of factor × factor patches: [n, 3, size, size].

    Where the size isn't a multiple of the factor, the first rows and columns of patches are one pixel larger, by
    repeating pixels.

    Args:
        patches: [n·factor², 3, s, s], the best first.
    """
    count = len(patches) // factor**2
    sides = [size // factor + (place < size % factor) for place in range(factor)]
    cells = [
        F.interpolate(of_cell, size=(sides[number // factor], sides[number % factor]))
        for number, of_cell in enumerate(torch.split(patches, count))
    ]
    return torch.cat([torch.cat(cells[row : row + factor], 3) for row in range(0, factor**2, factor)], 2)


def by_image(values: Tensor, *, factor: int) -> Tensor:
    """Return what belongs to patches, [n·factor², …], by image and place in it, [n, factor², …]; see `put_together`."""
    return values.reshape(factor**2, -1, *values.shape[1:]).transpose(0, 1).contiguous()
