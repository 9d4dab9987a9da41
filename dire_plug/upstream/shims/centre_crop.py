"""Crop the centre of an enlarged image to the dataset's own size where a script hard-codes another.

Needed by recipes at other sizes through DELT's `recover.py` 254-255 and `data_selection.py` 156-185: before the loop,
and before it ranks them, its images are enlarged by 8/7 and cropped to the centre. At 32 pixels and below the script's
integer arithmetic enlarges by nothing.
"""

import functools
from typing import Any

from torchvision import transforms

from dire_plug.upstream.shims.crop_size import read_sizes


def install(*, device: str, **sizes: int) -> None:
    """Let `CenterCrop` of size `from` crop to size `to`, and the `Resize` before it enlarge for that.

    Raises:
        DirePlugError: the options are not `from` and `to`.
    """
    old, new = read_sizes("centre_crop", sizes)
    _replace(transforms.CenterCrop, old, new)
    _replace(transforms.Resize, enlarged(old), enlarged(new))


def enlarged(size: int) -> int:
    """Return the height and width from which DELT crops `size`."""
    return max(size, size // 7 * 8)  # the script's integers: 32 // 7 * 8 is 32 again


def _replace(transform: Any, old: int, new: int) -> None:
    original = transform.__init__

    @functools.wraps(original)
    def init(self: Any, size: Any, *args: Any, **kwargs: Any) -> None:
        original(self, new if size == old else size, *args, **kwargs)

    transform.__init__ = init
