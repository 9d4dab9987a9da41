"""Run units in local processes, several at a time, each as soon as what it needs is there.

One that fails doesn't stop those that don't need it. Every process gets the same number of threads, since the number
changes bits: that of `OMP_NUM_THREADS`, else the cores divided by the number of processes. Where there are several
GPUs, each process sees one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, read_json, write_json
from dire_plug.pipeline.units import Unit, make_unit, plan_units
from dire_plug.store.runs import Request

POLL_SECONDS = 0.2
PATIENCE = 10.0
"""Seconds that a process gets to end by itself when it is told to stop."""
LOG_TAIL = 12
"""Lines of a failed unit's log that the error repeats."""


def run_units(requests: Sequence[Request], *, jobs: int) -> None:
    """Make all that the store lacks of some runs, in `jobs` processes at a time.

    Afterwards each run finds all of it, so running it only puts it together.

    Raises:
        DirePlugError: units failed; each is named with the last lines of its log, and what the others made is kept.
    """
    units = plan_units(requests)
    if not units:
        return
    waiting = {unit.name: unit for unit in units}
    makers = {made: unit.name for unit in units for made in unit.makes}
    folder = home.store() / "jobs"
    running: dict[str, tuple[subprocess.Popen[bytes], Path, int]] = {}
    failed: dict[str, Path] = {}
    blocked: set[str] = set()
    done = 0
    ui.say(f"local: {len(units)} units of work in {jobs} processes with {_threads(jobs)} threads each")
    try:
        while waiting or running:
            for name, (process, log, _) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[name]
                unit = next(one for one in units if one.name == name)
                if code == 0:
                    done += 1
                    ui.say(f"local: {done}/{len(units)} {unit.title}")
                else:
                    failed[name] = log
                    ui.warn(f"{unit.title} failed; log: {log}")
            bad = failed.keys() | blocked
            for name, unit in list(waiting.items()):
                needed = {makers[one] for one in unit.needs if one in makers}
                if needed & bad:
                    blocked.add(name)
                    del waiting[name]
                elif len(running) < jobs and not needed & (waiting.keys() | running.keys()):
                    del waiting[name]
                    slot = next(one for one in range(jobs) if one not in {taken for _, _, taken in running.values()})
                    running[name] = _start(unit, folder, slot=slot, jobs=jobs)
            time.sleep(POLL_SECONDS)
    finally:
        _stop([process for process, _, _ in running.values()])
    if failed:
        raise DirePlugError(_describe(units, failed, blocked))


def _start(unit: Unit, folder: Path, *, slot: int, jobs: int) -> tuple[subprocess.Popen[bytes], Path, int]:
    """Start the process of a unit; return it, its log, and the slot that it takes."""
    make_folder(folder)
    job, log = folder / f"{unit.name}.json", folder / f"{unit.name}.log"
    write_json(job, {**asdict(unit), "needs": sorted(unit.needs), "request": _to_json(unit.request)})
    environment = os.environ | {"OMP_NUM_THREADS": str(_threads(jobs))} | _one_gpu(slot)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dire_plug.executors.local", str(job)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, log, slot


def _threads(jobs: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // jobs))


def _one_gpu(slot: int) -> dict[str, str]:
    """Return the environment in which a process sees the GPU of its slot alone; empty where there are none."""
    import torch

    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    visible = visible or [str(number) for number in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": visible[slot % len(visible)]} if visible else {}


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask processes, and what they started, to end; kill what doesn't."""
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    for process in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _describe(units: Sequence[Unit], failed: dict[str, Path], blocked: set[str]) -> str:
    lines = []
    for unit in units:
        if unit.name in failed:
            tail = failed[unit.name].read_text(errors="replace").splitlines()[-LOG_TAIL:]
            lines += [
                f"{unit.title} failed; its last lines:",
                *(f"  {line}" for line in tail),
                f"  log: {failed[unit.name]}",
            ]
    if blocked:
        lines.append(f"{len(blocked)} units that need it weren't started")
    return "\n".join([*lines, "what is finished is kept; the same command resumes"])


def _to_json(request: Request) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}


def _from_json(content: dict[str, Any]) -> Request:
    paths = {key: Path(content[key]) for key in ("out", "data_root") if content[key] is not None}
    lists = {key: tuple(content[key]) for key in ("settings", "rerun")}
    return Request(**{**content, **paths, **lists})


def main(arguments: Sequence[str]) -> int:
    """Make the unit of a job file; return the exit code."""
    job = Path(arguments[0])
    try:
        content = read_json(job)
        make_unit(
            _from_json(content["request"]),
            content["stage"],
            content["part"],
            content["makes"],
            log=job.with_suffix(".log"),
        )
    except DirePlugError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
