"""Run units in local processes, several at a time, each as soon as what it needs is there.

One that fails doesn't stop those that don't need it; one that another command makes at the moment is waited for. Every
process gets the same number of threads, since the number changes bits: that of `OMP_NUM_THREADS`, else the cores
divided by the number of processes. Where there are several GPUs, each process sees its own.
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
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import ClassVar

import torch

from dire_plug import ui
from dire_plug.devices import count_cores
from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.executors.jobs import BLOCKED, Job, job_of
from dire_plug.executors.local_worker import PATIENCE
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.store.lease import holder
from dire_plug.store.units import Unit, waits_for
from dire_plug.upstream.runner import python_path, visible_gpus

LOOK_AGAIN = 2.0
"""Seconds after which a unit is tried again that another command was making."""


def run_local(units: Sequence[Unit], settings: ExecutorSettings) -> dict[str, str]:
    """Make units in processes of this machine; return name of a unit → why it wasn't made.

    Raises:
        DirePlugError: a unit names a GPU.
    """
    if named := next((unit.device for unit in units if unit.device.startswith("cuda:")), None):
        raise DirePlugError(
            f"--device {named}: --executor local gives each process a GPU of its own; leave --device out, and set "
            "CUDA_VISIBLE_DEVICES to choose GPUs"
        )
    # by the number that was asked for, so that a command that resumes with less left to do makes the same bits
    asked = count_processes(settings)
    threads, jobs = _threads(asked), min(asked, len(units))
    ui.say(f"local: {len(units)} units of work in {jobs} processes, threads: {threads} each")
    workers = queue.SimpleQueue[_Worker]()
    before = signal.signal(signal.SIGTERM, _end) if threading.current_thread() is threading.main_thread() else None
    try:
        for slot in range(jobs):
            workers.put(_Worker(slot, threads=threads, gpus=settings.gpus_per_job))
        with ThreadPoolExecutor(jobs) as pool:
            try:
                return _make_all(units, lambda unit: pool.submit(_make_in, workers, unit))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                _Worker.stop_all()  # a thread that waits for its worker's reply ends with the worker
                raise
    finally:
        _Worker.stop_all()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def count_processes(settings: ExecutorSettings) -> int:
    """Return how many processes are asked for: one for each GPU, or two, where nobody says."""
    return settings.jobs or max(2, torch.cuda.device_count() // settings.gpus_per_job)


def _make_all(units: Sequence[Unit], submit: Callable[[Unit], Future[int]]) -> dict[str, str]:
    """Make units, each when what it needs is made; return name → why, of those that failed or need one that did."""
    waiting = {unit.name: unit for unit in units}
    needs = waits_for(units)
    running: dict[Future[int], Unit] = {}
    lost: dict[str, str] = {}
    while waiting or running:
        unfinished = waiting.keys() | {unit.name for unit in running.values()}
        for name, unit in list(waiting.items()):
            if needs[name] & lost.keys():
                lost[name] = BLOCKED
                waiting.pop(name)
            elif not needs[name] & unfinished:
                running[submit(waiting.pop(name))] = unit
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            unit = running.pop(future)
            code = future.result()
            if code == 0:
                done = len(units) - len(waiting) - len(running) - len(lost)
                ui.say(f"local: {done}/{len(units)} {unit.label}")
            elif code == RunBusyError.exit_code:
                waiting[unit.name] = unit
            else:
                job = job_of(unit)
                lost[unit.name] = str(job.progress().get("why") or "failed")
                ui.warn(f"{unit.label} failed; log: {job.log}")
    return lost


class _Worker:
    """A process that makes units one after another, so that imports and the dataset are loaded once."""

    _alive: ClassVar[set[_Worker]] = set()

    def __init__(self, slot: int, *, threads: int, gpus: int) -> None:
        """Start the process; it sees the GPUs of its slot alone."""
        self.slot, self.threads, self.gpus, self.dead = slot, threads, gpus, False
        replies_read, replies_write = os.pipe()
        self._process = subprocess.Popen(
            # -P: a module in the current folder must not stand in for one of the same name
            [sys.executable, "-P", "-m", "dire_plug.executors.local_worker", str(replies_write)],
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(python_path())}
            | gpus_of(slot, gpus),
            stdin=subprocess.PIPE,
            pass_fds=(replies_write,),
            start_new_session=True,  # an interruption reaches this process first, which stops its workers in order
        )
        os.close(replies_write)
        self._replies = os.fdopen(replies_read)
        _Worker._alive.add(self)

    def make(self, job: Job) -> int | None:
        """Make the unit of a job; return its exit code, or None where the process died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{job.folder}\n".encode())
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
    job = job_of(unit)
    job.write(unit)
    worker = workers.get()
    try:
        if worker.dead:  # replaced when it is needed, so never after an interruption
            worker = _Worker(worker.slot, threads=worker.threads, gpus=worker.gpus)
        code = worker.make(job)
    finally:
        workers.put(worker)
    if code is None:
        # one that was told to end has said so itself
        if job.progress().get("state") == "running":
            job.set_state("failed", why="the process that made it was killed; the machine may be out of memory")
        return 1
    if code == RunBusyError.exit_code:
        ui.say_once(f"local: {unit.label} is made by {holder(job.lease) or 'another command'}; waiting for it")
        time.sleep(LOOK_AGAIN)
    return code


def _threads(jobs: int) -> int:
    # the variable may hold one number for each level of nesting, as in 4,2
    return int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or max(1, count_cores() // jobs))


def gpus_of(slot: int, count: int) -> dict[str, str]:
    """Return the environment in which a process sees the GPUs of its slot alone; empty where there are none.

    Raises:
        DirePlugError: there are fewer than `count`.
    """
    visible = visible_gpus() or [str(number) for number in range(torch.cuda.device_count())]
    if not visible:
        return {}
    if len(visible) < count:
        raise DirePlugError(f"--gpus-per-job {count}: this process sees {len(visible)}; ask for fewer")
    sets = len(visible) // count
    first = slot % sets * count
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[first : first + count])}


def _end(*_: object) -> None:
    raise KeyboardInterrupt
