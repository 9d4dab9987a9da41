"""Copy the right side of `tensor[index] = part_of_the_same_tensor` first.

Needed by DM `methods/dc/utils.py` 561, and 536-629 alike: with one image in the batch (ipc 1) both sides are the same
element, and today's torch refuses the copy. The values are the same.
"""

import functools
import sys
from typing import Any

from torch import Tensor

from dire_plug.upstream.shims._frames import is_upstreams


def install(*, device: str) -> None:
    """Let upstream's assignments into a tensor copy a right side that shares its memory."""
    original: Any = Tensor.__setitem__

    @functools.wraps(original)
    def set_item(self: Tensor, index: Any, value: Any) -> None:
        if isinstance(value, Tensor) and is_upstreams(sys._getframe(1)) and _share_memory(self, value):
            value = value.clone()
        original(self, index, value)

    setattr(Tensor, "__setitem__", set_item)  # noqa: B010 (mypy refuses the assignment)


def _share_memory(one: Tensor, other: Tensor) -> bool:
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # without a storage, as sparse or transformed tensors are
        return False
