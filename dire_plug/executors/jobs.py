"""Keep what is known of each unit that an executor was given: its job folder, its progress, and its state.

A job folder is `jobs/<unit>/` in the store. `unit.json` is the unit; `log.txt` what its attempts printed; progress.json
what its process is doing, written by itself. `jobs/submissions/` holds what was submitted to a cluster: the units of
each array in order. So `dire-plug jobs` needs no accounting of the cluster, and two commands see each other's work.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, read_json, write_json
from dire_plug.pipeline.work_units import Unit
from dire_plug.store.artefacts import ENTRY, JOBS
from dire_plug.store.provenance import cluster_job
from dire_plug.tables import Table

SUBMISSIONS = "submissions"
"""In it: what was submitted to a cluster."""
UNIT, PROGRESS, LOG, STOPS = "unit.json", "progress.json", "log.txt", "stops.json"
HEARTBEAT = 10.0
"""Seconds between two writings of progress.json."""
BLOCKED = "it needs a unit that failed"
"""Why a unit wasn't started."""
STALE = 120.0
"""Seconds without a heartbeat after which a process counts as lost; file systems of clusters show changes late."""


@dataclass(frozen=True)
class Job:
    """One unit that an executor was given: a view of its folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The unit's."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """What its attempts printed."""
        return self.folder / LOG

    @property
    def lease(self) -> Path:
        """Held by the process that makes the unit."""
        return self.folder / "unit.lease"

    def unit(self) -> Unit:
        """Return the unit.

        Raises:
            DirePlugError: the folder holds none.
        """
        try:
            return Unit.from_json(read_json(self.folder / UNIT))
        except (KeyError, TypeError, AttributeError) as error:
            raise DirePlugError(f"{self.folder / UNIT}: holds no unit of work; remove the folder") from error

    def progress(self) -> dict[str, Any]:
        """Return progress.json; empty where nothing has started."""
        with contextlib.suppress(DirePlugError):
            found = read_json(self.folder / PROGRESS)
            if isinstance(found, dict):
                return found
        return {}

    def stops(self) -> int:
        """Return how often in a row the time limit stopped the unit although it had begun at the start again."""
        file = self.folder / STOPS
        return int(read_json(file)) if file.is_file() else 0

    def keep_stops(self, count: int) -> None:
        """Keep that number for the next attempt."""
        write_json(self.folder / STOPS, count)

    def is_made(self, unit: Unit) -> bool:
        """Return whether the store has all that the unit makes; contents aren't checked."""
        store = self.folder.parent.parent
        return all((store / name / ENTRY).is_file() for name in unit.makes)

    def set_state(self, state: str, *, why: str | None = None) -> None:
        """Change the state in progress.json, of a unit that no process makes now."""
        write_json(self.folder / PROGRESS, {**self.progress(), "state": state, "why": why})


def jobs_folder() -> Path:
    """Return the folder of all job folders."""
    return home.store() / JOBS


def job_of(unit: Unit) -> Job:
    """Return the job of a unit; its folder is made, with unit.json."""
    job = Job(jobs_folder() / unit.name)
    make_folder(job.folder)
    write_json(job.folder / UNIT, unit.to_json())
    return job


def list_jobs() -> list[Job]:
    """Return all jobs of the store, the latest first."""
    files = jobs_folder().glob(f"*/{UNIT}")
    return [Job(file.parent) for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]


def find_job(name: str) -> Job:
    """Return the job with this name, or this unambiguous beginning of one, or this id in the cluster.

    Raises:
        DirePlugError: none or several match.
    """
    found = [job for job in list_jobs() if job.name.startswith(name) or _cluster_id(job) == name]
    if len(found) == 1:
        return found[0]
    listed = f": {', '.join(job.name for job in found[:5])}" if found else "; see `dire-plug jobs`"
    raise DirePlugError(f"'{name}' names {len(found)} jobs{listed}")


def _cluster_id(job: Job) -> str | None:
    found = (job.progress().get("job") or {}).get("id")
    return None if found is None else str(found)


def read_tail(log: Path, *, lines: int = 15) -> list[str]:
    """Return the last lines of a log, indented; empty where there is none."""
    with contextlib.suppress(OSError):
        return [f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:]]
    return []


# The state of a job.


@dataclass(frozen=True)
class State:
    """The state of a job.

    Attributes:
        word: waiting, queued, running, finished, failed, cancelled or lost.
        why: the reason, where there is one.
    """

    word: str
    why: str = ""

    def __str__(self) -> str:
        """Return the word, and the reason behind it."""
        return f"{self.word}: {self.why}" if self.why else self.word

    @property
    def live(self) -> bool:
        """Whether something is still to come of it."""
        return self.word in ("queued", "running")


def state_of(job: Job, unit: Unit, queue: Mapping[str, str] | None = None, submitted: str | None = None) -> State:
    """Return the state of a job, from our own events first: a cluster without accounting forgets its jobs.

    Args:
        queue: id → state and reason, as "PENDING (Priority)", of the jobs that the cluster knows.
        submitted: the id under which the unit was submitted last; None if it wasn't.
    """
    if job.is_made(unit):
        return State("finished")
    progress, known = job.progress(), (queue or {}).get(submitted or "", "")
    mine = submitted is None or (progress.get("job") or {}).get("id") == submitted
    word, _, reason = known.partition(" ")
    if word in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED", "SPECIAL_EXIT"):
        return State("queued", reason.strip("()"))
    # COMPLETED, but the entry isn't there: a network file system shows it a little later
    if word in ("RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT", "COMPLETED"):
        return State("running")
    if mine and progress.get("state") in ("failed", "cancelled", "refused"):
        return State(progress["state"], str(progress.get("why") or ""))
    if submitted is None and progress.get("state") == "running" and _is_fresh(progress):
        return State("running")
    if mine and progress.get("state") in ("running", "interrupted"):
        seen = f"its process ended without a word; last seen {ago(progress.get('heartbeat'))} ago"
        return State("lost", f"{seen}{f'; the cluster says {word}' if word else ''}")
    if submitted is not None:
        return State("cancelled", f"never started{f'; the cluster says {word}' if word else ''}")
    return State("waiting")


def _is_fresh(progress: Mapping[str, Any]) -> bool:
    return time.time() - float(progress.get("heartbeat") or 0) < STALE


def ago(moment: float | None) -> str:
    """Return how long ago a moment was, in words."""
    if moment is None:
        return "–"
    seconds = max(0, round(time.time() - float(moment)))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def count_states(states: Sequence[State]) -> str:
    """Return how many jobs are in which state, such as "3 running, 12 queued"."""
    counts = {word: sum(one.word == word for one in states) for word in dict.fromkeys(one.word for one in states)}
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def jobs_table(found: Sequence[tuple[Job, Unit, State, str | None]]) -> Table:
    """Return a table of jobs, their units and states, and their ids in the cluster."""
    table = Table("unit", title="jobs")
    table.add_prose("state", "doing")
    table.add_numbers("done", "rate", "seen")
    table.add_prose("host", "cluster's id", "job")
    for job, unit, state, number in found:
        progress = job.progress()
        running = state.word == "running"
        rate = progress.get("rate") if running else None
        table.add_row(
            unit.title,
            str(state),
            str(progress.get("doing") or "–") if running else "–",
            f"{progress['done']}/{progress['total']}" if progress.get("total") else "–",
            "–" if rate is None else f"{rate:.3g}/s",
            ago(progress.get("heartbeat")) if running else "–",
            str(progress.get("host") or "–"),
            number or "–",
            job.name,
        )
    return table


# Progress, written by the process that makes a unit.


@contextlib.contextmanager
def reporting(job: Job, unit: Unit) -> Iterator[dict[str, Any]]:
    """Keep progress.json of a unit true while the block makes it: what is done, how fast, and that it is alive.

    Yields:
        what the file says; the block sets `state`, and `why` where it failed, before it ends.
    """
    began = time.time()
    facts: dict[str, Any] = {
        "state": "running",
        "title": unit.title,
        "stage": unit.stage,
        "doing": "starting",
        "done": 0,
        "total": 0,
        "resumed_at": 0,
        "rate": None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": cluster_job(),
        "attempt": int(job.progress().get("attempt") or 0) + 1,
        "began": began,
        "heartbeat": began,
        "why": None,
    }
    started = (began, 0)
    ended = threading.Event()

    def follow(doing: str, done: int, total: int) -> None:
        nonlocal started
        now = time.time()
        if doing != facts["doing"]:
            facts["resumed_at"] = 0
        if done and not facts["resumed_at"]:
            # the first step of a stage, or the one at which it goes on after a stop
            started, facts["resumed_at"] = (now, done), done
        rate = (done - started[1]) / (now - started[0]) if now > started[0] and done > started[1] else None
        facts.update(doing=doing, done=done, total=total, rate=None if rate is None else round(rate, 3))

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            write()

    def write() -> None:
        facts["heartbeat"] = time.time()
        # a full disk must not end the unit for want of a heartbeat: what the unit writes itself will
        with contextlib.suppress(DirePlugError):
            write_json(job.folder / PROGRESS, facts)

    write()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with ui.following(follow):
            yield facts
    finally:
        ended.set()
        thread.join()
        write()
