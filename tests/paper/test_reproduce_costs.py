"""`reproduce --dry-run`: what it lists, and the units that its estimates come from."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import read_rows

from dire_plug import ui
from dire_plug.data import Dataset
from dire_plug.paper.reproduce import TableRequest, load_target, select, target_names
from dire_plug.paper.reproduce.costs import runs_of, show_costs
from dire_plug.pipeline import Request, Run
from dire_plug.pipeline.rates import Rate
from dire_plug.pipeline.request import read_data
from dire_plug.pipeline.unit_costs import plan_costs
from dire_plug.types.artefact import add_up

RATE = Rate(2e12, "one card", "as assumed here", 24 * 10**9, 1.5)


def request_of_table(target: str, *, scale: str = "smoke", seeds: int = 1, **choice: str) -> TableRequest:
    found = load_target(target)
    base = Request("", engine="native" if scale == "smoke" else "auto", offline=True)
    return TableRequest(found, select(found, **choice), scale, base, seeds=seeds)  # type: ignore[arg-type]


def test_every_run_is_listed_once_with_all_seeds_and_combinations() -> None:
    diversity = runs_of(request_of_table("table-3", row="sre2l", seeds=2))
    assert [(run.arm, run.seed) for run in diversity] == [("baseline", 0), ("baseline", 1), ("dire", 0), ("dire", 1)]
    assert len(runs_of(request_of_table("table-14", row="cd"))) == 8
    assert runs_of(request_of_table("table-15")) == []
    rded = request_of_table("table-17", row="rded")
    assert [(run.method, run.recipe, run.arm) for run in runs_of(rded)] == [("sre2l", "quick", "rded")]
    assert runs_of(replace(rded, rded=Path("syn_data"))) == []
    assert runs_of(request_of_table("table-2", row="infer", column="100")) == []


def test_another_student_is_a_run_that_shares_the_synthesis(bare_home: Path) -> None:
    own, *others = plan_costs(runs_of(request_of_table("table-10", row="vit")))
    assert others
    for run in others:
        if run.request.arm == own.request.arm and run.request.ipc == own.request.ipc:
            added = [unit for unit in run.units if unit.name not in own.costs]
            assert {unit.stage for unit in added} == {"evaluate"}
            # by its own network
            assert {run.costs[unit.name].operations for unit in added}.isdisjoint(
                own.costs[unit.name].operations for unit in own.units if unit.stage == "evaluate"
            )


def test_what_a_table_takes_beside_its_runs_is_named(bare_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ui.show(show_costs([request_of_table("table-15")], rate=RATE)[0])
    printed = capsys.readouterr().out
    assert "no run is needed" in printed
    assert "not estimated: the timing, which runs by itself (table-15)" in printed


def test_missing_data_or_code_is_a_state_with_a_reason_and_still_planned(bare_home: Path) -> None:
    (first, *_) = plan_costs(runs_of(request_of_table("table-2", scale="paper", row="sre2l", column="10")))
    assert "cifar-10 was not found" in first.absent
    assert [unit.part for unit in first.units if unit.stage == "squeeze"] == ["teacher", "independent"]
    # ten passes at IPC 10, each a unit
    assert len([unit for unit in first.units if unit.part.startswith("pass ")]) == 10


def test_each_dataset_is_loaded_once(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def read(planned: Run) -> Dataset:
        loaded.append(planned.resolved.recipe.dataset.name)
        return read_data(planned)

    monkeypatch.setattr("dire_plug.pipeline.unit_costs.read_data", read)
    runs = plan_costs(runs_of(request_of_table("table-3", row="sre2l")))
    assert [run.request.arm for run in runs] == ["baseline", "dire"]
    assert loaded == ["digits"]


def test_a_finished_run_has_no_units_left(finished_home: Path, recipe: Path) -> None:
    (run,) = plan_costs([Request("sre2l", recipe=str(recipe), engine="native")])
    assert (run.units, run.costs, run.absent) == ((), {}, "")


def test_tables_that_share_a_synthesis_have_its_units_once(bare_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Table 9 measures the diversity of runs whose accuracy Table 8 prints
    ui.show(show_costs([request_of_table(name, row="sre2l") for name in ("table-2", "table-3")], rate=RATE)[0])
    rows = {row[0]: row for row in read_rows(capsys.readouterr().out)}
    # the smoke scale has one recipe for all datasets
    assert rows["table-2"][2] == rows["table-2"][3] != "0"
    assert rows["table-3"][2] != rows["table-3"][3] == "0"
    assert rows["table-3"][4] == "–"


def test_ways_to_save_are_shown_one_after_the_other(bare_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = [request_of_table(name, row="sre2l") for name in ("table-2", "table-3")]
    ui.show(show_costs(requests, rate=replace(RATE, operations=1e6))[0])
    printed = capsys.readouterr().out
    begins = ("each run by itself", "what runs share", "a larger IPC", "students are tested")
    rows = [row for row in read_rows(printed) if row[0].startswith(begins)]
    hours = [float(row[1].replace(",", "")) for row in rows]
    # both IPCs of the smoke scale are those of a method that grows
    assert hours[0] > hours[1] > hours[2] >= hours[3] > 0
    runs = plan_costs(one for request in requests for one in runs_of(request))
    planned = add_up({name: cost for run in runs for name, cost in run.costs.items()}.values())
    assert hours[3] == pytest.approx(planned.operations / 1e6 / 3600, abs=0.5)
    assert "mixed precision trained ResNet-50 1.50 times as fast" in printed


def test_the_dry_run_runs_nothing_and_says_what_it_is_based_on(
    cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(finished))
    before = sorted(finished.rglob("*"))
    command = ["reproduce", "table-4", "--row", "sre2l", "--dry-run", "--offline", "--card", "h100"]
    answer = cli(*command)
    assert answer.code == 0, answer.err
    assert "sre2l cifar-100, dire, IPC 100, seed 0" in answer.out
    assert "6 runs, and 0 times other students" in answer.out
    assert "6 can't run here, but are planned: cifar-100 was not found" in answer.out
    assert "time of one h100 at 46.5 TFLOP/s, sustained in training ResNet-50 in TF32 (published: https" in answer.out
    assert "critical path: " in answer.out
    assert sorted(finished.rglob("*")) == before
    # no clock in it
    assert cli(*command).out == answer.out


def test_runs_whose_recipes_lack_the_preset_are_left_out_with_the_reason(
    bare_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dwa = request_of_table("table-4", scale="paper", row="dwa", column="10")
    sre2l = request_of_table("table-4", scale="paper", row="sre2l", column="10")
    both = replace(dwa, cells=(*dwa.cells, *sre2l.cells), base=replace(dwa.base, preset="as-released"))
    ui.show(show_costs([both], rate=RATE)[0])
    printed = capsys.readouterr().out
    assert "2 runs, and 0 times other students" in printed
    assert "2 runs can't be planned: no preset 'as-released'" in printed


def test_a_gpu_is_named_for_estimates_only(cli: Cli) -> None:
    answer = cli("reproduce", "table-4", "--card", "h100")
    assert answer.code == 2
    assert "--card h100 is for the estimates of --dry-run; add that, or leave --card out" in answer.err


@pytest.mark.slow
def test_the_whole_paper_is_planned_without_data_or_code(cli: Cli, bare_home: Path) -> None:
    answer = cli("reproduce", "all", "--dry-run", "--offline", "--card", "h100")
    assert answer.code == 0, answer.err
    assert {row[0] for row in read_rows(answer.out)} >= set(target_names())
    assert re.search(r"passes of syntheses.*: none is made twice", answer.out)
    assert "imagenet-1k was not found" in answer.out
    assert "not planned: " not in answer.out


@pytest.mark.parametrize("option", ["--row sre2l", "--column 10"])
def test_what_is_of_one_table_is_refused_for_all(cli: Cli, option: str) -> None:
    answer = cli("reproduce", "all", *option.split())
    assert answer.code == 2
    assert f"{option.split()[0]} is of one table" in answer.err
