"""Load data without worker processes; in threads, where that changes no bit.

Needed by MTT `utils.py` 106, 168, DELT `recover.py` 267 and `data_selection.py` 157-189 (16 workers by default),
G-VBSM's synthesis scripts (CIFAR 80, ImageNet 77) and `squeeze/train.py`: a worker is a process that no shim reaches,
and whose random state no seed does. `pin_memory` (DELT `recover.py` 269) is dropped where there is no CUDA device.

DELT's `data_selection.py` gets threads for its workers: it reads every training image once, in the order of the list,
by transforms that draw nothing. Threads and not processes: those pass tensors by sockets, whose paths must be short,
which the child's temporary folder isn't. The others get none: transforms of G-VBSM's statistics draw crops and flips
from the process's random state (`image_folder` decodes its images in threads, and transforms them in order), MTT's and
DM's images are in memory, and DELT's `recover.py` optimises a batch for minutes that it decodes in a second.
"""

import functools
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from dire_plug.devices import count_cores

WORKERS_ONLY = ("prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout", "worker_init_fn")


def install(*, device: str, threads: bool = False) -> None:
    """Let every `DataLoader` of this process load in the process itself.

    Args:
        device: the child's.
        threads: whether the items of a batch are read in as many threads as the script asks for workers, at most as
            many as there are cores. Only for a script whose items don't depend on random numbers.
    """
    original = DataLoader.__init__
    signature = inspect.signature(original)
    pins = torch.device(device).type == "cuda"

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        given.pop("self")
        workers = given.pop("num_workers", 0)
        for name in WORKERS_ONLY if pins else (*WORKERS_ONLY, "pin_memory"):
            given.pop(name, None)
        if threads and workers:
            given["dataset"] = InThreads(given["dataset"], min(workers, count_cores()))
        original(self, **given)

    setattr(DataLoader, "__init__", init)  # noqa: B010 (mypy refuses the assignment)


class InThreads(Dataset[Any]):
    """A dataset that gives the items of a batch from several threads, in order."""

    def __init__(self, items: Dataset[Any], threads: int) -> None:
        """Take the dataset whose items these are."""
        self.items, self.threads = items, threads

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """Return one item, read here."""
        return self.items[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the items of a batch, as a `DataLoader` asks for them."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.items.__getitem__, indices))
