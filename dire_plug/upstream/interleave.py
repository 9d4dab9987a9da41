"""Interleave child processes: each does its step i while the others wait, then all do their step i + 1.

So a load on the machine meets all alike, and what is compared is step i with step i: of the same network, with the same
random numbers. Every other round goes from the last child to the first. The parent calls `interleave`, a child
`take_turns`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn, TextIO

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.upstream.trace import StopScriptError

POLL_SECONDS = 0.5
"""Between two checks that a child hasn't ended before it asked for a turn."""


@dataclass(frozen=True)
class TimedStep:
    """One step of one child.

    Attributes:
        step: iteration within the slot.
        images: in the batch.
        loss, term: upstream's loss, and what was added to it, known to the precision of float32 at the loss.
        wall, cpu: wall-clock and CPU seconds from the beginning of the turn to the end of the step.
        call: CPU seconds in which the term was computed, forward.
        fresh: whether it is the child's first with this network, for which a term prepares its real embeddings.
        memory: the child's peak resident memory so far, in bytes.
        gpu_memory: the most that torch has had allocated on the GPU so far, in bytes; None on the CPU.
    """

    step: int
    images: int
    loss: float
    term: float
    wall: float
    cpu: float
    call: float
    fresh: bool
    memory: int = 0
    gpu_memory: int | None = None


Round = dict[str, TimedStep]
"""Arm → its timing; one step of all arms."""
Starts = dict[str, tuple[float, int]]
"""Arm → wall-clock seconds from its start to its first turn, and its peak resident memory then, in bytes."""


def interleave(
    arms: Mapping[str, Callable[[str], None]], rounds: int, *, on_round: Callable[[int], Any] = lambda done: None
) -> tuple[Starts, list[Round]]:
    """Start the arms one after the other, then run them in turns, one step at a time; return what each round took.

    Args:
        arms: arm → what runs its child to the end, given the address for `take_turns`.
        rounds: the steps of each arm, after which it is stopped.
        on_round: called with the number of finished rounds.

    Raises:
        DirePlugError: a child failed, or ended before; the others are stopped.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(len(arms)) as pool,
        contextlib.ExitStack() as open_ends,  # closed before the pool waits: a child whose line is closed ends
    ):
        server = open_ends.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(address := f"{folder}/turns")
        server.listen(len(arms))
        server.settimeout(POLL_SECONDS)
        starts: Starts = {}
        children: dict[str, tuple[TextIO, Future[None]]] = {}
        for arm, run in arms.items():
            began = time.perf_counter()
            future = pool.submit(run, address)
            line = _accept(server, arm, future, open_ends)
            memory = json.loads(line.readline())["memory"]
            starts[arm] = time.perf_counter() - began, memory
            children[arm] = line, future
        played = []
        for done in range(rounds):
            # to and fro: whoever runs first after a pause meets colder caches, so both directions alternate
            order = list(children)[:: -1 if done % 2 else 1]
            timings = {arm: _run_step(arm, *children[arm], done=done) for arm in order}
            played.append({arm: timings[arm] for arm in children})
            on_round(done + 1)
        return starts, played


def counted(rounds: Sequence[Round], warm_up: int) -> list[Round]:
    """Return the rounds after the first ones, without those that begin a slot or a network: there more is done.

    A slot's first step comes after the work between slots, a network's first makes a term prepare its real embeddings.
    """
    follows = [all(now[arm].step == before[arm].step + 1 for arm in now) for before, now in pairwise(rounds)]
    fresh = [any(timing.fresh for timing in one.values()) for one in rounds]
    return [one for at, one in enumerate(rounds) if at >= warm_up and follows[at - 1] and not fresh[at]]


def _run_step(arm: str, line: TextIO, run: Future[None], *, done: int) -> TimedStep:
    """Let a child do a step, the one after `done` others."""
    with contextlib.suppress(ConnectionError):
        line.write("go\n")
        line.flush()
        if answer := line.readline():
            return TimedStep(**json.loads(answer))
    _raise_ended(arm, run, done=done)


def _accept(server: socket.socket, arm: str, run: Future[None], open_ends: contextlib.ExitStack) -> TextIO:
    """Return the line to the child that is starting."""
    while True:
        if run.done():
            _raise_ended(arm, run, done=0)
        with contextlib.suppress(TimeoutError):
            connection = open_ends.enter_context(server.accept()[0])
            connection.settimeout(None)
            return open_ends.enter_context(connection.makefile("rw", encoding="utf-8"))


def _raise_ended(arm: str, run: Future[None], *, done: int) -> NoReturn:
    """Raise the error with which a child ended; ending well, but too early, is an error too."""
    run.result()
    raise DirePlugError(f"the arm '{arm}' ended after {done} steps; make its script's loop longer")


# A child's end: it waits before each step, and then tells how long the step took.
#
# It listens at the synthesis and answers no hook: where the loop holds no trained network, a hook would
# make the synthesis embed images for it, which a loop without a term doesn't do.


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of malloc.h."""


def take_turns(synthesis: Any, turns: Mapping[str, Any] | None) -> None:
    """Make each step of `synthesis` wait for its turn, the first one now; do nothing where `turns` is None.

    Args:
        synthesis: a `RunningSynthesis`.
        turns: {"address" of a Unix socket, "arm", "keep_memory": see `keep_freed_memory`}.

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
        """Register the arm, and wait for the first turn: the work before the first step has its turn too."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        self._lines = connection.makefile("rw", encoding="utf-8")
        self._sums, self._call, self._fresh = {"loss": 0.0, "term": 0.0}, 0.0, False
        self._seen: set[int] = set()
        self._loss, self._term, self._step_done = synthesis.loss, synthesis.term, synthesis.step_done
        for name, listener in {"loss": self.loss, "term": self.term, "step_done": self.step_done}.items():
            setattr(synthesis, name, listener)
        self._say({"arm": arm, "memory": peak_memory()})
        self._wait()

    def loss(self, loss: Tensor, **arguments: Any) -> Tensor:
        """Return the synthesis's own loss; record what it added, its time, and whether the network is a new one."""
        began = time.process_time()
        total: Tensor = self._loss(loss, **arguments)
        self._call = time.process_time() - began
        self._see_network(arguments)
        self._sums = {"loss": float(loss.detach()), "term": float(total.detach() - loss.detach())}
        return total

    def term(self, **arguments: Any) -> None:
        """Call the synthesis's own; record its time, the gradient included, and whether the network is a new one."""
        began = time.process_time()
        self._term(**arguments)
        self._call = time.process_time() - began
        self._see_network(arguments)
        # a loss without a name has no value here
        self._sums = {"loss": float("nan"), "term": float("nan")}

    def _see_network(self, arguments: dict[str, Any]) -> None:
        network = id(arguments.get("network"))
        self._fresh = network not in self._seen
        self._seen.add(network)

    def step_done(self, loss: Tensor | None = None, *, images: Tensor, labels: Tensor, step: int) -> None:
        """Call the synthesis's own; then report how long the step took, in seconds, and wait for the next turn."""
        self._step_done(loss, images=images, labels=labels, step=step)
        if images.is_cuda:
            # kernels are queued: without waiting, a step's time would be that of launching it
            torch.cuda.synchronize(images.device)
        took = {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu, "call": self._call}
        on_gpu = torch.cuda.max_memory_allocated(images.device) if images.is_cuda else None
        memory = {"memory": peak_memory(), "gpu_memory": on_gpu, "images": len(labels)}
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
        # a closed line means the same: the parent has all steps it wants, or is gone
        if answer != "go\n":
            raise StopScriptError
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes.

    Linux's `ru_maxrss` also counts what the parent had when it started this process, so /proc is read there.
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
    """Keep glibc from returning memory, so that a step's time isn't that of page faults, whose number varies widely."""
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)
