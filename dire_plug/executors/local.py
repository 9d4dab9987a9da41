"""Run units in local processes, several at a time, each as soon as what it needs is there.

One that fails doesn't stop those that don't need it. Every process gets the same number of threads, since the number
changes bits: that of `OMP_NUM_THREADS`, else the cores divided by the number of processes. Where there are several
GPUs, each process sees one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, read_json, write_json
from dire_plug.pipeline.run import announce
from dire_plug.pipeline.work_units import Unit, make_unit, plan_units, waits_for
from dire_plug.store.runs import Request
from dire_plug.upstream.runner import count_cores, python_path, read_tail, visible_gpus

PATIENCE = 10.0
"""Seconds that a process gets to end by itself when it is told to stop."""


def run_units(requests: Sequence[Request], *, jobs: int) -> None:
    """Make all that the store lacks of some runs, in `jobs` processes at a time.

    Afterwards each run finds all of it, so running it only puts it together.

    Raises:
        DirePlugError: units failed; each is named with the last lines of its log, and what the others made is kept.
    """
    if named := next((one.device for one in requests if one.device.startswith("cuda:")), None):
        raise DirePlugError(
            f"--device {named}: --executor local gives each process a GPU of its own; leave --device out, and set "
            "CUDA_VISIBLE_DEVICES to choose GPUs"
        )
    units = plan_units(requests)
    if not units:
        return
    for request in requests:
        announce(request)
    # by the number that was asked for, so that a command that resumes with less left to do makes the same bits
    threads, jobs = _threads(jobs), min(jobs, len(units))
    ui.say(f"local: {len(units)} units of work in {jobs} processes, threads: {threads} each")
    workers = queue.SimpleQueue[_Worker]()
    before = signal.signal(signal.SIGTERM, _end) if threading.current_thread() is threading.main_thread() else None
    try:
        for slot in range(jobs):
            workers.put(_Worker(slot, threads=threads))
        with ThreadPoolExecutor(jobs) as pool:
            try:
                failed, blocked = _make_all(units, lambda unit: pool.submit(_make_in, workers, unit))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                _Worker.stop_all()  # a thread that waits for its worker's reply ends with the worker
                raise
    finally:
        _Worker.stop_all()
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if failed:
        raise DirePlugError(_describe(failed, blocked))


def _make_all(units: Sequence[Unit], submit: Callable[[Unit], Future[int]]) -> tuple[list[Unit], list[Unit]]:
    """Make units, each when what it needs is made; return those that failed, and those that need one of them."""
    waiting = {unit.name: unit for unit in units}
    needs = waits_for(units)
    running: dict[Future[int], Unit] = {}
    failed: list[Unit] = []
    blocked: list[Unit] = []
    while waiting or running:
        lost = {unit.name for unit in (*failed, *blocked)}
        unfinished = waiting.keys() | {unit.name for unit in running.values()}
        for name, unit in list(waiting.items()):
            if needs[name] & lost:
                blocked.append(waiting.pop(name))
                lost.add(name)
            elif not needs[name] & unfinished:
                running[submit(waiting.pop(name))] = unit
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            unit = running.pop(future)
            if future.result() == 0:
                done = len(units) - len(waiting) - len(running) - len(failed) - len(blocked)
                ui.say(f"local: {done}/{len(units)} {unit.title}")
            else:
                failed.append(unit)
                ui.warn(f"{unit.title} failed; log: {_log(unit)}")
    return failed, blocked


class _Worker:
    """A process that makes units one after another, so that imports and the dataset are loaded once."""

    _alive: ClassVar[set[_Worker]] = set()

    def __init__(self, slot: int, *, threads: int) -> None:
        """Start the process; it sees the GPU of its slot alone."""
        self.slot, self.threads, self.dead = slot, threads, False
        replies_read, replies_write = os.pipe()
        self._process = subprocess.Popen(
            # -P: a module in the current folder must not stand in for one of the same name
            [sys.executable, "-P", "-m", "dire_plug.executors.local", str(replies_write)],
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(python_path())}
            | _one_gpu(slot),
            stdin=subprocess.PIPE,
            pass_fds=(replies_write,),
            start_new_session=True,  # an interruption reaches this process first, which stops its workers in order
        )
        os.close(replies_write)
        self._replies = os.fdopen(replies_read)
        _Worker._alive.add(self)

    def make(self, job: Path) -> int | None:
        """Make the unit of a job file; return its exit code, or None where the process died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{job}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self.dead = True
            return None
        reply = self._replies.readline()
        if not reply:
            self._process.wait()  # until it is reaped, its leases look held where there is no /proc
            self.dead = True
        return int(reply) if reply else None

    @classmethod
    def stop_all(cls) -> None:
        """Ask all workers, and what they started, to end; kill those that don't."""
        for worker in list(cls._alive):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while cls._alive:
            worker = cls._alive.pop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker._process.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker._process.pid, signal.SIGKILL)
            worker._process.wait()
            assert worker._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker._process.stdin.close()
            worker._replies.close()


def _make_in(workers: queue.SimpleQueue[_Worker], unit: Unit) -> int:
    """Make a unit in a worker that is free; return its exit code. A worker that dies is replaced."""
    job = _log(unit).with_suffix(".json")
    make_folder(job.parent)
    _log(unit).write_bytes(b"")  # what an earlier attempt left there isn't this one's
    write_json(job, {**asdict(unit), "needs": sorted(unit.needs), "request": _to_json(unit.request)})
    worker = workers.get()
    try:
        if worker.dead:  # replaced when it is needed, so never after an interruption
            worker = _Worker(worker.slot, threads=worker.threads)
        code = worker.make(job)
    finally:
        workers.put(worker)
    if code is None:
        with _log(unit).open("a") as log:
            log.write("error: the process that made it was killed; the machine may be out of memory\n")
    return 1 if code is None else code


def _log(unit: Unit) -> Path:
    return home.store() / "jobs" / f"{unit.name}.log"


def _threads(jobs: int) -> int:
    # the variable may hold one number for each level of nesting, as in 4,2
    return int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or max(1, count_cores() // jobs))


def _one_gpu(slot: int) -> dict[str, str]:
    """Return the environment in which a process sees the GPU of its slot alone; empty where there are none."""
    import torch

    visible = visible_gpus() or [str(number) for number in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": visible[slot % len(visible)]} if visible else {}


def _describe(failed: Sequence[Unit], blocked: Sequence[Unit]) -> str:
    lines = []
    for unit in failed:
        lines += [f"{unit.title} failed; its last lines:", *read_tail(_log(unit)), f"  log: {_log(unit)}"]
    if blocked:
        lines.append(f"not started, since they need it: {', '.join(unit.title for unit in blocked)}")
    return "\n".join([*lines, "what is finished is kept; the same command resumes"])


def _to_json(request: Request) -> dict[str, Any]:
    found = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}
    return found | {"wait": True}  # --no-wait is about other commands: the processes of one wait for each other


def _from_json(content: dict[str, Any]) -> Request:
    paths = {key: Path(content[key]) for key in ("out", "data_root") if content[key] is not None}
    lists = {key: tuple(content[key]) for key in ("settings", "rerun")}
    return Request(**{**content, **paths, **lists})


def main(arguments: Sequence[str]) -> int:
    """Make the unit of each job file that is named on a line of standard input; reply with its exit code."""
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    replies = os.fdopen(int(arguments[0]), "w", buffering=1)
    for line in sys.stdin:
        job = Path(line.strip())
        with job.with_suffix(".log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        print(_make(job), file=replies)
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _make(job: Path) -> int:
    try:
        content = read_json(job)
        request, log = _from_json(content["request"]), job.with_suffix(".log")
        make_unit(request, content["stage"], content["part"], content["makes"], log=log)
    except DirePlugError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()  # into the unit's log; the error of the command names it
        return 1
    return 0


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, however it did."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _end(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
