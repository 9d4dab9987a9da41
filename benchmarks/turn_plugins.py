"""The plugins of `step_share.py`, inside the child process: who waits for a turn, and the authors' loss as a term.

They are loaded by name, as any stranger's regularizers are; `step_share.py` makes the names known to the children.
"""

from __future__ import annotations

import ctypes
import json
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diversity_loss import load
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dire_plug import bridge
from dire_plug.hookspecs import hookimpl
from dire_plug.types import Batch, Synthesis
from dire_plug.upstream.trace import StopScriptError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of malloc.h."""


class TurnSettings(BaseModel):
    """Where turns are given, and to whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    """Of a Unix socket."""
    arm: str


class Turn:
    """Waits for its turn before each step, and then tells how long the step took.

    It listens at the bridge and answers no hook: where the loop holds no trained network, a hook would make the
    synthesis embed images for it, which a loop without a term doesn't do.
    """

    settings_model = TurnSettings

    def __init__(self, settings: TurnSettings) -> None:
        """Say who waits, and wait for the first turn: what comes before the first step has its turn too."""
        keep_freed_memory()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(settings.address)
        self._lines = connection.makefile("rw", encoding="utf-8")
        self._sums, self._call, self._fresh = {"loss": 0.0, "term": 0.0}, 0.0, False
        self._seen: set[int] = set()
        self._say({"arm": settings.arm})
        self._loss, self._step_done = bridge.loss, bridge.step_done
        for name, listener in {"loss": self.loss, "step_done": self.step_done}.items():
            setattr(bridge, name, listener)
        self._wait()

    def loss(self, loss: Tensor, **arguments: Any) -> Tensor:
        """Return what the bridge returns; note what it added, its time, and whether the network is a new one."""
        began = time.process_time()
        total = self._loss(loss, **arguments)
        self._call = time.process_time() - began
        network = id(arguments.get("network"))
        self._fresh = network not in self._seen
        self._seen.add(network)
        self._sums = {"loss": float(loss.detach()), "term": float(total.detach() - loss.detach())}
        return total

    def step_done(self, loss: Tensor, *, step: int, **arguments: Any) -> None:
        """Tell what the bridge is told; then how long the step took, in seconds, and wait for the next turn."""
        self._step_done(loss, step=step, **arguments)
        took = {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu, "call": self._call}
        self._say({"step": step, "fresh": self._fresh, **self._sums, **took})
        self._wait()

    def _say(self, message: dict[str, Any]) -> None:
        self._lines.write(json.dumps(message) + "\n")
        self._lines.flush()

    def _wait(self) -> None:
        if self._lines.readline() != "go\n":
            raise StopScriptError
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def keep_freed_memory() -> None:
    """Let glibc give no memory back, so that a step's time isn't that of page faults, whose number differs widely."""
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)


class AuthorsSettings(BaseModel):
    """Where the release lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkout: str
    detached: bool = False
    """Whether no gradient runs into the real embeddings; as shipped it does."""


class Authors:
    """Adds the `DiversityLoss` of the authors' release, with its published weights, class by class."""

    settings_model = AuthorsSettings

    def __init__(self, settings: AuthorsSettings) -> None:
        """Load the class from the release's own file."""
        self._class = load(Path(settings.checkout))
        self._detached = settings.detached
        self._losses: dict[tuple[int, int], Any] = {}
        self._real: dict[str, list[Tensor]] = {}

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the release's value: it wants the rows class by class, with equally many of each."""
        real = self._prepare(synthesis, batch.teacher)
        order = torch.argsort(batch.labels, stable=True)
        classes, counts = torch.unique_consecutive(batch.labels[order], return_counts=True)
        starts = counts.cumsum(0) - counts
        terms = []
        for n in counts.unique().tolist():
            alike = (counts == n).nonzero().flatten()
            rows = order[(starts[alike, None] + torch.arange(n)).flatten()]
            each = [real[one] for one in classes[alike].tolist()]
            terms.append(self._build(len(each), n)(batch.embeddings[rows], each))
        return torch.stack(terms).sum()

    def _prepare(self, synthesis: Synthesis, teacher: str) -> list[Tensor]:
        if teacher not in self._real:
            known = synthesis.real(teacher)
            each = [known.values[known.labels == one] for one in range(synthesis.classes)]
            self._real[teacher] = [one.requires_grad_(not self._detached) for one in each]
        return self._real[teacher]

    def _build(self, classes: int, n: int) -> Any:
        if (classes, n) not in self._losses:
            settings = SimpleNamespace(multiplier=0.1, start_class_id=0, IPC=n, device="cpu", r_cos=1.0, r_euc=0.01)
            self._losses[classes, n] = self._class(settings, classes)
        return self._losses[classes, n]
