"""Replace `prefetch_generator` by a module that reads without a thread.

Needed by G-VBSM `Branch_Tiny_ImageNet/recover/tiny_in_dataset.py` 31-35 and its copy in `squeeze/`: its thread would
draw the crops from torch's random state beside the main thread, and `device` holds for one thread only.
"""

import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def install(*, device: str) -> None:
    """Put the replacement into `sys.modules`."""
    module = ModuleType("prefetch_generator", "Stands in for prefetch_generator; reads without a thread.")
    module.__spec__ = ModuleSpec("prefetch_generator", None)
    setattr(module, "BackgroundGenerator", BackgroundGenerator)  # noqa: B010 (a module has no such attribute to mypy)
    sys.modules["prefetch_generator"] = module


class BackgroundGenerator:
    """Yields what a generator yields, without reading ahead."""

    def __init__(self, generator: Iterable[Any], max_prefetch: int = 1) -> None:
        """Begin to read `generator`."""
        self._items = iter(generator)

    def __iter__(self) -> Iterator[Any]:
        """Return this iterator."""
        return self

    def __next__(self) -> Any:
        """Return the next item."""
        return next(self._items)
