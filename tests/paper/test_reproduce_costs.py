"""`reproduce --dry-run`: what it lists, and the counts and rates that its estimates come from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cli import Cli
from torch.autograd.graph import saved_tensors_hooks

from dire_plug.data import Dataset, load
from dire_plug.files import read_json
from dire_plug.models import build
from dire_plug.paper.reproduce import TableRequest, load_target, select
from dire_plug.paper.reproduce.costs import ABSENT, NEW, Rate, duration, estimate, find_rate, left_out, runs_of
from dire_plug.paper.reproduce.flops import SIZES, count_pass, count_work
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import read_data

# Counts.


def test_operations_of_a_forward_pass_by_hand() -> None:
    found = count_pass(architecture="convnet-3-w32", outputs=10, stem="small", size=32)
    # three 3×3 convolutions, each followed by a pooling that halves the map, then the flattened 4×4 map's head
    macs = 9 * 32 * (3 * 32**2 + 32 * 16**2 + 32 * 8**2) + 32 * 4**2 * 10
    assert found.forward == 2 * macs
    # backward is two products of the same size for each of these, as the images want a gradient too
    assert found.both == 3 * found.forward


def kept_by_a_batch(model: torch.nn.Module, images: torch.Tensor) -> int:
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images.requires_grad_()).sum()
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}.values())


def test_bytes_kept_are_those_that_autograd_keeps_of_a_further_real_image() -> None:
    found = count_pass(architecture="resnet-small", outputs=10, stem="small", size=8)
    model = build("resnet-small", outputs=10).train()
    seven, six = (kept_by_a_batch(model, torch.rand(count, 3, 8, 8)) for count in (7, 6))
    assert found.kept == seven - six
    assert found.weights == sum(parameter.nbytes for parameter in model.parameters())


def test_the_sizes_of_the_digits_are_those_of_the_data() -> None:
    digits = load("digits")
    assert SIZES["digits"] == (len(digits.train), len(digits.test), digits.size)


def test_a_synthesis_is_counted_by_its_steps_and_images() -> None:
    one = count_pass(architecture="resnet-18", outputs=100, stem="small", size=32)
    baseline = count_work(plan_run(Request("sre2l", recipe="cifar-100", ipc=10), dry=True))
    dire = count_work(plan_run(Request("sre2l", recipe="cifar-100", ipc=10, arm="dire"), dry=True))
    assert (baseline.steps, dire.steps) == (10 * 1000, 2 * 1000)  # ten passes; one pass of two batches
    assert baseline.recover == dire.recover == 1000 * 1000 * one.both  # iterations × images
    assert baseline.memory == max(100 * one.kept + one.weights, 128 * one.kept + one.weights)
    assert dire.memory == 500 * one.kept + one.weights
    assert baseline.disk == 1000 * 3 * 32 * 32 * 5 + one.weights


def test_training_is_counted_by_the_recipes_networks_and_images() -> None:
    def teachers(*settings: str) -> float:
        return count_work(plan_run(Request("sre2l", recipe="imagenet-1k", settings=settings), dry=True)).teachers

    assert teachers("dataset.limit=5000") == 0  # both networks of the recipe are published
    network = {"architecture": "resnet-18", "outputs": 1000, "size": 224}
    own, of_the_script = (count_pass(**network, stem=stem).both for stem in ("small", "imagenet"))
    assert own > 10 * of_the_script
    trained = ("squeeze.independent.checkpoint=null", "squeeze.independent.epochs=2", "dataset.limit=5000")
    given = (*trained, "squeeze.independent.architecture=resnet-18")
    assert teachers(*given) == 2 * 5000 * own
    assert teachers(*given, "dataset.validation=1000") == 2 * 4000 * own
    averaged = count_pass(architecture="convnet-3", outputs=1000, stem="small", size=224, flat=False)
    assert teachers(*trained, "squeeze.independent.architecture=convnet-3") == 2 * 5000 * averaged.both


def test_students_are_tested_on_the_images_that_judge() -> None:
    def evaluated(*settings: str) -> float:
        given = ("evaluate.students=[convnet-3]", "evaluate.per_synthesis=1", *settings)
        return count_work(plan_run(Request("sre2l", recipe="cifar-100", ipc=10, settings=given), dry=True)).evaluate

    held_out = ("dataset.validation=1000", "evaluate.judge=validation")
    one = count_pass(architecture="convnet-3", outputs=100, stem="small", size=32)
    section = plan_run(Request("sre2l", recipe="cifar-100", ipc=10), dry=True).resolved.recipe.evaluate
    tests = len({*range(section.test_from, section.epochs, section.test_every), section.epochs - 1})
    assert evaluated() - evaluated(*held_out) == tests * (10_000 - 1000) * one.forward
    assert evaluated(held_out[0]) == evaluated()


def test_stored_labels_count_on_disk() -> None:
    work = count_work(plan_run(Request("sre2l", recipe="imagenet-1k", ipc=10), dry=True))
    labels = 300 * 10_000 * 1000 * 2
    images = 10_000 * 3 * 224 * 224 * 5
    assert labels + images < work.disk < 1.1 * (labels + images)


def test_a_loop_that_trains_networks_itself_is_not_counted() -> None:
    work = count_work(plan_run(Request("mtt", recipe="cifar-10", ipc=10), dry=True))
    assert work.recover is None
    assert work.total(with_teachers=True) is None


# Rates.


def test_a_rate_is_the_measured_seconds_by_the_operations_of_that_run(
    finished: Path, baseline: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(finished))
    rate = find_rate(plan_run(Request("sre2l", recipe=str(recipe), arm="dire", engine="native")))
    one = count_pass(architecture="resnet-small", outputs=100, stem="small", size=8)
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


def test_what_a_table_takes_beside_its_runs_is_named() -> None:
    assert left_out(request_of_table("table-2")) == []
    assert left_out(request_of_table("table-10")) == ["not estimated: training of the other students"]
    assert left_out(request_of_table("table-16", column="vendi-clip")) == [
        "not estimated: embeddings of another network"
    ]


def test_missing_data_or_code_is_a_state_with_a_reason(bare_home: Path) -> None:
    (first, *_) = estimate(request_of_table("table-2", scale="paper", row="sre2l", column="10"))
    assert first.state == ABSENT
    assert "cifar-10 was not found" in first.reason
    assert (first.to_train, first.trains) == (None, True)


def test_each_dataset_is_loaded_once(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def read(planned: Run) -> Dataset:
        loaded.append(planned.resolved.recipe.dataset.name)
        return read_data(planned)

    monkeypatch.setattr("dire_plug.paper.reproduce.costs.read_data", read)
    costs = estimate(request_of_table("table-3", row="sre2l"))
    assert [cost.request.arm for cost in costs] == ["baseline", "dire"]
    assert loaded == ["digits"]


def test_networks_are_counted_in_the_first_run_that_needs_them(bare_home: Path) -> None:
    costs = estimate(request_of_table("table-3", row="sre2l"))
    assert [cost.to_train for cost in costs] == [("teacher", "independent")] * 2
    assert [cost.trains for cost in costs] == [True, False]
    assert [cost.state for cost in costs] == [NEW, NEW]


def test_time_is_the_rate_times_what_is_left(bare_home: Path) -> None:
    (cost, _) = estimate(request_of_table("table-3", row="sre2l"))
    assert cost.rate is not None
    rate = Rate(2.0, 2e9, "a run", "a machine")
    work = cost.cost
    assert work.recover is not None
    left = replace(cost, rate=rate)
    assert left.seconds == pytest.approx(1e-9 * (work.recover + work.evaluate + work.teachers))
    assert replace(left, trains=False).seconds == pytest.approx(1e-9 * (work.recover + work.evaluate))
    assert replace(left, state="finished").seconds is None


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
    assert "time by a step of 4 images of 32 pixels through resnet-18, run here" in answer.out
    assert sorted(finished.rglob("*")) == before


@pytest.mark.parametrize(("seconds", "text"), [(8, "8 s"), (90, "1.5 min"), (7_200, "2 h"), (864_000, "10 d")])
def test_a_duration_has_a_unit_that_suits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
