"""Make one unit in this process: its log, its progress, and an orderly end when a signal says so."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from types import FrameType

from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.executors.jobs import Job, reporting
from dire_plug.store.lease import hold
from dire_plug.store.provenance import cluster_job
from dire_plug.store.units import Unit

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""What clusters send before they end a job: SLURM SIGTERM, or what was asked for; some send SIGUSR1 at preemption."""


class Stopped(KeyboardInterrupt):
    """A signal came: the stage ends at its next step, and what is finished is kept."""

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Turn the first of the `ENDING` signals into `Stopped` while the block runs; ignore those that follow."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        raise Stopped(number)

    before = {one: signal.signal(one, stop) for one in ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def work(job: Job, *, wait: bool) -> int:
    """Make the unit of a job; return 0, or the exit code of the error, which stands in log and progress.json.

    What this process prints goes to the job's log from here on.

    Args:
        wait: for another process that makes the unit; else the exit code is that of `RunBusyError`.

    Raises:
        Stopped: a signal came; a caller that doesn't turn signals into it gets their own effect.
    """
    try:
        unit = job.unit()
        with hold(job.lease, wait=float("inf") if wait else 0, what=f"the unit {unit.title}"):
            _print_to(job, unit.title)
            with reporting(job, unit) as facts:
                _look_at(job, unit)
                try:
                    unit.make(log=job.log)
                    facts["state"] = "finished"
                except BaseException as error:
                    facts.update(
                        state="interrupted" if isinstance(error, KeyboardInterrupt) else "failed", why=_why(error)
                    )
                    raise
    except RunBusyError as error:
        return error.exit_code
    except DirePlugError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()  # into the unit's log; the error of the command names it
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _print_to(job: Job, title: str) -> None:
    """Send what this process and its children print to the job's log, whose first line says where it runs."""
    with job.log.open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    place = socket.gethostname()
    if (cluster := cluster_job()) is not None:
        place += f", SLURM job {cluster['id']}, partition {cluster['partition']}"
    print(f"{now} on {place}: {title}", flush=True)


def _look_at(job: Job, unit: Unit) -> None:
    """List the folders of what the unit is made from: NFS then shows entries that another machine has just made."""
    for kind in {name.partition("/")[0] for name in unit.needs}:
        with contextlib.suppress(OSError):
            os.listdir(job.store / kind)


def _why(error: BaseException) -> str:
    """Return why a unit ended, in one line."""
    if isinstance(error, Stopped):
        return f"{error.signal.name}: told to end"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, DirePlugError) else f"{type(error).__name__}: {lines[-1]}"
