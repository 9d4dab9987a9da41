"""Runs on a real SLURM: the bits and tables of inline, whatever happens to jobs, processes and the node."""

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.slurm import (
    Disturber,
    Watcher,
    cancel_all,
    dire_plug,
    in_queue,
    kill,
    processes_of_units,
    require_cluster,
    running,
)
from support.small_run import outcome, run_folders, wait_until, write_recipe

from dire_plug.executors.jobs import list_jobs

pytestmark = pytest.mark.cluster

ARMS = "baseline,control,dire,random"
LONG: dict[str, Any] = {"recover": {"flags": {"iteration": 150}}, "squeeze": {"teacher": {"epochs": 8}}}
"""Units that run for some seconds, so that what happens to them happens in the middle."""
ATTEMPTS = 40
"""The same command again, at most so often."""


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no job behind; one thread, as many as a job of one core has."""
    require_cluster()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cancel_all()
    yield
    cancel_all()


@pytest.fixture(scope="module")
def long_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose units run for some seconds."""
    return write_recipe(tmp_path_factory.mktemp("recipes") / "long.yaml", LONG)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory, long_recipe: Path) -> list[dict[str, Any]]:
    """What the runs of two arms give inline."""
    home = tmp_path_factory.mktemp("inline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        done = dire_plug(*command(long_recipe))
    assert done.returncode == 0, done.stderr
    return [outcome(folder) for folder in run_folders(home)]


def command(recipe: Path, *more: object) -> list[object]:
    return ["compare", "sre2l", "--recipe", recipe, "--engine", "native", "--arms", "baseline,dire", *more]


def until_done(recipe: Path, *more: object) -> int:
    """Give the same command until it is done; return how often it was given."""
    for attempt in range(1, ATTEMPTS + 1):
        done = dire_plug(*command(recipe, "--executor", "slurm", *more))
        assert "Traceback" not in done.stdout + done.stderr
        if done.returncode == 0:
            return attempt
        assert done.returncode == 1, done.stderr
    raise AssertionError(done.stderr)


def test_a_comparison_has_the_bits_and_the_tables_of_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml")
    arguments = ["compare", "sre2l", "--recipe", recipe, "--engine", "native", "--seeds", 2, "--arms", ARMS]
    tables, bits = {}, {}
    for executor in ("inline", "slurm"):
        home = tmp_path / executor
        monkeypatch.setenv("DIRE_PLUG_HOME", str(home))
        done = dire_plug(*arguments, "--executor", executor)
        assert done.returncode == 0, done.stderr
        tables[executor] = re.sub(r"(?m)^(stored in|images|report|took).*$", "", done.stdout)
        bits[executor] = [outcome(folder) for folder in run_folders(home)]
    assert bits["slurm"] == bits["inline"]
    assert tables["slurm"] == tables["inline"]
    # both networks are an array; what real images are in them follows task by task; the passes wait for a task
    told = done.stderr
    assert re.search(r"slurm: \d+: sre2l tiny, IPC 2: squeeze teacher, and 1 more\n", told)
    assert re.search(r"embed real images in T, and 1 more \(aftercorr:\d+\)", told)
    assert re.search(r"recover baseline, seed 0: pass 0, and \d+ more \(afterok:\d+_0\)", told)
    assert not in_queue()
    listed = dire_plug("jobs", "--all").stdout
    assert f"{len(list_jobs())} finished" in listed


def test_detached_jobs_are_submitted_once_whoever_asks(
    bare_home: Path, long_recipe: Path, inline: list[dict[str, Any]]
) -> None:
    first = dire_plug(*command(long_recipe, "--executor", "slurm", "--detach"))
    assert (first.returncode, "slurm: submitted" in first.stderr) == (0, True)
    before = set(in_queue())
    second = dire_plug(*command(long_recipe, "--executor", "slurm", "--detach"))
    assert "units are being made already" in second.stderr
    assert set(in_queue()) <= before  # nothing more; some may have ended
    assert until_done(long_recipe) == 1
    assert [outcome(folder) for folder in run_folders(bare_home)] == inline
    assert all(job.progress()["attempt"] == 1 for job in list_jobs())


def test_two_commands_at_once_submit_each_unit_once(
    bare_home: Path, long_recipe: Path, inline: list[dict[str, Any]]
) -> None:
    from support.slurm import COMMAND

    arguments = [*COMMAND, *map(str, command(long_recipe, "--executor", "slurm"))]
    drivers = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    with Watcher(bare_home / "store") as watcher:
        told = [driver.communicate()[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], told
    submitted = [file.read_text() for file in (bare_home / "store" / "jobs" / "submissions").glob("*.json")]
    assert all(sum(job.name in text for text in submitted) == 1 for job in list_jobs())
    assert not watcher.twice
    assert [outcome(folder) for folder in run_folders(bare_home)] == inline


def requeue() -> bool:
    for job in running()[:1]:
        return subprocess.run(["scontrol", "requeue", job], capture_output=True, check=False).returncode == 0
    return False


def scancel() -> bool:
    for job in running()[:1]:
        return subprocess.run(["scancel", job], capture_output=True, check=False).returncode == 0
    return False


def kill_a_process() -> bool:
    if found := processes_of_units():
        kill(random.choice(found))
        return True
    return False


def warn_of_the_time_limit() -> bool:
    for job in running()[:1]:
        return subprocess.run(["scancel", "--signal=USR2", job], capture_output=True, check=False).returncode == 0
    return False


def take_the_node_down() -> bool:
    if not running():
        return False
    node = subprocess.run(["sinfo", "--noheader", "--format=%n"], capture_output=True, text=True, check=True)
    name = f"NodeName={node.stdout.split()[0]}"
    subprocess.run(["scontrol", "update", name, "State=DOWN", "Reason=test"], check=True)
    time.sleep(2)
    # refused where the node's daemon has registered since, which brings the node back by itself
    subprocess.run(["scontrol", "update", name, "State=RESUME"], capture_output=True, check=False)
    wait_until(lambda: "down" not in state_of_nodes(), seconds=60)
    return True


def state_of_nodes() -> str:
    return subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("disturb", "times", "pause"),
    [
        (requeue, 5, 6.0),
        (scancel, 10, 6.0),
        (kill_a_process, 30, 3.0),
        (warn_of_the_time_limit, 5, 6.0),
        (take_the_node_down, 1, 15.0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_whatever_happens_the_same_command_ends_with_the_same_bits(
    bare_home: Path,
    long_recipe: Path,
    inline: list[dict[str, Any]],
    disturb: Callable[[], bool],
    times: int,
    pause: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Watcher(bare_home / "store") as watcher, Disturber(disturb, times=times, pause=pause) as disturber:
        attempts = until_done(long_recipe)
    assert disturber.done, "nothing was disturbed"
    assert not watcher.twice
    assert [outcome(folder) for folder in run_folders(bare_home)] == inline
    leftovers = [path for path in (bare_home / "store" / "leases").iterdir()]
    assert not leftovers
    with capsys.disabled():
        print(f"\n{disturb.__name__}: {disturber.done} times, the command was given {attempts} times")


def test_a_plugin_that_was_edited_while_its_job_waits_is_refused(bare_home: Path, long_recipe: Path) -> None:
    arguments = command(long_recipe, "--executor", "slurm", "--slurm", "begin=now+8", "--detach")
    assert dire_plug(*arguments).returncode == 0
    edited = long_recipe.read_text()
    try:
        # the recipe decides the unit's name as a plugin's code does
        long_recipe.write_text(edited.replace("iteration: 150", "iteration: 149"))
        deadline = time.monotonic() + 300
        while in_queue() and time.monotonic() < deadline:
            time.sleep(1)
    finally:
        long_recipe.write_text(edited)
    assert "changed after this was planned" in dire_plug("jobs").stdout


def test_plain_scripts_do_the_same_without_submitit(
    bare_home: Path, long_recipe: Path, inline: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = dire_plug(*command(long_recipe, "--executor", "slurm", "--write-scripts", tmp_path / "scripts"))
    assert done.returncode == 0, done.stderr
    subprocess.run(["bash", tmp_path / "scripts" / "submit.sh"], check=True, capture_output=True)
    deadline = time.monotonic() + 600
    while in_queue() and time.monotonic() < deadline:
        time.sleep(1)
    assert dire_plug(*command(long_recipe)).returncode == 0
    assert all(job.progress()["state"] == "finished" for job in list_jobs())
    assert [outcome(folder) for folder in run_folders(bare_home)] == inline


def test_a_full_disk_is_named_and_costs_nothing_that_is_made(
    long_recipe: Path, inline: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "small"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(home)]  # room for the networks, and little more
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setenv("DIRE_PLUG_HOME", str(home))
        done = dire_plug(*command(long_recipe, "--executor", "slurm"))
        assert done.returncode in (1, 2)
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=500m", home], check=True)
        until_done(long_recipe)
        assert [outcome(folder) for folder in run_folders(home)] == inline
    finally:
        shutil.rmtree(home / "store", ignore_errors=True)
        subprocess.run(["umount", "-l", home], check=False)
