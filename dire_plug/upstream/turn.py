"""A child's end of working in turns: it waits before each step, and then tells how long the step took.

`in_turns.py` is the parent's end. It listens at the synthesis and answers no hook: where the loop holds no trained
network, a hook would make the synthesis embed images for it, which a loop without a term doesn't do.
"""

from __future__ import annotations

import ctypes
import json
import resource
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dire_plug.upstream.trace import StopScriptError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of malloc.h."""


def take_turns(synthesis: Any, turns: Mapping[str, Any] | None) -> None:
    """Make each step of `synthesis` wait for its turn, the first one now; do nothing where `turns` is None.

    Args:
        synthesis: a `RunningSynthesis`.
        turns: {"address" of a Unix socket, "arm", who waits, "keep_memory": see `keep_freed_memory`}.

    Raises:
        StopScriptError: the parent wants no more steps.
    """
    if turns is None:
        return
    if turns.get("keep_memory", False):
        keep_freed_memory()
    _Turn(synthesis, address=turns["address"], arm=turns["arm"])


class _Turn:
    def __init__(self, synthesis: Any, *, address: str, arm: str) -> None:
        """Say who waits, and wait for the first turn: what comes before the first step has its turn too."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        self._lines = connection.makefile("rw", encoding="utf-8")
        self._sums, self._call, self._fresh = {"loss": 0.0, "term": 0.0}, 0.0, False
        self._seen: set[int] = set()
        self._loss, self._step_done = synthesis.loss, synthesis.step_done
        for name, listener in {"loss": self.loss, "step_done": self.step_done}.items():
            setattr(synthesis, name, listener)
        self._say({"arm": arm, "memory": peak_memory()})
        self._wait()

    def loss(self, loss: Tensor, **arguments: Any) -> Tensor:
        """Return what the synthesis returns; note what it added, its time, and whether the network is a new one."""
        began = time.process_time()
        total: Tensor = self._loss(loss, **arguments)
        self._call = time.process_time() - began
        network = id(arguments.get("network"))
        self._fresh = network not in self._seen
        self._seen.add(network)
        self._sums = {"loss": float(loss.detach()), "term": float(total.detach() - loss.detach())}
        return total

    def step_done(self, loss: Tensor, *, images: Tensor, labels: Tensor, step: int) -> None:
        """Tell the synthesis; then tell how long the step took, in seconds, and wait for the next turn."""
        self._step_done(loss, images=images, labels=labels, step=step)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        took = {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu, "call": self._call}
        card = torch.cuda.max_memory_allocated(images.device) if images.is_cuda else None
        memory = {"memory": peak_memory(), "card_memory": card, "images": len(labels)}
        self._say({"step": step, "fresh": self._fresh, **self._sums, **took, **memory})
        self._wait()

    def _say(self, message: dict[str, Any]) -> None:
        self._lines.write(json.dumps(message) + "\n")
        self._lines.flush()

    def _wait(self) -> None:
        try:
            answer = self._lines.readline()
        except ConnectionError:
            answer = ""
        if answer != "go\n":
            raise StopScriptError
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def peak_memory() -> int:
    """Return the most memory that this process has had resident, in bytes.

    Linux's `ru_maxrss` also counts what the parent had when it started this process, so its own record is read there.
    """
    try:
        with open("/proc/self/status") as file:
            found = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    except OSError:
        found = []
    if found:
        return 1024 * int(found[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Let glibc give no memory back, so that a step's time isn't that of page faults, whose number differs widely."""
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)
