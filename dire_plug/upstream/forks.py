"""Run jobs as forks of one process that has imported everything, so that nine runs import torch once.

That process only imports: no tensor operation, no CUDA call (not even `is_available`), one thread. A fork of one that
has done more can't use the card, or hangs. Run as `python -P -m dire_plug.upstream.forks TREE REQUESTS REPLIES LIFE`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

from dire_plug import ui
from dire_plug.errors import UpstreamFailedError
from dire_plug.files import make_folder
from dire_plug.upstream import child
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import check_end, child_environment, make_scratch, run_alone, visible_device

AT_ONCE = 2
"""Forks that run at a time: each holds the networks of its script."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Runner(Protocol):
    """Runs jobs, and raises what the first of them that failed did."""

    def __call__(self, jobs: Sequence[ChildJob], *, logs: Sequence[Path]) -> None:
        """Run them all; write their output into `logs`."""


# The side of the command.


@contextlib.contextmanager
def open_forks(tree: Path, folder: Path) -> Iterator[Runner]:
    """Yield what runs jobs as forks while the block runs; in processes of their own where this system can't fork.

    Args:
        tree: of the scripts, whose packages are imported once.
        folder: the process's own, for its home and its log.
    """
    scratch, log = make_scratch(folder), folder / "log.txt"
    requests_read, requests_write = os.pipe()
    replies_read, replies_write = os.pipe()
    life_read, life_write = os.pipe()  # nobody writes; the forks see it close when the block has ended
    environment = child_environment(ChildJob(tree, "", (), folder), scratch, "", tmp=scratch / "tmp") | ONE_THREAD
    handles = (requests_read, replies_write, life_read)
    command = [sys.executable, "-P", "-u", "-m", "dire_plug.upstream.forks", str(tree), *map(str, handles)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=scratch / "cwd",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=handles,
        )
    for handle in handles:
        os.close(handle)
    try:
        with os.fdopen(replies_read) as replies:
            why = json.loads(replies.readline() or '"the process that would fork ended"')
            if why:
                ui.say(f"verify: {why}, so each run is a process of its own, which takes longer; log: {log}")
                yield run_alone
            else:
                yield _Forks(requests_write, replies, log)
    finally:
        os.close(requests_write)
        os.close(life_write)
        process.kill()
        process.wait()


class _Forks:
    def __init__(self, requests: int, replies: IO[str], log: Path) -> None:
        self._requests, self._replies, self._log = requests, replies, log

    def __call__(self, jobs: Sequence[ChildJob], *, logs: Sequence[Path]) -> None:
        wanted, began = list[dict[str, Any]](), list[int]()
        for job, log in zip(jobs, logs, strict=True):
            scratch = make_scratch(job.folder)
            make_folder(log.parent)
            visible, device = visible_device(job.device, gpus=job.gpus)
            environment = child_environment(job, scratch, visible, tmp=scratch / "tmp")
            began.append(log.stat().st_size if log.exists() else 0)
            wanted.append(
                {
                    "job": str(replace(job, device=device).write()),
                    "events": str(job.folder / "events.jsonl"),
                    "log": str(log),
                    "cwd": str(scratch / "cwd"),
                    "environment": environment,
                }
            )
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, f"{json.dumps(wanted)}\n".encode())
        if not (reply := self._replies.readline()):
            raise UpstreamFailedError(f"the process that verify forks has ended; its log: {self._log}")
        ended = json.loads(reply)
        for job, one, log, at, status in zip(jobs, wanted, logs, began, ended, strict=True):
            if status is not None:  # None: not begun, since another had failed
                events = Path(one["events"]).read_text().splitlines()
                check_end(job, json.loads(events[-1]) if events else {}, status=status, log=log, began=at)


# The side that forks.


def main(arguments: list[str]) -> int:
    """Import everything, say whether forks are safe, and serve requests until their pipe closes."""
    tree, (requests, replies, life) = Path(arguments[0]), map(int, arguments[1:])
    for handle in (requests, replies, life):
        os.set_inheritable(handle, False)
    child.import_all(tree)
    with os.fdopen(requests) as asked, os.fdopen(replies, "w", buffering=1) as answers:
        answers.write(json.dumps(find_what_forbids_forks()) + "\n")
        for line in asked:
            answers.write(json.dumps(_serve(json.loads(line), life)) + "\n")
    return 0


def find_what_forbids_forks() -> str:
    """Return why a fork of this process might hang or not reach the card; an empty string where it won't."""
    from torch import cuda

    tasks = Path("/proc/self/task")
    if not hasattr(os, "fork") or not tasks.exists():
        return "this system can't fork a process with torch safely"
    if (threads := len(list(tasks.iterdir()))) > 1:
        return f"importing upstream's packages started {threads - 1} thread(s)"
    initialised: bool = cuda.is_initialized()  # type: ignore[no-untyped-call]
    return "importing upstream's packages initialised CUDA" if initialised else ""


def _serve(wanted: list[dict[str, Any]], life: int) -> list[int | None]:
    """Fork for each job, `AT_ONCE` at a time; return their statuses, None of those that came after a failure."""
    statuses: list[int | None] = [None] * len(wanted)
    running, waiting = dict[int, int](), list(range(len(wanted)))
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            place = waiting.pop(0)
            running[_fork(wanted[place], life)] = place
        pid, status = os.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what upstream's code started may still run
        statuses[running.pop(pid)] = code = os.waitstatus_to_exitcode(status)
        waiting = [] if code else waiting
    return statuses


def _fork(one: dict[str, Any], life: int) -> int:
    """Return the process of a new child, which runs one job and never returns from here."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()  # a group of its own, so that it can be stopped with all that it started
        output = os.open(one["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.clear()
        os.environ.update(one["environment"])
        tempfile.tempdir = None  # asked for again, of the new environment
        os.chdir(one["cwd"])
        events = os.open(one["events"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        status = child.main([one["job"], str(events), str(life)])
    except BaseException:
        traceback.print_exc()
    finally:
        # not sys.exit: the loop of the parent, which this process has a copy of, must not go on here
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
