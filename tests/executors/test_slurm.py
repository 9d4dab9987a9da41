"""Arrays, dependencies and scripts for SLURM, planned without a cluster; `tests/cluster` runs them on one."""

import subprocess
from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import native

from dire_plug.executors.jobs import Job, job_of, state_of
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.executors.slurm import Array, plan_arrays, write_scripts
from dire_plug.pipeline.work_units import Unit, plan_units, waits_for


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
    one = unit("recover", "pass 0")
    return job_of(one), one


QUEUE = "12_3"


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING (Priority)", "queued: Priority"),
        ("PENDING (Dependency)", "queued: Dependency"),
        ("RUNNING (None)", "running"),
        ("COMPLETED (None)", "running"),
        ("CANCELLED (None)", "cancelled: never started; the cluster says CANCELLED"),
        ("", "cancelled: never started"),
    ],
)
def test_a_job_that_never_wrote_has_the_state_of_the_queue(job: tuple[Job, Unit], word: str, state: str) -> None:
    queue = {QUEUE: word} if word else {}
    assert str(state_of(*job, queue, QUEUE)) == state


def test_a_job_that_wrote_why_it_failed_says_so_whatever_the_cluster_does(job: tuple[Job, Unit]) -> None:
    job[0].set_state("failed", why="squeeze: diverged")
    assert str(state_of(*job)) == "failed: squeeze: diverged"


def test_a_job_that_ended_without_a_word_is_lost(job: tuple[Job, Unit]) -> None:
    (job[0].folder / "progress.json").write_text('{"state": "running", "heartbeat": 0, "job": {"id": "12_3"}}')
    state = state_of(*job, {QUEUE: "OUT_OF_MEMORY (None)"}, QUEUE)
    assert state.word == "lost"
    assert "the cluster says OUT_OF_MEMORY" in state.why
    assert not state.live


def test_a_unit_that_the_store_has_is_finished(job: tuple[Job, Unit], bare_home: Path) -> None:
    entry = bare_home / "store" / job[1].makes[0]
    entry.mkdir(parents=True)
    (entry / "entry.json").write_text("{}")
    assert state_of(*job, {QUEUE: "RUNNING (None)"}, QUEUE).word == "finished"
