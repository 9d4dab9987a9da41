"""Units of work, and local processes that make them: the bits of one process, failures named, nothing made twice."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cli import Cli
from support.small_run import (
    PROGRAM,
    forget,
    native,
    only_run,
    outcome,
    read_rows,
    run_folders,
    wait_until,
    when_made,
    write_recipe,
)

from dire_plug.acceleration import find_able
from dire_plug.errors import DirePlugError
from dire_plug.executors.dispatch import Runner
from dire_plug.executors.jobs import list_jobs
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.files import format_bytes
from dire_plug.pipeline import Request, run_arm
from dire_plug.pipeline.rates import find_rate
from dire_plug.pipeline.unit_costs import plan_costs
from dire_plug.pipeline.work_units import plan_units
from dire_plug.store.lease import started_at
from dire_plug.store.units import Unit, waits_for


def units_by_title(*requests: Request) -> dict[str, Unit]:
    return {unit.title: unit for unit in plan_units(requests)}


def test_a_unit_waits_for_what_it_is_made_from(bare_home: Path, recipe: Path) -> None:
    units = units_by_title(native(recipe, "dire"))
    assert list(units) == [
        "squeeze teacher",
        "squeeze independent",
        "embed real images in T",
        "embed real images in I",
        "measure real in T",
        "measure real in I",
        "recover dire, seed 0",
        "evaluate dire, seed 0: resnet-small 0",
        "measure dire, seed 0",
    ]
    (teacher,) = units["squeeze teacher"].makes
    embedded = units["embed real images in T"]
    assert teacher in embedded.needs & units["recover dire, seed 0"].needs
    assert set(embedded.makes) & units["recover dire, seed 0"].needs
    assert not units["squeeze teacher"].needs


def test_every_pass_waits_for_its_real_start_images(bare_home: Path, tmp_path: Path) -> None:
    units = plan_units([native(write_recipe(tmp_path / "real.yaml", {"recover": {"start": "real"}}))])
    (prepare,) = (unit.name for unit in units if unit.stage == "prepare")
    passes = [unit.name for unit in units if unit.stage == "recover"]
    assert len(passes) == 2
    assert all(prepare in waits_for(units)[one] for one in passes)


def test_passes_that_keep_no_state_are_units_of_their_own(bare_home: Path, recipe: Path) -> None:
    titles = units_by_title(native(recipe))
    assert {"recover baseline, seed 0: pass 0", "recover baseline, seed 0: pass 1"} <= titles.keys()


def test_batches_of_a_regrouped_pass_are_units_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regrouped = write_recipe(tmp_path / "regrouped.yaml", {"recover": {"flags": {"batch-size": 40}}})
    request, found = native(regrouped, "dire"), {}
    for executor in ("units", "inline"):
        forget()
        monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / executor))
        if executor == "units":
            units = plan_units([request])
            batches = [unit for unit in units if " batch " in unit.part]
            assert [unit.part for unit in batches] == ["pass 0 batch 0", "pass 0 batch 1", "pass 0 batch 2"]
            student = next(unit for unit in units if unit.stage == "evaluate")
            assert {unit.name for unit in batches} <= waits_for(units)[student.name]
            for unit in (*(one for one in units if one not in batches), *reversed(batches)):
                if unit.stage not in ("evaluate", "measure"):
                    unit.make(log=tmp_path / "log")
        run_arm(request)
        found[executor] = outcome(only_run(tmp_path / executor))
        assert plan_units([request]) == []
    assert found["units"] == found["inline"]


def test_arms_share_the_units_that_make_the_same(bare_home: Path, recipe: Path) -> None:
    alone = [len(plan_units([native(recipe, arm)])) for arm in ("baseline", "dire")]
    assert (
        len(plan_units([native(recipe), native(recipe, "dire")])) == sum(alone) - 6
    )  # networks, and real images in them


def test_a_unit_that_was_half_made_keeps_its_name(bare_home: Path, recipe: Path) -> None:
    before = units_by_title(native(recipe))["embed real images in T"]
    for title in ("squeeze teacher", "embed real images in T"):
        units_by_title(native(recipe))[title].make(log=bare_home / "log")
    for entry in (bare_home / "store" / "embeddings").iterdir():
        shutil.rmtree(entry)
        break
    forget()
    assert units_by_title(native(recipe))["embed real images in T"].name == before.name


def test_nothing_is_made_from_a_damaged_entry(finished_home: Path, recipe: Path, tmp_path: Path) -> None:
    other = write_recipe(tmp_path / "tiny.yaml", {"recover": {"flags": {"iteration": 4}}})
    unit = units_by_title(native(other))["recover baseline, seed 0: pass 0"]
    for file in (finished_home / "store").glob("network/*/network.safetensors"):
        file.chmod(0o644)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(DirePlugError, match="from which it is made, was damaged, or edited; run the same"):
        unit.make(log=tmp_path / "log")


def test_a_finished_run_has_no_units_left(finished_home: Path, recipe: Path) -> None:
    assert plan_units([native(recipe)]) == []
    for kind in ("embeddings", "radii", "reference"):
        shutil.rmtree(finished_home / "store" / kind)
    forget()
    assert plan_units([native(recipe)]) == []  # made only for what is there
    shutil.rmtree(finished_home / "store" / "diversity")
    assert len(plan_units([native(recipe)])) == 5


@pytest.mark.slow
def test_local_processes_make_the_bits_of_one(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [native(recipe, arm, seed=seed) for arm in ("baseline", "dire", "random") for seed in (0, 1)]
    found = {}
    for executor in ("inline", "local"):
        forget()
        monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / executor))
        # the number of threads changes bits, so the processes get that of this one
        monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        if executor == "local":
            Runner(ExecutorSettings("local", jobs=2)).prepare(requests)
            made = when_made(tmp_path / executor)
        for request in requests:
            run_arm(request)
        found[executor] = [outcome(folder) for folder in run_folders(tmp_path / executor)]
    assert found["local"] == found["inline"]
    assert made.items() <= when_made(tmp_path / "local").items()  # running them afterwards made nothing again
    assert "units of work in 2 processes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("when", ["as they start", "as they work"])
def test_the_processes_of_a_killed_command_end_too(bare_home: Path, tmp_path: Path, when: str) -> None:
    long = {"epochs": 100_000}
    recipe = write_recipe(tmp_path / "long.yaml", {"squeeze": {"teacher": long, "independent": long}})
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--executor", "local", "--jobs", "2")
    command = [sys.executable, "-c", PROGRAM, *map(str, line)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            # the file tells the pid as soon as the process runs
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_until(lambda: len(workers.read_text().split()) == 2)
            pids = list(map(int, workers.read_text().split()))
            if when == "as they work":
                wait_until(lambda: sum(job.progress().get("done", 0) > 0 for job in list_jobs()) == 2)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(started_at, pids)), seconds=20)
    assert [job.progress()["why"] for job in list_jobs() if job.progress()] == (
        ["SIGTERM: told to end"] * 2 if when == "as they work" else []
    )
    assert not list(bare_home.rglob("unit.lease"))


@pytest.mark.slow
def test_a_failed_unit_is_named_and_the_others_are_made(bare_home: Path, tmp_path: Path) -> None:
    broken = write_recipe(tmp_path / "broken.yaml", {"squeeze": {"teacher": {"lr": 1e30, "epochs": 2}}})
    runner = Runner(ExecutorSettings("local"))
    runner.prepare([native(broken)])
    with pytest.raises(DirePlugError) as error:
        runner.run(native(broken))
    told = str(error.value)
    assert "units of work weren't made; what is finished is kept, and the same command resumes" in told
    assert told.splitlines()[-1].startswith("sre2l broken, IPC 2: squeeze teacher: ")
    assert "not started, since they need these: sre2l broken, IPC 2: embed real images in T" in told
    assert "squeeze teacher" in units_by_title(native(broken))
    assert "squeeze independent" not in units_by_title(native(broken))


def test_a_unit_that_would_make_something_else_is_refused(bare_home: Path, recipe: Path, tmp_path: Path) -> None:
    unit = units_by_title(native(recipe))["squeeze teacher"]
    changed = {**unit.subject, "settings": ["squeeze.teacher.lr=0.5"]}
    with pytest.raises(DirePlugError, match="changed after this was planned, so network/"):
        replace(unit, subject=changed).make(log=tmp_path / "log")


def test_a_dry_run_lists_units_and_what_they_wait_for(bare_home: Path, recipe: Path, cli: Cli) -> None:
    answer = cli(
        "compare",
        "sre2l",
        "--recipe",
        recipe,
        "--engine",
        "native",
        "--arms",
        "baseline,dire",
        "--dry-run",
        "--card",
        "h100",
    )
    assert answer.code == 0
    units = plan_units([native(recipe), native(recipe, "dire")])
    assert f"{len(units)} units of work that the store lacks" in answer.out
    assert "recover baseline, seed 0: passes (2)" in answer.out
    assert not (bare_home / "store").exists()


def test_a_dry_run_says_what_units_cost(bare_home: Path, recipe: Path, cli: Cli) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--dry-run", "--card", "rtx-4090")
    rows = {row[0]: row for row in read_rows(answer.out)}
    (planned,) = plan_costs([native(recipe)])
    teacher = planned.costs[units_by_title(native(recipe))["squeeze teacher"].name]
    time = find_rate("rtx-4090").time(teacher.operations)
    assert rows["squeeze teacher"][2:] == [time, format_bytes(teacher.memory), format_bytes(teacher.disk)]
    assert "time of one rtx-4090 at 17.7 TFLOP/s" in answer.out


def test_jobs_get_what_fast_stands_for_and_refuse_what_they_cannot(
    bare_home: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Unit] = []

    def keep(units: Sequence[Unit], settings: ExecutorSettings) -> dict[str, str]:
        made.extend(units)
        return {}

    monkeypatch.setattr("dire_plug.executors.local.run_local", keep)
    asked = native(recipe, accelerate="fast")
    Runner(ExecutorSettings(kind="local")).prepare([asked])
    assert {tuple(unit.subject["able"]) for unit in made} == {find_able("cpu")}
    with pytest.raises(DirePlugError, match="it isn't known what the nodes can do; name it, --slurm able="):
        Runner(ExecutorSettings(kind="slurm")).prepare([asked])
    assert Runner(ExecutorSettings(kind="slurm", able=("tf32",))).pin(asked).able == ("tf32",)
    able = replace(asked, able=("bf16", "tf32"))
    unit = next(one for one in plan_units([able]) if one.part == "teacher")
    missing = {"bf16": "an old processor"}
    monkeypatch.setattr("dire_plug.acceleration.find_missing", lambda device: missing)
    with pytest.raises(DirePlugError, match=r"can't do \(bf16: an old processor\)"):
        unit.make(log=tmp_path / "log.txt")


def test_rerun_and_several_processes_are_refused_together(bare_home: Path, recipe: Path, cli: Cli) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--executor", "local", "--rerun", "squeeze")
    assert answer.code == 2
    assert "--rerun and --executor local can't be combined" in answer.err


def test_jobs_need_several_processes(bare_home: Path, recipe: Path, cli: Cli) -> None:
    answer = cli("compare", "sre2l", "--recipe", recipe, "--jobs", 4)
    assert answer.code == 2
    assert "--jobs 4 needs --executor local" in answer.err
