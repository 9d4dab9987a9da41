"""Job folders: progress while a unit is made, the log's first line, signals; and `dire-plug jobs`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import native, write_recipe

from dire_plug.executors.jobs import Job, Submitted, find_job, job_of, reporting
from dire_plug.pipeline.work_units import plan_units
from dire_plug.store.lease import Holder, started_at
from dire_plug.store.units import Unit

WORK = "import sys; from pathlib import Path; from dire_plug.executors.slurm import make_in_job; " + (
    "from dire_plug.executors.jobs import Job; sys.exit(make_in_job(Job(Path(sys.argv[1]))))"
)


def start(job: Job, **environment: str) -> subprocess.Popen[bytes]:
    """Make a unit in a process of its own, as a job of a cluster does."""
    return subprocess.Popen([sys.executable, "-c", WORK, str(job.folder)], env=os.environ | environment)


def wait_until_running(job: Job, doing: str) -> None:
    deadline = time.monotonic() + 120
    while doing not in str(job.progress().get("doing")):
        assert time.monotonic() < deadline, job.progress()
        time.sleep(0.05)


def teacher(recipe: Path) -> Unit:
    return next(unit for unit in plan_units([native(recipe)]) if unit.title == "squeeze teacher")


def written(unit: Unit) -> Job:
    """Return the job of a unit, with its folder."""
    job = job_of(unit)
    job.write(unit)
    return job


def test_a_unit_survives_being_written_and_read(bare_home: Path, recipe: Path) -> None:
    unit = teacher(recipe)
    assert written(unit).unit() == unit


def test_progress_tells_what_is_done_where_and_how_fast(bare_home: Path, recipe: Path) -> None:
    from dire_plug import ui

    job = written(unit := teacher(recipe))
    with reporting(job, unit) as facts, ui.progress("squeeze: teacher", 10) as advance:
        advance(2)
        time.sleep(0.01)
        advance(6)
        facts["state"] = "finished"
    found = job.progress()
    assert (found["doing"], found["done"], found["total"], found["resumed_at"]) == ("squeeze: teacher", 6, 10, 2)
    assert found["rate"] > 0
    assert (found["stage"], found["pid"]) == ("squeeze", os.getpid())
    assert found["state"] == "finished"


@pytest.mark.slow
def test_a_job_logs_where_it_runs_and_leaves_its_provenance(bare_home: Path, recipe: Path) -> None:
    job = written(unit := teacher(recipe))
    environment = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "4"}
    assert start(job, SLURM_JOB_PARTITION="gpu", SLURMD_NODENAME="node7", **environment).wait() == 0
    assert "SLURM job 70_4, partition gpu: squeeze teacher" in job.log.read_text().splitlines()[0]
    entry = json.loads((bare_home / "store" / unit.makes[0] / "entry.json").read_text())
    assert entry["made"]["cluster"] == {"id": "70_4", "partition": "gpu", "node": "node7"}
    assert find_job("70_4", {job.name: Submitted("70_4", 0)}) == job


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_a_job_in_order_and_lets_go_of_its_leases(
    bare_home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    long = write_recipe(tmp_path / "long.yaml", {"squeeze": {"teacher": {"epochs": 5000}}})
    job = written(teacher(long))
    process = start(job)
    wait_until_running(job, "squeeze: teacher")
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert (job.progress()["state"], job.progress()["why"]) == ("interrupted", f"{number.name}: told to end")
    assert not job.lease.exists()
    assert not list((bare_home / "store" / "leases").iterdir())


def test_jobs_lists_what_failed_and_why(bare_home: Path, recipe: Path, cli: Cli) -> None:
    job = written(teacher(recipe))
    job.set_state("failed", why="squeeze: the training diverged")
    answer = cli("jobs")
    assert answer.code == 0
    assert "failed: squeeze: the training diverged" in answer.out
    assert json.loads(cli("jobs", "--json").out)[0]["job"] == job.name


def test_a_job_is_found_by_the_beginning_of_its_name(bare_home: Path, recipe: Path, cli: Cli) -> None:
    job = written(teacher(recipe))
    job.log.write_text("one\ntwo\n")
    assert cli("jobs", "logs", job.name[:12]).out == "one\ntwo\n"
    answer = cli("jobs", "logs", "measure-")
    assert answer.code == 2
    assert "'measure-' names 0 jobs" in answer.err


def test_cancelling_needs_a_name_or_all(bare_home: Path, cli: Cli) -> None:
    assert cli("jobs", "cancel").code == 2
    assert "none of them" in cli("jobs", "cancel", "--all").out


SIGNALLED: dict[str, tuple[dict[str, object], bool]] = {
    "as it is": ({}, True),
    "all processes": ({"pid": -1, "started": None}, False),
    "its group": ({"pid": 0, "started": None}, False),
    "the first process": ({"pid": 1, "started": started_at(1)}, False),
    "True": ({"pid": True}, False),
    "no start": ({"started": None}, False),
    "another start": ({"started": "1"}, False),
}
"""What a lease says instead of the truth, and whether its process is signalled."""


@pytest.mark.parametrize(("changed", "is_signalled"), list(SIGNALLED.values()), ids=list(SIGNALLED))
def test_cancelling_signals_the_process_that_took_the_lease_and_no_other(
    bare_home: Path,
    recipe: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    changed: Mapping[str, object],
    is_signalled: bool,
) -> None:
    signalled: list[tuple[int, int]] = []
    job = written(unit := teacher(recipe))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        named = {**asdict(Holder.here()), "pid": process.pid, "started": started_at(process.pid), **changed}
        with reporting(job, unit):
            job.lease.write_text(json.dumps(named))
            # 0 asks whether a process is there
            monkeypatch.setattr(os, "kill", lambda *given: signalled.append(given) if given[1] else None)
            answer = cli("jobs", "cancel", "--all")
        monkeypatch.undo()
        process.communicate(b"\n")
    assert answer.code == 0
    assert signalled == ([(process.pid, signal.SIGTERM)] if is_signalled else [])
    assert answer.out.startswith("cancelled ") is is_signalled
