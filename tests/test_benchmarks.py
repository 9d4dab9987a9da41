"""The benchmark of a step's share: its arithmetic, its turns on a toy upstream, and the real one at its smallest."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from git.exc import GitCommandError
from support.paths import ROOT
from support.small_run import read_rows
from support.third_party_plugin import ThirdParty
from support.upstreams import vendor_or_skip

from dire_plug.errors import DirePlugError
from dire_plug.methods.sre2l import SRe2L
from dire_plug.plugins import known, load_adapter
from dire_plug.types import RealEmbeddings
from dire_plug.upstream.interleave import TimedStep

BENCHMARKS = ROOT / "benchmarks"
ARMS = ("without", "ours")
STAND_IN = """\
import torch


class DiversityLoss(torch.nn.Module):
    def __init__(self, settings, classes):
        super().__init__()
        self.settings, self.classes = settings, classes

    def forward(self, rows, real):
        blocks = rows.reshape(self.classes, self.settings.IPC, -1).mean(1)
        return self.settings.multiplier * sum((block * one.mean(0)).sum() for block, one in zip(blocks, real))
"""
"""Has the release's interface, and depends on which rows it gets for which class."""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A stand-in for a checkout of the authors' release."""
    script = tmp_path / "release" / importlib.import_module("diversity_loss").SCRIPT
    script.parent.mkdir(parents=True)
    script.write_text(STAND_IN)
    return tmp_path / "release"


def make_rounds(*steps: tuple[int, float, float]) -> list[dict[str, Any]]:
    return [
        {
            arm: TimedStep(step, images=1, loss=8.0, term=1.0, wall=seconds[at], cpu=0.0, call=0.003, fresh=False)
            for at, arm in enumerate(ARMS)
        }
        for step, *seconds in steps
    ]


def test_the_first_steps_of_all_and_of_a_slot_are_not_counted() -> None:
    share = importlib.import_module("step_share")
    rounds = make_rounds(*((step, 1.0, 1.0) for step in (0, 1, 2, 0, 1, 2)))
    assert [one["ours"].step for one in share.counted(rounds, 2)] == [2, 1, 2]
    assert [one["ours"].step for one in share.counted(rounds, 1)] == [1, 2, 1, 2]


def test_the_first_step_in_each_network_is_not_counted() -> None:
    share = importlib.import_module("step_share")
    rounds = make_rounds(*((step, 1.0, 1.0) for step in range(4)))
    rounds[2]["ours"] = replace(rounds[2]["ours"], fresh=True)
    assert [one["ours"].step for one in share.counted(rounds, 1)] == [1, 3]


def test_ratios_are_of_one_round_and_a_share_is_that_of_the_longer_step() -> None:
    share = importlib.import_module("step_share")
    rounds = make_rounds((2, 1.0, 1.25), (3, 4.0, 4.0), (4, 2.0, 4.0))
    found = share.ratios(rounds, "ours", "without", clock="wall")
    assert found == [1.25, 1.0, 2.0]
    assert list(map(share.share, found)) == pytest.approx([20, 0, 50])
    assert share.spread([1.0, 2.0, 3.0, 4.0, 9.0], "{:.0f}".format) == "3 [2–4]"


def test_a_row_holds_milliseconds_ratios_shares_and_n() -> None:
    share = importlib.import_module("step_share")
    rounds = make_rounds((2, 1.0, 1.25), (3, 2.0, 2.5))
    cells = read_rows(share.row("sre2l", rounds, clock="wall", remark="≤ 1e-07"))[0]
    assert cells[:5] == ["sre2l", "wall", "1500 [1250–1750]", "1875 [1562–2188]", "1.250 [1.250–1.250]"]
    assert cells[5:] == ["20.0 [20.0–20.0]", "3", "2 ≤ 1e-07"]


def test_terms_are_told_apart_as_far_as_float32_allows() -> None:
    share = importlib.import_module("step_share")
    ours = make_rounds((0, 1.0, 1.0))[0]["ours"]
    assert share.disagreement({"ours": ours, "authors'": replace(ours, term=2.0)}) == 0.5
    assert share.disagreement({"ours": ours, "authors'": ours}) == 8 * 2**-23


def test_a_method_with_nothing_to_leave_out_is_not_accelerated(tmp_path: Path) -> None:
    share = importlib.import_module("step_share")
    case = importlib.import_module("step_cases").CASES["sre2l"]
    options = argparse.Namespace(accelerate=True, steps=3, real=4, full=False, device="cpu")
    with pytest.raises(DirePlugError, match="sre2l: nothing of its loop is left out"):
        share.measure(SRe2L(), case, share.choose_arms(options, None), options=options, folder=tmp_path)


def test_the_cases_are_those_of_the_known_methods_and_fit_their_flags() -> None:
    cases = importlib.import_module("step_cases").CASES
    assert set(cases) == set(known("methods"))
    for method, case in cases.items():
        adapter = load_adapter(method)
        for full in (False, True):
            sized = case.resize(adapter.verify_case(case.script), rounds=7, full=full)
            adapter.flags_model(case.script).model_validate(sized.recover["flags"])
            assert sized.steps is None


def test_the_authors_loss_gets_each_class_its_own_rows(release: Path) -> None:
    plugins = importlib.import_module("turn_plugins")
    generator = torch.Generator().manual_seed(0)
    real = RealEmbeddings(torch.rand(6, 4, generator=generator), torch.tensor([0, 0, 1, 1, 2, 2]))
    rows = torch.rand(5, 4, generator=generator, requires_grad=True)
    labels = torch.tensor([2, 0, 2, 1, 0])
    authors = plugins.Authors(plugins.AuthorsSettings(checkout=str(release)))
    batch = SimpleNamespace(embeddings=rows, labels=labels, teacher="teacher")
    term = authors.loss_term(SimpleNamespace(real=lambda teacher: real, classes=3), batch)
    wanted = [rows[labels == one].mean(0) @ real.values[real.labels == one].mean(0) for one in range(3)]
    assert term.item() == pytest.approx(0.1 * sum(wanted).item())  # type: ignore[union-attr]


@pytest.mark.slow
def test_arms_take_turns_and_each_computes_its_own_term(
    third_party: ThirdParty, bare_home: Path, release: Path, tmp_path: Path
) -> None:
    share = importlib.import_module("step_share")
    case = importlib.import_module("step_cases").Case("synth", lambda steps: {"steps": steps}, "toy", "toy")
    options = argparse.Namespace(accelerate=False, terms=[], steps=3, real=4, full=False, device="cpu")
    with importlib.import_module("turn_plugins").known_plugins():
        arms = share.choose_arms(options, release)
        rounds, _ = share.measure(load_adapter("toy-net"), case, arms, options=options, folder=tmp_path / "toy")
    assert [[one[arm].step for one in rounds] for arm in arms] == [[0, 1, 2, 3, 4]] * 3
    assert all(reading.wall > 0 and reading.cpu > 0 for one in rounds for reading in one.values())
    assert [one["ours"].fresh for one in rounds] == [True, False, False, False, False]
    assert all(one["without"].term == 0 for one in rounds)
    assert all(one["ours"].term != one["authors'"].term != 0 for one in rounds)


@pytest.mark.slow
def test_a_child_that_ends_early_stops_all_and_is_named(
    third_party: ThirdParty, bare_home: Path, tmp_path: Path
) -> None:
    share = importlib.import_module("step_share")
    case = importlib.import_module("step_cases").Case("synth", lambda steps: {"steps": 1}, "toy", "toy")
    options = argparse.Namespace(accelerate=False, steps=30, real=4, full=False, device="cpu")
    arms = {name: share.Arm({}) for name in ("without", "ours")}
    with importlib.import_module("turn_plugins").known_plugins():
        adapter = load_adapter("toy-net")
        with pytest.raises(DirePlugError, match=r"the arm '(without|ours)' ended after [1-9]"):
            share.measure(adapter, case, arms, options=options, folder=tmp_path / "toy")


@pytest.mark.slow
@pytest.mark.upstream
def test_sre2l_is_measured_beside_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    vendor_or_skip(SRe2L())
    checkout = tmp_path / "release"
    try:
        importlib.import_module("diversity_loss").clone(checkout)
    except GitCommandError as error:
        pytest.skip(f"the release can't be reached: {error}")
    command = [sys.executable, str(BENCHMARKS / "step_share.py"), "sre2l", "--steps", "2", "--real", "6"]
    done = subprocess.run([*command, "--checkout", str(checkout)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("sre2l cifar: 10×1")]
    assert len(rows) == 2, done.stdout
    assert all(row[-3:-1] == ["2", "≤"] and float(row[-1]) < 1e-4 for row in rows), rows


@pytest.mark.slow
def test_embedding_streams_into_its_file(tmp_path: Path) -> None:
    script = BENCHMARKS / "embedding_memory.py"
    command = [sys.executable, str(script), "--rows", "40000", "--width", "1024", "--child", str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # in float32, and a label and an index of 8 bytes each
    assert found["result"] == pytest.approx(40_000 * (4 * 1024 + 16), abs=1000)
    assert found["peak"] < 1.3 * found["result"]


@pytest.mark.slow
def test_an_epoch_of_a_student_is_measured_and_kept(tmp_path: Path) -> None:
    sizes = ("--images", "20", "--tests", "10", "--batch", "10", "--size", "16", "--architecture", "convnet-small")
    command = [sys.executable, str(BENCHMARKS / "student_epoch.py"), "--against", str(ROOT), "--rounds", "1", *sizes]
    answer = subprocess.run(
        [*command, "--json", str(tmp_path / "ledger.json")], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    before, now = answer.stdout.splitlines()[-1].removeprefix("last losses: before ").split(", now ")
    assert before == now
    cases = json.loads((tmp_path / "ledger.json").read_text())["cases"]
    assert [list(case["sides"]) for case in cases] == 2 * [["before", "now"]]


# The ledger.


def test_a_ledger_keeps_the_last_values_of_each_case(tmp_path: Path) -> None:
    ledger, file = importlib.import_module("ledger"), tmp_path / "ledger.json"
    ledger.record(file, "a", {"ours": [1.0, 2.0]}, benchmark="one", unit="ms")
    ledger.record(file, "a", {"ours": [1.0, 3.0], "theirs": [4.0, 6.0]}, benchmark="one", unit="ms")
    ledger.record(file, "b", {"ours": [5.0]}, benchmark="two", unit="MB", remark="n = 1")
    ledger.record(None, "c", {"ours": [5.0]}, benchmark="two", unit="MB")
    (first, second) = json.loads(file.read_text())["cases"]
    assert first["sides"] == {"ours": [1.0, 3.0], "theirs": [4.0, 6.0]}
    assert ledger.ratios(first, "theirs") == [4.0, 2.0]
    assert second["case"] == "b"
    shown = ledger.show(json.loads(file.read_text()))
    assert "| a | ours | 2 [1.5–2.5] ms | 1 | 2 |  |" in shown
    assert "|  | theirs | 5 [4.5–5.5] ms | 3 [2.5–3.5] | 2 |  |" in shown
    assert "| b | ours | 5 MB | 1 | 1 | n = 1 |" in shown


def test_two_ledgers_are_compared_by_the_ratios_of_their_sides(tmp_path: Path) -> None:
    ledger, tables = importlib.import_module("ledger"), []
    for name, theirs in (("before", [2.0, 4.0]), ("after", [1.0, 2.0])):
        ledger.record(tmp_path / name, "a", {"ours": [1.0, 2.0], "theirs": theirs}, benchmark="one", unit="ms")
        tables.append(json.loads((tmp_path / name).read_text()))
    compared = ledger.compare(*tables)
    assert "| one: a | theirs / ours | 2 [2–2] | 1 [1–1] | 0.5 |" in compared
    assert "| one: a | ours, ms | 1.5 [1.25–1.75] | 1.5 [1.25–1.75] | 1 |" in compared


@pytest.mark.parametrize("page", ["results/ledger.md", "docs/reference/benchmarks.md"])
def test_a_page_has_what_the_ledger_here_has(page: str) -> None:
    content = json.loads((ROOT / "results" / "ledger.json").read_text())
    text = (ROOT / page).read_text()
    assert importlib.import_module("ledger").fill(text, content, where=Path(page)) == text


def test_ratios_stand_in_a_column_for_each_unit(tmp_path: Path) -> None:
    ledger, file = importlib.import_module("ledger"), tmp_path / "ledger.json"
    for unit, theirs in (("cpu s", [2.0, 4.0]), ("MB", [1.0, 1.0])):
        ledger.record(file, "a", {"ours": [1.0, 2.0], "theirs": theirs}, benchmark="one", unit=unit)
    ledger.record(file, "b", {"ours": [1.0]}, benchmark="one", unit="MB")
    assert ledger.show_ratios(json.loads(file.read_text())).splitlines()[2:] == [
        "| benchmark: case | sides | cpu s | MB |",
        "|---|---|---|---|",
        "| one: a | theirs / ours | 2 [2–2] (2) | 0.75 [0.625–0.875] (2) |",
    ]


def test_ratios_of_two_machines_stand_in_two_tables(tmp_path: Path) -> None:
    ledger, file = importlib.import_module("ledger"), tmp_path / "ledger.json"
    for name in ("a", "b", "c"):
        ledger.record(file, name, {"ours": [1.0, 1.0], "theirs": [2.0, 2.0]}, benchmark="one", unit="ms")
    content = json.loads(file.read_text())
    content["cases"][1]["where"]["card"] = "H100"
    first, second = ledger.show_ratios(content).split("\n\nH100, ")
    assert [one in first for one in ("one: a ", "one: b ", "one: c ")] == [True, False, True]
    assert [one in second for one in ("one: a ", "one: b ", "one: c ")] == [False, True, False]


def test_a_ledger_is_written_between_the_marks_of_a_page(tmp_path: Path) -> None:
    ledger, page = importlib.import_module("ledger"), tmp_path / "page.md"
    ledger.record(tmp_path / "ledger.json", "a", {"ours": [1.0]}, benchmark="one", unit="ms")
    found = json.loads((tmp_path / "ledger.json").read_text())
    page.write_text(f"before\n{ledger.BEGIN}\nold\n{ledger.END}\nafter\n")
    ledger.write_docs(found, page)
    assert page.read_text().startswith(f"before\n{ledger.BEGIN}\n`benchmarks/one.py`")
    assert page.read_text().endswith(f"{ledger.END}\nafter\n")
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="between which the tables go"):
        ledger.write_docs(found, page)


# What fast gains, and what it changes.


def test_a_batch_counts_the_compilation_of_a_later_pass() -> None:
    bench = importlib.import_module("accelerated_step")
    published = {"wall": [4.0, 4.0], "iterations": 100, "first_again": None}
    arm = {**published, "wall": [1.0, 1.0], "first": 201.0, "first_again": 101.0}
    assert bench.batch_ratio(arm, published) == 400 / (100 + 100)
    assert bench.compilation(arm) == "200 / 100 s"


def test_arms_are_the_components_that_act_here_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = importlib.import_module("accelerated_step")
    monkeypatch.setattr(bench, "find_missing", lambda device: {"channels-last": "", "tf32": "", "compile": ""})
    options = argparse.Namespace(device="cpu", arms=None)
    arms = bench.choose_arms(load_adapter("dwa"), bench.CASES["dwa"], options)
    assert list(arms) == ["as published", "bf16", "one-pass statistics", "frozen", "fast"]
    assert arms["fast"].names == ("bf16", "one-pass statistics", "frozen")
    options.arms = ["bf16+frozen", "bf16+compile"]
    assert list(bench.choose_arms(load_adapter("dwa"), bench.CASES["dwa"], options)) == ["as published", "bf16+frozen"]
    with pytest.raises(DirePlugError, match="no component acts in dm's scripts here"):
        bench.choose_arms(load_adapter("dm"), bench.CASES["dm"], options)


def test_an_interval_that_excludes_zero_is_marked() -> None:
    bench = importlib.import_module("fast_against_none")
    metrics = {
        side: [{"accuracy": {"students": {"net": {"last": [value]}}}} for value in values]
        for side, values in {"none": [90.0, 91.0, 92.0], "fast": [91.0, 92.1, 92.9]}.items()
    }
    title, measure = bench.columns()[0]
    shown = bench.show(bench.row(title, measure, metrics))
    assert shown == "| accuracy, last % | 91.0 ± 1.0 | 92.0 ± 1.0 | +1.00 [+0.75, +1.25] | excludes zero |"
