"""Lets child processes work in turns: each does its step i while the others wait, then all do their step i + 1.

So a load on the machine meets all alike, and what is compared is step i with step i: of the same network, with the same
random numbers. Every other round goes from the last child to the first. `turn.py` is a child's end of it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TextIO

from dire_plug.errors import DirePlugError

PATIENCE = 0.5
"""Seconds between two looks at whether a child has ended before it asked for a turn."""


@dataclass(frozen=True)
class Reading:
    """One step of one child.

    Attributes:
        step: iteration within the slot.
        images: in the batch.
        loss, term: upstream's loss, and what was added to it, known to the precision of float32 at the loss.
        wall, cpu: seconds from the beginning of the turn to the end of the step: on the clock, and of the processor.
        call: seconds of the processor in which the term was computed, forward.
        fresh: whether it is the child's first with this network, for which a term prepares its real embeddings.
        memory: the most that the child has had resident until then, in bytes.
        card_memory: likewise, the most that torch has had allocated on the graphics card; None on the CPU.
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
    card_memory: int | None = None


@dataclass(frozen=True)
class Start:
    """How one child came to its first turn: seconds on the clock from its start, and its peak memory then, in bytes."""

    seconds: float
    memory: int


Round = dict[str, Reading]
"""Arm → its reading; one step of all arms."""


@dataclass(frozen=True)
class Played:
    """What a play gave: arm → its start, and the rounds in their order."""

    starts: dict[str, Start]
    rounds: list[Round]


def play(
    arms: Mapping[str, Callable[[str], None]], rounds: int, *, on_round: Callable[[int], Any] = lambda done: None
) -> Played:
    """Start the arms one after the other, then run them in turns, one step at a time, to and fro.

    Args:
        arms: arm → what runs its child to the end, given the address for `turn.take_turns`.
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
        server.settimeout(PATIENCE)
        starts: dict[str, Start] = {}
        children: dict[str, _Child] = {}
        for arm, run in arms.items():
            began = time.perf_counter()
            future = pool.submit(run, address)
            line = _accept(server, {arm: future}, open_ends)
            memory = json.loads(line.readline())["memory"]
            starts[arm] = Start(time.perf_counter() - began, memory)
            children[arm] = _Child(arm, line, future)
        played = []
        for done in range(rounds):
            order = list(children)[:: -1 if done % 2 else 1]
            readings = {arm: children[arm].give_turn(done) for arm in order}
            played.append({arm: readings[arm] for arm in children})
            on_round(done + 1)
        return Played(starts, played)


def counted(rounds: Sequence[Round], warm_up: int) -> list[Round]:
    """Return the rounds after the first ones, without those that begin a slot or a network: there more is done.

    A slot's first step comes after the work between slots, a network's first makes a term prepare its real embeddings.
    """
    follows = [all(now[arm].step == before[arm].step + 1 for arm in now) for before, now in pairwise(rounds)]
    fresh = [any(reading.fresh for reading in one.values()) for one in rounds]
    return [one for at, one in enumerate(rounds) if at >= warm_up and follows[at - 1] and not fresh[at]]


@dataclass(frozen=True)
class _Child:
    arm: str
    line: TextIO
    run: Future[None]

    def give_turn(self, done: int) -> Reading:
        """Let the child do a step, the one after `done` others."""
        with contextlib.suppress(ConnectionError):
            self.line.write("go\n")
            self.line.flush()
            if answer := self.line.readline():
                return Reading(**json.loads(answer))
        _refuse_ended([(self.arm, self.run)], done=done)
        raise AssertionError("an arm that ended was refused above")


def _accept(server: socket.socket, run: Mapping[str, Future[None]], open_ends: contextlib.ExitStack) -> TextIO:
    """Return the line to the child that is starting."""
    while True:
        _refuse_ended([(arm, one) for arm, one in run.items() if one.done()], done=0)
        with contextlib.suppress(TimeoutError):
            connection = open_ends.enter_context(server.accept()[0])
            connection.settimeout(None)
            return open_ends.enter_context(connection.makefile("rw", encoding="utf-8"))


def _refuse_ended(runs: Iterable[tuple[str, Future[None]]], *, done: int) -> None:
    """Raise the error with which a child ended; it is one too that it ended well."""
    for arm, run in runs:
        run.result()
        raise DirePlugError(f"the arm '{arm}' ended after {done} steps; make its script's loop longer")
