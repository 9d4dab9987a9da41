"""Lets child processes work in turns: each does its step i while the others wait, then all do their step i + 1.

So a load on the machine meets all alike, and what is compared is step i with step i: of the same network, with the same
random numbers, on as many images. The plugin `Turn` of `turn_plugins.py` is a child's end of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dire_plug.errors import DirePlugError

ENTRY_POINTS = """\
[dire_plug.regularizers]
benchmark-turn = turn_plugins:Turn
benchmark-authors = turn_plugins:Authors
"""
TURN, AUTHORS = "benchmark-turn", "benchmark-authors"
PATIENCE = 0.5
"""Seconds between two looks at whether a child has ended before it asked for a turn."""


@dataclass(frozen=True)
class Reading:
    """One step of one child.

    Attributes:
        step: iteration within the slot.
        loss, term: upstream's loss, and what was added to it, known to the precision of float32 at the loss.
        wall, cpu: seconds from the beginning of the turn to the end of the step: on the clock, and of the processor.
        call: seconds of the processor in which the term was computed, forward.
        fresh: whether it is the child's first with this network, for which a term prepares its real embeddings.
    """

    step: int
    loss: float
    term: float
    wall: float
    cpu: float
    call: float
    fresh: bool


Round = dict[str, Reading]
"""Arm → its reading; one step of all arms."""


@contextlib.contextmanager
def known_plugins() -> Iterator[None]:
    """Make the plugins of the benchmark known to child processes while the block runs."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as site:
        folder = Path(site) / "dire_plug_benchmarks-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: dire-plug-benchmarks\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(ENTRY_POINTS)
        ours = [site, str(Path(__file__).resolve().parent)]
        os.environ["PYTHONPATH"] = os.pathsep.join([*ours, *([before] if before else [])])
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def play(arms: Mapping[str, Callable[[str], None]], rounds: int) -> list[Round]:
    """Run all arms at once, one step at a time; return so many rounds.

    Args:
        arms: arm → what runs its child to the end, given the address for its plugin `Turn`.
        rounds: the steps of each arm, after which it is stopped.

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
        runs = {arm: pool.submit(run, address) for arm, run in arms.items()}
        lines: dict[str, TextIO] = {}
        while len(lines) < len(arms):
            _refuse_ended({arm: run for arm, run in runs.items() if run.done()}, done=0)
            with contextlib.suppress(TimeoutError):
                connection = open_ends.enter_context(server.accept()[0])
                connection.settimeout(None)
                line = open_ends.enter_context(connection.makefile("rw", encoding="utf-8"))
                lines[json.loads(line.readline())["arm"]] = line
        return [{arm: _give_turn(lines[arm], {arm: runs[arm]}, done=done) for arm in arms} for done in range(rounds)]


def _give_turn(line: TextIO, run: Mapping[str, Future[None]], *, done: int) -> Reading:
    with contextlib.suppress(ConnectionError):
        line.write("go\n")
        line.flush()
        if answer := line.readline():
            return Reading(**json.loads(answer))
    _refuse_ended(run, done=done)
    raise AssertionError("an arm that ended was refused above")


def _refuse_ended(runs: Mapping[str, Future[None]], *, done: int) -> None:
    """Raise the error with which a child ended; it is one too that it ended well."""
    for arm, run in runs.items():
        run.result()
        raise DirePlugError(f"the arm '{arm}' ended after {done} steps; make its script's loop longer")
