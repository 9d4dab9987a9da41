"""Units of work of `evaluate` and `rank`: what they make is what the commands would make."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import only_run

from dire_plug.errors import DirePlugError
from dire_plug.sets.evaluate import evaluate_set
from dire_plug.sets.opened import SetRequest
from dire_plug.sets.rank import rank_set
from dire_plug.sets.units import plan_set_units
from dire_plug.store.units import Unit, waits_for


def make_all(units: list[Unit], log: Path) -> None:
    for unit in units:
        Unit.from_json(unit.to_json()).make(log=log)


@pytest.fixture
def request_of_run(finished_home: Path) -> SetRequest:
    """A set: the images of a finished run."""
    return SetRequest(only_run(finished_home))


def test_each_student_of_a_set_is_a_unit(request_of_run: SetRequest, tmp_path: Path) -> None:
    chosen = {"per_set": 3, "epochs": 1}
    units = plan_set_units("evaluate", request_of_run, **chosen)
    assert [unit.part for unit in units] == [f"students, resnet-small {k}" for k in range(3)]
    make_all(units, tmp_path / "log")
    assert plan_set_units("evaluate", request_of_run, **chosen) == []
    assert evaluate_set(request_of_run, per_set=3, epochs=1).reused


def test_a_missing_teacher_is_a_unit_that_students_wait_for(request_of_run: SetRequest) -> None:
    other = replace(request_of_run, settings=("squeeze.teacher.lr=0.06",))
    units = plan_set_units("evaluate", other, epochs=1)
    teacher, student = units
    assert teacher.title == "squeeze teacher"
    assert waits_for(units)[student.name] == {teacher.name}


@pytest.mark.slow
def test_a_ranking_of_made_units_trains_nothing(request_of_run: SetRequest, tmp_path: Path) -> None:
    units = plan_set_units("rank", request_of_run, rates=(0.01, 0.05))
    assert {"set hard at 0.01, resnet-small 0", "set hard at 0.05, resnet-small 0"} <= {unit.part for unit in units}
    make_all(units, tmp_path / "log")
    store = request_of_run.path.parents[3] / "store" / "student"
    before = sorted(store.iterdir())
    rank_set(request_of_run, rates=(0.01, 0.05))
    assert sorted(store.iterdir()) == before


def test_a_student_is_made_as_planned_where_fast_stands_for_more(
    request_of_run: SetRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a login node without bfloat16, whose jobs run where there is some."""
    asked = replace(request_of_run, accelerate="fast", able=())
    units = plan_set_units("evaluate", asked, per_set=1, epochs=1)
    monkeypatch.setattr("dire_plug.acceleration.find_missing", lambda device: {})
    make_all(units, tmp_path / "log")
    assert plan_set_units("evaluate", asked, per_set=1, epochs=1) == []


def test_a_student_is_not_made_where_fast_stands_for_less(
    request_of_run: SetRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = plan_set_units("evaluate", replace(request_of_run, accelerate="fast", able=("bf16",)), epochs=1)
    monkeypatch.setattr("dire_plug.acceleration.find_missing", lambda device: {"bf16": "an old processor"})
    with pytest.raises(DirePlugError, match=r"can't do \(bf16: an old processor\)"):
        make_all(units, tmp_path / "log")


def test_evaluate_takes_an_executor(request_of_run: SetRequest, cli: Cli) -> None:
    answer = cli("evaluate", request_of_run.path, "--jobs", 2)
    assert answer.code == 2
    assert "--jobs 2 needs --executor local" in answer.err


def test_a_dry_run_lists_the_students_that_are_missing(request_of_run: SetRequest, cli: Cli) -> None:
    answer = cli("evaluate", request_of_run.path, "--per-set", 3, "--epochs", 1, "--dry-run")
    assert answer.code == 0
    assert "3 units of work that the store lacks" in answer.out
    assert "students, resnet-small 2" in answer.out
    assert cli("rank", request_of_run.path, "--dry-run").out.count("random hard at 0.01, resnet-small 0") == 1
