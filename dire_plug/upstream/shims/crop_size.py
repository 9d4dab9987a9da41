"""Make random crops of the dataset's own size where a script hard-codes another.

Needed by CDA `recover_cda_tiny.py` 70 (64) for CIFAR-100, and by recipes at other sizes through that script, SRe2L
`recover_tiny.py` 50 and DWA `distillation_tiny.py` 82 (64), and G-VBSM (CIFAR 73, 138: 32 with padding 4; Tiny 126: 64
with padding 8). `centre_crop` takes the same two sizes.
"""

import functools
from collections.abc import Mapping
from typing import Any

from torchvision import transforms

from dire_plug.errors import DirePlugError


def read_sizes(shim: str, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return the hard-coded size and the dataset's.

    Raises:
        DirePlugError: the options are not `from` and `to`.
    """
    if sizes.keys() != {"from", "to"}:
        raise DirePlugError(
            f"shim '{shim}' takes the options 'from' (the hard-coded size) and 'to' (the dataset's); "
            f"it was given {dict(sizes)}"
        )
    return sizes["from"], sizes["to"]


def install(*, device: str, **sizes: int) -> None:
    """Let `RandomResizedCrop` and `RandomCrop` of size `from` crop to size `to`; other sizes stay.

    A padding is scaled by the same ratio and rounded, to 1 at least.

    Raises:
        DirePlugError: the options are not `from` and `to`.
    """
    old, new = read_sizes("crop_size", sizes)
    _replace(transforms.RandomResizedCrop, old, new)
    _replace(transforms.RandomCrop, old, new)


def _replace(transform: Any, old: int, new: int) -> None:
    original = transform.__init__

    @functools.wraps(original)
    def init(self: Any, size: Any, *args: Any, **kwargs: Any) -> None:
        # RandomResizedCrop has no padding; its second argument is a scale
        if transform is transforms.RandomCrop and _is(size, old):
            args = tuple(_scale(value, old, new) if place == 0 else value for place, value in enumerate(args))
            kwargs |= {"padding": _scale(kwargs["padding"], old, new)} if "padding" in kwargs else {}
        original(self, new if _is(size, old) else size, *args, **kwargs)

    transform.__init__ = init


def _is(size: Any, number: int) -> bool:
    # a number, or one for each side
    return size == number or (isinstance(size, list | tuple) and len(size) > 0 and set(size) == {number})


def _scale(padding: Any, old: int, new: int) -> Any:
    if isinstance(padding, list | tuple):
        return [_scale(value, old, new) for value in padding]
    return max(1, round(padding * new / old)) if padding else padding
