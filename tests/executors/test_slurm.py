"""Arrays, dependencies and scripts for SLURM, planned without a cluster; `tests/cluster` runs them on one."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import native

from dire_plug.executors.jobs import Job, Submitted, job_of, state_of
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.executors.slurm import Array, plan_arrays, submit, write_scripts
from dire_plug.pipeline.work_units import plan_units
from dire_plug.store.units import Unit, waits_for


def unit(stage: str, makes: str, *needs: str) -> Unit:
    made_from = frozenset(f"thing/{one}" for one in needs)
    return Unit(f"{stage} {makes}", stage, makes, (f"thing/{makes}",), made_from, "no:maker", {})


def shape(arrays: list[Array]) -> list[tuple[list[str], int, int | None]]:
    """Return what is made in each array, how many units it waits for, and which array it follows task by task."""
    return [([one.part for one in array.units], len(array.after), array.matches) for array in arrays]


def test_units_that_wait_for_the_same_form_an_array() -> None:
    units = [unit("squeeze", "T"), *(unit("recover", f"pass {k}", "T") for k in range(3))]
    assert shape(plan_arrays(units)) == [(["T"], 0, None), (["pass 0", "pass 1", "pass 2"], 1, None)]


def test_units_that_follow_an_array_one_by_one_match_its_tasks() -> None:
    units = [
        *(unit("recover", f"set {k}") for k in range(3)),
        *(unit("evaluate", f"s{k}", f"set {k}") for k in range(3)),
    ]
    assert shape(plan_arrays(units)) == [(["set 0", "set 1", "set 2"], 0, None), (["s0", "s1", "s2"], 0, 0)]


def test_units_that_follow_a_part_of_an_array_wait_for_their_own_task() -> None:
    sets = [unit("recover", f"set {k}") for k in range(3)]
    units = [*sets, *(unit("evaluate", f"s{k}", f"set {k}") for k in (0, 2))]
    assert shape(plan_arrays(units))[1:] == [(["s0"], 1, None), (["s2"], 1, None)]


def test_a_unit_waits_only_for_what_nothing_else_it_waits_for_makes() -> None:
    units = [unit("squeeze", "T"), unit("embed", "E", "T"), unit("recover", "R", "T", "E")]
    assert [array.after for array in plan_arrays(units)[1:]] == [{units[0].name}, {units[1].name}]


def test_arrays_are_no_longer_than_the_cluster_allows() -> None:
    units = [unit("recover", f"pass {k}") for k in range(7)]
    assert [len(array.units) for array in plan_arrays(units, array_size=3)] == [3, 3, 1]


def test_every_unit_of_a_comparison_comes_after_what_it_waits_for(bare_home: Path, recipe: Path) -> None:
    units = plan_units([native(recipe, arm, seed=seed) for arm in ("baseline", "dire", "random") for seed in (0, 1)])
    arrays, needs = plan_arrays(units), waits_for(units)
    assert sorted(one.name for array in arrays for one in array.units) == sorted(one.name for one in units)
    before: set[str] = set()
    for array in arrays:
        assert all(needs[one.name] <= before for one in array.units)
        before |= {one.name for one in array.units}


def test_plain_scripts_are_valid_shell_and_name_every_unit(bare_home: Path, recipe: Path, tmp_path: Path) -> None:
    units = plan_units([native(recipe), native(recipe, "dire")])
    settings = ExecutorSettings("slurm", sbatch={"partition": "gpu", "exclusive": "true"}, max_jobs=4)
    write_scripts(units, settings, tmp_path / "scripts")
    text = ""
    for file in sorted((tmp_path / "scripts").iterdir()):
        subprocess.run(["bash", "-n", file], check=True)
        text += file.read_text()
    assert all(str(job_of(one).folder) in text for one in units)
    assert "#SBATCH --partition=gpu\n" in text
    assert "#SBATCH --exclusive\n" in text
    assert "#SBATCH --array=0-1%4\n" in text
    assert "--dependency=" in text


def test_without_slurm_the_executor_says_what_to_do(
    bare_home: Path, recipe: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--executor", "slurm")
    assert answer.code == 2
    assert "sbatch isn't found; run this on a login node" in answer.err


# The state of a job.


@pytest.fixture
def job(bare_home: Path) -> tuple[Job, Unit]:
    """A unit that was planned, with its job folder."""
    one = unit("recover", "pass 0")
    job_of(one).write(one)
    return job_of(one), one


TASK = Submitted("12_3", when=1000.0)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING (Priority)", "queued: Priority"),
        ("PENDING (Dependency)", "queued: Dependency"),
        ("RUNNING (None)", "running"),
        ("COMPLETED (None)", "running"),
        ("CANCELLED (None)", "cancelled: it never started; the cluster says CANCELLED"),
        ("FAILED (NonZeroExitCode)", "failed: it ended before the unit began; the cluster says FAILED; see /"),
        ("", "cancelled: it never started"),
    ],
)
def test_a_job_that_never_wrote_has_the_state_of_the_queue(job: tuple[Job, Unit], word: str, state: str) -> None:
    queue = {TASK.id: word} if word else {}
    assert str(state_of(*job, queue, TASK)).startswith(state)


def test_a_job_that_wrote_why_it_failed_says_so_whatever_the_cluster_does(job: tuple[Job, Unit]) -> None:
    job[0].set_state("failed", why="squeeze: diverged")
    assert str(state_of(*job)) == "failed: squeeze: diverged"


def write_progress(where: Job, **facts: object) -> None:
    (where.folder / "progress.json").write_text(json.dumps(facts))


def test_a_job_whose_process_was_killed_is_lost(job: tuple[Job, Unit]) -> None:
    write_progress(job[0], state="running", heartbeat=0, job={"id": TASK.id})
    state = state_of(*job, {TASK.id: "OUT_OF_MEMORY (None)"}, TASK)
    assert state.word == "lost"
    assert "the cluster says OUT_OF_MEMORY" in state.why
    assert not state.live


def test_a_job_with_a_heartbeat_runs_although_the_queue_does_not_show_it(job: tuple[Job, Unit]) -> None:
    write_progress(job[0], state="running", heartbeat=time.time(), job={"id": TASK.id})
    assert state_of(*job, {}, TASK).word == "running"


def test_a_job_that_was_told_to_end_says_so(job: tuple[Job, Unit]) -> None:
    write_progress(job[0], state="interrupted", why="SIGUSR2: told to end", job={"id": TASK.id})
    assert str(state_of(*job, {}, TASK)) == "interrupted: SIGUSR2: told to end"
    assert state_of(*job, {TASK.id: "CANCELLED (None)"}, TASK).word == "cancelled"


def test_a_later_attempt_by_another_executor_counts(job: tuple[Job, Unit]) -> None:
    write_progress(job[0], state="running", heartbeat=time.time(), began=TASK.when + 1, job=None)
    assert state_of(*job, {TASK.id: "CANCELLED (None)"}, TASK).word == "running"


def test_a_unit_that_the_store_has_is_finished(finished_home: Path) -> None:
    (entry,) = sorted((finished_home / "store" / "student").iterdir())
    one = replace(unit("evaluate", "student"), makes=(f"student/{entry.name}",))
    assert state_of(job_of(one), one, {TASK.id: "RUNNING (None)"}, TASK).word == "finished"
    file = next(path for path in entry.iterdir() if path.name != "entry.json")
    file.chmod(0o644)
    file.write_text(file.read_text() + " ")
    assert state_of(job_of(one), one).word == "waiting"  # damaged: to be made again


# Submitting, to a cluster of shell scripts.


@pytest.fixture
def fake_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that number what is submitted and write its command line down; the queue is empty."""
    tools, log = tmp_path / "bin", tmp_path / "sbatch.log"
    tools.mkdir()
    scripts = {
        "sbatch": f'echo "$*" >> {log}; n=$(wc -l < {log}); case "$*" in *--parsable*) echo "$n;here";; '
        '*) echo "Submitted batch job $n";; esac',
        "squeue": "true",
        "scontrol": "true",
        "srun": "true",  # submitit looks for it
    }
    for name, body in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return log


def test_the_plain_scripts_submit_each_after_what_it_waits_for(
    bare_home: Path, recipe: Path, tmp_path: Path, fake_cluster: Path
) -> None:
    folder = tmp_path / "my scripts"
    write_scripts(plan_units([native(recipe), native(recipe, "dire")]), ExecutorSettings("slurm"), folder)
    done = subprocess.run(["bash", folder / "submit.sh"], capture_output=True, text=True, check=True)
    submitted = fake_cluster.read_text().splitlines()
    assert len(submitted) == len(list(folder.glob("*.sbatch")))
    assert "--dependency=afterok:1_0 " in submitted[1]
    assert "1: sre2l tiny, IPC 2: squeeze teacher, and 1 more" in done.stdout


def test_submitted_jobs_get_no_option_that_was_not_written_down(
    bare_home: Path, recipe: Path, fake_cluster: Path
) -> None:
    submit(plan_units([native(recipe)]), ExecutorSettings("slurm", sbatch={"partition": "gpu"}))
    texts = [file.read_text() for file in (bare_home / "store/jobs/submissions/submitit").glob("*submission.sh")]
    assert texts
    known = "array comment dependency job-name kill-on-invalid-dep nodes open-mode output partition requeue signal"
    for text in texts:
        lines = [line for line in text.splitlines() if line.startswith("#SBATCH --")]
        assert {line.removeprefix("#SBATCH --").partition("=")[0] for line in lines} <= set(known.split())


def test_a_second_command_submits_nothing_while_a_process_makes_the_units(
    bare_home: Path, recipe: Path, fake_cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units = plan_units([native(recipe)])
    for one in units:
        job_of(one).write(one)
        write_progress(job_of(one), state="running", heartbeat=time.time(), job=None, began=time.time())
    submit(units, ExecutorSettings("slurm"))
    assert not fake_cluster.exists()
    assert f"{len(units)} of {len(units)} units are being made already" in capsys.readouterr().err
