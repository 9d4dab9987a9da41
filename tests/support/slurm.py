"""A real SLURM for tests: whether one answers, what it does with our jobs, and how they are disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dire_plug.executors.jobs import list_jobs

COMMAND = (sys.executable, "-P", "-m", "dire_plug")


def require_cluster() -> None:
    """Skip the test where no SLURM answers."""
    if shutil.which("sbatch") is None:
        pytest.skip("SLURM's commands aren't installed")
    done = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        pytest.skip(f"no SLURM answers: {done.stderr.strip()}")


def dire_plug(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the command line in a process of its own."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def in_queue() -> dict[str, str]:
    """Return id → state of our jobs that haven't ended."""
    command = ["squeue", "--noheader", "--array", "--name=dire-plug", "--format=%i|%T"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split("|") for line in done.stdout.splitlines())


def running() -> list[str]:
    """Return the ids of our jobs that run."""
    return [job for job, state in in_queue().items() if state == "RUNNING"]


def hurry() -> None:
    """Start at once what was put back into the queue: SLURM lets such jobs wait for two minutes."""
    command = ["squeue", "--noheader", "--array", "--name=dire-plug", "--states=PENDING", "--format=%i|%r"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        job, _, reason = line.partition("|")
        if reason in ("BeginTime", "JobHeldUser", "JobHoldMaxRequeue"):
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True, check=False)


def cancel_all() -> None:
    """Cancel what a test left in the queue, and wait until it is gone."""
    subprocess.run(["scancel", "--name=dire-plug"], check=False)
    deadline = time.monotonic() + 60
    while in_queue() and time.monotonic() < deadline:
        time.sleep(0.5)


def processes_of_units() -> list[int]:
    """Return the process ids that running units report, and the children of upstream's code that they started."""
    found = []
    for job in list_jobs():
        progress = job.progress()
        if progress.get("state") == "running":
            pid = int(progress["pid"])
            children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
            found += [pid, *map(int, children.stdout.split())]
    return found


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class Watcher(threading.Thread):
    """Notes every entry of a store that is published a second time."""

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.twice: list[str] = []
        self._seen: dict[str, int] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            for file in self.store.glob("*/*/entry.json"):
                try:
                    inode = file.stat().st_ino
                except FileNotFoundError:
                    continue
                if self._seen.setdefault(str(file), inode) != inode:
                    self.twice.append(str(file))

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


class Disturber(threading.Thread):
    """Calls a function again and again while a command runs, until it has had its effect often enough."""

    def __init__(self, disturb: Callable[[], bool], *, times: int, pause: float) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self._disturb, self._times, self._pause = disturb, times, pause
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._pause):
            hurry()
            if self.done < self._times:
                self.done += self._disturb()

    def __enter__(self) -> Disturber:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
