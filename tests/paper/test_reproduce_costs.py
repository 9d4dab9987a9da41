"""`reproduce --dry-run`: what it lists, and the rates and units that its estimates come from."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import read_rows

from dire_plug import ui
from dire_plug.data import Dataset
from dire_plug.files import read_json
from dire_plug.paper.reproduce import TableRequest, load_target, select, target_names
from dire_plug.paper.reproduce.costs import (
    ABSENT,
    FINISHED,
    NEW,
    Rate,
    duration,
    estimate,
    find_rate,
    left_out,
    plan_runs,
    runs_of,
    show_all,
)
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.network_costs import count_pass
from dire_plug.pipeline.request import read_data
from dire_plug.pipeline.unit_costs import add_up, count_units

# Rates.


def test_a_rate_is_the_measured_seconds_by_the_operations_of_that_run(
    finished: Path, baseline: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(finished))
    rate = find_rate(plan_run(Request("sre2l", recipe=str(recipe), arm="dire", engine="native")))
    one = count_pass(architecture="resnet-small", outputs=100, stem="small", size=8, inverted=True)
    assert rate.measured == read_json(baseline / "metrics.json")["recover"]["seconds"]
    assert rate.seconds == pytest.approx(rate.measured / (3 * 2 * 10 * one.both))  # iterations × images
    assert rate.what == f"the synthesis of {baseline.name}"


def test_passes_of_several_machines_give_no_rate_so_steps_are_made(home: Path, baseline: Path, recipe: Path) -> None:
    copy = home / "runs" / "sre2l" / recipe.stem / baseline.name
    shutil.copytree(baseline, copy)
    plan = plan_run(Request("sre2l", recipe=str(recipe), engine="native", device="cpu"))
    assert find_rate(plan).what == f"the synthesis of {baseline.name}"
    metrics = read_json(copy / "metrics.json")
    metrics["recover"]["hardware"] = None
    (copy / "metrics.json").write_text(json.dumps(metrics))
    rate, one = find_rate(plan), count_pass(architecture="resnet-small", outputs=100, stem="small", size=8)
    assert rate.what == "a step of 4 images of 8 pixels through resnet-small, run here (median of 3)"
    assert rate.operations == 4 * one.both
    assert rate.measured > 0


# The list.


def request_of_table(target: str, *, scale: str = "smoke", seeds: int = 1, **choice: str) -> TableRequest:
    found = load_target(target)
    base = Request("", engine="native" if scale == "smoke" else "auto", offline=True)
    return TableRequest(found, select(found, **choice), scale, base, seeds=seeds)  # type: ignore[arg-type]


def test_every_run_is_listed_once_with_all_seeds_and_combinations() -> None:
    diversity = runs_of(request_of_table("table-3", row="sre2l", seeds=2))
    assert [(run.arm, run.seed) for run in diversity] == [("baseline", 0), ("baseline", 1), ("dire", 0), ("dire", 1)]
    assert len(runs_of(request_of_table("table-14", row="cd"))) == 8
    assert runs_of(request_of_table("table-15")) == []
    assert runs_of(request_of_table("table-17", row="rded")) == []
    assert runs_of(request_of_table("table-2", row="infer", column="100")) == []


def test_another_student_is_a_run_that_shares_the_synthesis(bare_home: Path) -> None:
    own, *others = plan_runs(runs_of(request_of_table("table-10", row="sre2l")))
    assert others
    for run in others:
        if run.request.arm == own.request.arm and run.request.ipc == own.request.ipc:
            assert {unit.stage for unit in run.own} == {"evaluate"}
            shared = {unit.name for unit in run.units} - {unit.name for unit in run.own}
            assert shared < {unit.name for unit in own.units}


def test_what_a_table_takes_beside_its_runs_is_named() -> None:
    assert left_out([request_of_table("table-2"), request_of_table("table-10")]) == []
    timing, clip = request_of_table("table-15"), request_of_table("table-16", column="vendi-clip")
    told = "not estimated: embeddings of another network (table-16), the timing, which runs by itself (table-15)"
    assert left_out([timing, clip]) == [told]


def test_missing_data_or_code_is_a_state_with_a_reason_and_still_planned(bare_home: Path) -> None:
    (first, *_) = plan_runs(runs_of(request_of_table("table-2", scale="paper", row="sre2l", column="10")))
    assert first.state == ABSENT
    assert "cifar-10 was not found" in first.reason
    assert first.networks == ["teacher", "independent"]
    # ten passes at IPC 10, each a unit
    assert len([unit for unit in first.own if unit.part.startswith("pass ")]) == 10


def test_each_dataset_is_loaded_once(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def read(planned: Run) -> Dataset:
        loaded.append(planned.resolved.recipe.dataset.name)
        return read_data(planned)

    monkeypatch.setattr("dire_plug.paper.reproduce.costs.read_data", read)
    runs = plan_runs(runs_of(request_of_table("table-3", row="sre2l")))
    assert [run.request.arm for run in runs] == ["baseline", "dire"]
    assert loaded == ["digits"]


def test_what_runs_share_counts_in_the_first_one(bare_home: Path) -> None:
    first, second = plan_runs(runs_of(request_of_table("table-3", row="sre2l")))
    assert (first.networks, second.networks) == (["teacher", "independent"], [])
    assert (first.state, second.state) == (NEW, NEW)
    assert [unit.part for unit in second.units if unit.stage == "squeeze"] == ["teacher", "independent"]


def test_a_finished_run_has_no_units_left(finished_home: Path, recipe: Path) -> None:
    (run,) = plan_runs([Request("sre2l", recipe=str(recipe), engine="native")])
    assert (run.state, run.units, run.own) == (FINISHED, (), ())


def test_tables_that_share_a_synthesis_have_its_units_once(bare_home: Path) -> None:
    # Table 9 measures the diversity of runs whose accuracy Table 8 prints
    wanted = [runs_of(request_of_table(name, scale="paper", row="sre2l")) for name in ("table-8", "table-9")]
    alone = [{unit.name for run in plan_runs(found) for unit in run.own} for found in wanted]
    together = [unit.name for run in plan_runs(one for found in wanted for one in found) for unit in run.own]
    assert len(together) == len(set(together)) == len(set.union(*alone)) < sum(map(len, alone))


def test_time_is_the_rate_times_what_is_left(bare_home: Path) -> None:
    (cost, _) = estimate(request_of_table("table-3", row="sre2l"))
    assert cost.rate is not None
    left = replace(cost, rate=Rate(2.0, 2e9, "a run", "a machine"))
    assert left.seconds == pytest.approx(1e-9 * cost.cost.operations)
    assert cost.cost == add_up(count_units(cost.run.own).values())
    assert replace(left, rate=None).seconds is None


def test_the_dry_run_runs_nothing_and_says_what_it_is_based_on(
    cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(finished))
    before = sorted(finished.rglob("*"))
    answer = cli("reproduce", "table-4", "--row", "sre2l", "--dry-run", "--offline")
    assert answer.code == 0, answer.err
    assert "sre2l cifar-100, dire, IPC 100, seed 0" in answer.out
    assert "6 runs, 6 of them to be run" in answer.out
    assert "[1] cifar-100 was not found" in answer.out
    assert "GPU-hours at 10 TFLOP/s (assumed, see --tflops; not measured)" in answer.out
    assert "critical path: " in answer.out
    assert "time by a step of 4 images of 32 pixels through resnet-18, run here" in answer.out
    assert sorted(finished.rglob("*")) == before


def test_tables_are_planned_together(bare_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ui.show(show_all([request_of_table(name, row="sre2l") for name in ("table-2", "table-3", "table-15")], rate=2e12))
    printed = capsys.readouterr().out
    rows = {row[0]: row for row in read_rows(printed)}
    # the smoke scale has one recipe for all datasets
    assert rows["table-2"][2] == rows["table-2"][3] != "0"
    assert rows["table-3"][2] != rows["table-3"][3] == "0"
    assert re.search(r"passes of syntheses.*: none is made twice", printed)
    assert "GPU-hours at 2 TFLOP/s" in printed
    assert rows["1"][2] == "0%"
    assert "not estimated: the timing, which runs by itself (table-15)" in printed
    assert not bare_home.joinpath("store").exists()


@pytest.mark.slow
def test_the_whole_paper_is_planned_without_data_or_code(cli: Cli, bare_home: Path) -> None:
    answer = cli("reproduce", "all", "--dry-run", "--offline")
    assert answer.code == 0, answer.err
    assert {row[0] for row in read_rows(answer.out)} >= set(target_names())
    assert re.search(r"passes of syntheses.*: none is made twice", answer.out)
    assert "imagenet-1k was not found" in answer.out
    assert "not planned: " not in answer.out


@pytest.mark.parametrize("option", ["--row sre2l", "--column 10", "--json"])
def test_what_is_of_one_table_is_refused_for_all(cli: Cli, option: str) -> None:
    answer = cli("reproduce", "all", *option.split())
    assert answer.code == 2
    assert f"{option.split()[0]} is of one table" in answer.err


@pytest.mark.parametrize(("seconds", "text"), [(8, "8 s"), (90, "1.5 min"), (7_200, "2 h"), (864_000, "10 d")])
def test_a_duration_has_a_unit_that_suits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
