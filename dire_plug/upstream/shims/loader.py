"""Load data without worker processes.

Needed by MTT `utils.py` 106, 168, DELT `recover.py` 267 and `data_selection.py` 157-189 (16 workers by default),
G-VBSM's synthesis scripts (CIFAR 80, ImageNet 77) and `squeeze/train.py`: a worker is a process that no shim reaches,
and whose random state no seed does. `pin_memory` (DELT `recover.py` 269) is dropped where there is no CUDA device.
"""

import functools
import inspect
from typing import Any

import torch
from torch.utils.data import DataLoader

WORKERS_ONLY = ("prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout", "worker_init_fn")


def install(*, device: str) -> None:
    """Let every `DataLoader` of this process load in the process itself."""
    original = DataLoader.__init__
    signature = inspect.signature(original)
    pins = torch.device(device).type == "cuda"

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        given.pop("self")
        given.pop("num_workers", None)
        for name in WORKERS_ONLY if pins else (*WORKERS_ONLY, "pin_memory"):
            given.pop(name, None)
        original(self, **given)

    setattr(DataLoader, "__init__", init)  # noqa: B010 (mypy refuses the assignment)
