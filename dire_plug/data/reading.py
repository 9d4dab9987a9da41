"""Read images ahead of the device: the next batches are decoded while it works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from dire_plug.data.dataset import Split, TensorSplit
from dire_plug.devices import pin, upload

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

AHEAD = 2
"""Batches that are read before they are asked for; 75 MB each at 500 images of 224×224."""


def load_ahead(load: Callable[[Item], Loaded], items: Iterable[Item], *, ahead: int = AHEAD) -> Iterator[Loaded]:
    """Yield `load(item)` of each item in order, computed in one other thread, up to `ahead` items early.

    Items themselves are taken in this thread. An error of `load` is raised where its result is due.
    """
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # whoever stops early waits for the one that is being loaded only
            for one in waiting:
                one.cancel()


def read_batches(split: Split, batches: Iterable[Tensor], *, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images as they are, uint8, labels) of a split on `device`, for each batch of indices.

    Images that are decoded on demand are read ahead. Those in memory aren't: there is nothing to wait for.
    """
    if isinstance(split, TensorSplit):
        for indices in batches:
            yield upload(split.images(indices), device), upload(split.labels[indices], device)
        return

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        return pin(split.images(indices), device), pin(split.labels[indices], device)

    for images, labels in load_ahead(read, batches):
        yield upload(images, device), upload(labels, device)
