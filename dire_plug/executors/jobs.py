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
from typing import Any, NamedTuple

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, read_json, write_json
from dire_plug.store.artefacts import ENTRY, JOBS, is_sound
from dire_plug.store.provenance import cluster_job
from dire_plug.store.units import Unit
from dire_plug.tables import Table

SUBMISSIONS = "submissions"
"""The folder, among job folders, of what was submitted to a cluster."""
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
    def store(self) -> Path:
        """The folder of the store that it belongs to."""
        return self.folder.parent.parent

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

    def write(self, unit: Unit) -> None:
        """Make the folder, with unit.json."""
        make_folder(self.folder)
        write_json(self.folder / UNIT, unit.to_json())

    def progress(self) -> dict[str, Any]:
        """Return progress.json; empty where nothing has started."""
        with contextlib.suppress(DirePlugError):
            found = read_json(self.folder / PROGRESS)
            if isinstance(found, dict):
                return found
        return {}

    def count_stops(self, unit: Unit) -> int:
        """Count a stop by the time limit of an attempt that had begun at the start; return how many there are in a row.

        The count begins again when something that the unit makes was finished in between.
        """
        file, made = self.folder / STOPS, sum(is_sound(self.store, one) is True for one in unit.makes)
        before = read_json(file) if file.is_file() else {"stops": 0, "made": made}
        stops = 1 + (before["stops"] if before["made"] == made else 0)
        write_json(file, {"stops": stops, "made": made})
        return stops

    def is_made(self, unit: Unit, *, quickly: bool = False) -> bool:
        """Return whether the store has all that the unit makes, undamaged.

        Args:
            quickly: don't read the entries, which may be large; a damaged one counts as made then.
        """
        if quickly:
            return all((self.store / name / ENTRY).is_file() for name in unit.makes)
        return all(is_sound(self.store, name) for name in unit.makes)

    def set_state(self, state: str, *, why: str | None = None) -> None:
        """Change the state in progress.json, of a unit that no process makes now."""
        make_folder(self.folder)
        write_json(self.folder / PROGRESS, {**self.progress(), "state": state, "why": why})


def jobs_folder() -> Path:
    """Return the folder of all job folders."""
    return home.store() / JOBS


def job_of(unit: Unit) -> Job:
    """Return the job of a unit, whether it has a folder already or not."""
    return Job(jobs_folder() / unit.name)


def list_jobs() -> list[Job]:
    """Return all jobs of the store, the latest first."""
    files = jobs_folder().glob(f"*/{UNIT}")
    return [Job(file.parent) for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]


def find_job(name: str, ids: Mapping[str, Submitted] | None = None) -> Job:
    """Return the job with this name, or this unambiguous beginning of one, or this id in the cluster.

    Args:
        ids: name of a unit → how it was submitted.

    Raises:
        DirePlugError: none or several match.
    """
    numbers = {unit for unit, one in (ids or {}).items() if one.id == name}
    found = [job for job in list_jobs() if job.name.startswith(name) or job.name in numbers]
    if len(found) == 1:
        return found[0]
    listed = f": {', '.join(job.name for job in found[:5])}" if found else "; see `dire-plug jobs`"
    raise DirePlugError(f"'{name}' names {len(found)} jobs{listed}")


# The state of a job.


class Submitted(NamedTuple):
    """A unit's submission to a cluster: the job's id there, and when, in seconds since 1970."""

    id: str
    when: float


@dataclass(frozen=True)
class State:
    """The state of a job.

    Attributes:
        word: waiting, queued, running, finished, failed, cancelled, interrupted or lost.
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


QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED", "SPECIAL_EXIT")
# COMPLETED, but the entry isn't there: a network file system shows it a little later
RUNNING = ("RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT", "COMPLETED")
"""What the cluster says of a job that waits, and of one that runs."""


def state_of(
    job: Job,
    unit: Unit,
    queue: Mapping[str, str] | None = None,
    submitted: Submitted | None = None,
    *,
    quickly: bool = False,
) -> State:
    """Return the state of a job, from our own events where the cluster, without accounting, has forgotten it.

    Args:
        queue: id → state and reason, as "PENDING (Priority)", of the jobs that the cluster knows.
        submitted: how the unit was submitted last; None if it wasn't.
        quickly: as in `Job.is_made`.
    """
    if job.is_made(unit, quickly=quickly):
        return State("finished")
    progress = job.progress()
    cluster = (progress.get("job") or {}).get("id")
    # an attempt by another executor may be later than the submission
    if submitted is not None and cluster != submitted.id and float(progress.get("began") or 0) > submitted.when:
        submitted = None
    word, _, reason = (queue or {}).get(submitted.id if submitted else "", "").partition(" ")
    if word in QUEUED:
        return State("queued", reason.strip("()"))
    mine = submitted is None or cluster == submitted.id
    state, why = (progress.get("state"), str(progress.get("why") or "")) if mine else (None, "")
    if word in RUNNING or (state == "running" and _is_fresh(progress) and not word):
        return State("running")
    says = f"; the cluster says {word}" if word else ""
    if state == "interrupted":
        return State("cancelled" if word.startswith("CANCELLED") else "interrupted", why)
    if state == "running":
        return State("lost", f"its process was killed; last seen {ago(progress.get('heartbeat'))} ago{says}")
    if state == "failed":
        return State("failed", why)
    if submitted is None:
        return State("waiting")
    if word.startswith("CANCELLED") or not word:
        return State("cancelled", f"it never started{says}")
    return State("failed", f"it ended before the unit began{says}; see {cluster_log(submitted.id)}")


def cluster_log(number: str) -> Path:
    """Return the file that gets what a job of the cluster prints before its unit begins."""
    return jobs_folder() / SUBMISSIONS / "submitit" / f"{number}_0_log.out"


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


def jobs_table(found: Sequence[tuple[Job, Unit, State, Submitted | None]]) -> Table:
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
            unit.label,
            str(state),
            str(progress.get("doing") or "–") if running else "–",
            f"{progress['done']}/{progress['total']}" if progress.get("total") else "–",
            "–" if rate is None else f"{rate:.3g}/s",
            ago(progress.get("heartbeat")) if running else "–",
            str(progress.get("host") or "–"),
            number.id if number else "–",
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
