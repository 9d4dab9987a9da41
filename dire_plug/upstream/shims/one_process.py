"""Run distributed scripts in this process alone: rank 0 of 1, without workers and without a port.

Needed by G-VBSM's four synthesis scripts, CIFAR 33 (nccl over TCP), 68 and 351 (`device_count` divides the batch), 353
(`set_start_method`), 354 (`mp.spawn`): no shim would reach a spawned process, and the port is drawn at random. On
CUDA the script also sets `CUDA_VISIBLE_DEVICES` (348) to a device that the child may not use; by then it has no effect.
"""

import functools
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch._C._distributed_c10d import HashStore

from dire_plug.errors import DirePlugError
from dire_plug.upstream.shims._frames import is_upstreams


def install(*, device: str) -> None:
    """Replace `spawn`, `set_start_method`, `init_process_group`, and `torch.cuda.device_count` for upstream's code."""
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        # now, so that a `CUDA_VISIBLE_DEVICES` of the script's comes too late
        torch.cuda.init()  # type: ignore[no-untyped-call]
    for name, replacement in {"spawn": _call, "set_start_method": _do_nothing}.items():
        setattr(torch.multiprocessing, name, replacement)
    setattr(dist, "init_process_group", _one_rank("nccl" if on_cuda else "gloo"))  # noqa: B010 (as mypy wants it)
    count: Callable[[], int] = torch.cuda.device_count
    torch.cuda.device_count = lambda: 1 if is_upstreams(sys._getframe(1)) else count()


def _call(function: Callable[..., Any], args: Sequence[Any] = (), nprocs: int = 1, **ignored: Any) -> None:
    """Call `function(0, *args)` in this process, and destroy its process group."""
    if nprocs != 1:
        raise DirePlugError(f"upstream's script spawns {nprocs} processes, but it runs in one; set its number to 1")
    try:
        function(0, *args)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _do_nothing(*ignored: Any, **also_ignored: Any) -> None:
    """Change no start method: nothing is started."""


def _one_rank(backend: str) -> Callable[..., None]:
    original = dist.init_process_group
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)

    @functools.wraps(original)
    def init_process_group(*ignored: Any, **also_ignored: Any) -> None:
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # reachable from nowhere else
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
        original(backend, store=HashStore(), rank=0, world_size=1)

    return init_process_group
