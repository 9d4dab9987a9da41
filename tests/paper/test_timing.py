"""Timing of arms: the statistics of the measurements, what is timed, and processes whose steps are interleaved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.cli import Cli
from support.small_run import read_rows

from dire_plug.errors import DirePlugError
from dire_plug.paper.timing import ArmTiming, Timing, time_arms
from dire_plug.paper.timing import step_times as measure
from dire_plug.paper.timing.arms import SEED, check_engines, plan_arm, run_synthesis, set_up
from dire_plug.paper.timing.table import notes, render
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.ui import show
from dire_plug.upstream.interleave import peak_memory

ABOUT: dict[str, Any] = {
    "recipe": "quick",
    "processes": 1,
    "warm_up": 1,
    "real_per_class": 500,
    "hardware": {"device": "cpu", "card": None, "processor": "a processor", "cores": 2, "threads": 1},
    "versions": {"torch": "2"},
}


def make_arm(name: str, *wall: float, **changes: Any) -> ArmTiming:
    arm = ArmTiming(
        name=name,
        images=10,
        steps=1000,
        passes=5,
        wall=wall,
        cpu=tuple(value / 2 for value in wall),
        start=(4.0,),
        first=(3.0,),
        memory_before=100 << 20,
        memory=300 << 20,
    )
    return replace(arm, **changes)


def make_timing(*arms: ArmTiming) -> Timing:
    return Timing(arms, "native", ABOUT)


def test_a_step_is_the_median_and_a_ratio_is_for_as_many_images() -> None:
    timing = make_timing(make_arm("a", 1, 2, 9), make_arm("b", 30, 20, 40, images=100))
    assert [timing.step(at, "wall").value for at in (0, 1)] == [2, 30]
    assert [timing.step(at, "cpu").value for at in (0, 1)] == [1, 15]
    assert timing.ratio(1, "wall").value == pytest.approx(30 / 2 / 10)
    assert timing.ratio(0, "wall").value == 1


def test_the_whole_is_start_passes_and_steps() -> None:
    side, other = make_arm("a", 2, 2, 2), make_arm("b", 1, 1, 1, steps=100, passes=2, first=(0.5,))
    timing = make_timing(side, other)
    assert timing.whole(0).value == 4 + 5 * (3 - 2) + 1000 * 2
    assert timing.whole(1).value == 4 + 100  # a first turn that is shorter than a step takes nothing off
    assert timing.whole_ratio(1).value == pytest.approx(104 / 2009)


def test_intervals_resample_rounds_with_all_arms_of_a_round_together() -> None:
    steady = make_timing(make_arm("a", 2, 2, 2), make_arm("b", 3, 3, 3))
    assert (steady.step(0, "wall").low, steady.step(0, "wall").high) == (2, 2)
    noisy = make_timing(make_arm("a", 1, 2, 4, 8, 16), make_arm("b", 2, 4, 8, 16, 32))
    step, ratio = noisy.step(0, "wall"), noisy.ratio(1, "wall")
    assert step.low is not None
    assert step.high is not None
    assert 1 <= step.low < 4 < step.high <= 16
    assert (ratio.low, ratio.value, ratio.high) == (2, 2, 2)  # a load that meets both isn't in their ratio
    assert noisy.step(0, "wall") == step
    assert make_timing(make_arm("a", 7)).step(0, "wall").low is None


def test_a_table_holds_steps_wholes_and_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    ran = make_arm("sre2l+dire", 1.5, 1.5, images=100, gpu_memory=50 << 20, whole=((90, 40), (91, 41)))
    show(render(make_timing(make_arm("sre2l", 0.05, 0.05), ran)))
    rows = read_rows(capsys.readouterr().out)
    steps = [cells for cells in rows if cells[0].startswith("sre2l")]
    assert steps[0][:4] == ["sre2l", "10", "50.0 [50.0–50.0]", "25.0 [25.0–25.0]"]
    assert steps[1][4:] == ["3.000 [3.000–3.000]", "3.000 [3.000–3.000]", "100 → 300, GPU 50 MiB"]
    assert steps[2][:4] == ["sre2l", "1,000", "18.8", "68.8 [68.8–68.8]"]
    assert steps[3][-2:] == ["90.0 91.0", "40.0 41.0"]


def test_the_notes_say_how_few_steps_there_are_and_that_batches_differ() -> None:
    few = notes(make_timing(make_arm("a", 1, 2), make_arm("b", 1, 2, images=50)))
    assert any("n = 2: below 5" in line for line in few)
    assert any("different numbers of images" in line for line in few)
    many = notes(make_timing(make_arm("a", *range(1, 7)), make_arm("b", *range(1, 7))))
    assert not any("below 5" in line or "different numbers" in line for line in many)


def test_everything_that_was_read_can_be_stored() -> None:
    content = json.loads(json.dumps(make_timing(make_arm("a", 1, 2), make_arm("b", 2, 4)).to_json()))
    assert content["sides"][1]["wall"] == [2, 4]
    assert content["sides"][1]["ratio_wall"]["value"] == 2
    assert (content["rounds"], content["engine"]) == (2, "native")


def test_a_name_is_a_method_and_an_arm() -> None:
    found = [plan_arm(name, Request("")) for name in ("sre2l", "sre2l+dire", "sre2l:control")]
    assert [one.request.arm for one in found] == ["baseline", "dire", "control"]
    assert [bool(one.resolved.regularizers) for one in found] == [False, True, False]


@pytest.mark.parametrize(
    ("sides", "told"),
    [
        (["sre2l+random"], "uses real images and synthesizes none"),
        (["sre2l+dirr"], "dirr"),
        (["sre3l"], "sre2l"),
        (["sre2l", "sre2l"], "each once"),
        (["sre2l", "--steps", 100_000], "its synthesis has 3000 steps, 100001 were asked for"),
    ],
)
def test_what_cannot_be_timed_is_told(cli: Cli, bare_home: Path, sides: list[Any], told: str) -> None:
    answer = cli("time", *sides)
    assert answer.code == 2
    assert told in answer.err


def test_arms_of_two_engines_are_refused() -> None:
    native = plan_arm("sre2l", Request("", engine="native"))
    with pytest.raises(DirePlugError, match=r"one engine.*dire-plug vendor sre2l"):
        check_engines({"sre2l": native, "dwa": replace(native, engine="upstream")})
    assert check_engines({"sre2l": native}) == "native"


def plan(method: str, recipe: str, **options: Any) -> Run:
    return plan_run(Request(method, recipe=recipe, **options), dry=True)


def test_a_recipe_of_the_paper_needs_no_dataset_and_keeps_its_size(bare_home: Path, tmp_path: Path) -> None:
    planned = plan("sre2l", "cifar-100", ipc=10, arm="dire", settings=("real.coreset=3",))
    side = set_up("x", planned, tmp_path, real=12)
    dataset = side.run.dataset
    assert (len(dataset.classes), dataset.size, dataset.name) == (100, 32, "generated")
    assert (side.steps, side.run.plan.slots_per_pass, side.run.plan.passes) == (2000, 2, 1)
    assert list(side.spec.regularizers) == ["dire"]
    real = load_file(side.spec.real["teacher"])
    assert real["values"].shape == (1200, 512)
    assert float(real["values"].min()) >= 0
    assert real["coreset.centres"].shape == (300, 512)
    assert not bare_home.exists()


def test_recipes_that_prepare_for_hours_or_do_not_fit_are_refused(bare_home: Path, tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"delt, recipe 'cifar-10': before its loop upstream's code makes .*quick"):
        set_up("x", plan("delt", "cifar-10", ipc=1), tmp_path, real=1)
    with pytest.raises(DirePlugError, match="50 generated images a class take 7 GiB; lower --ipc"):
        set_up("x", plan("sre2l", "imagenet-1k", ipc=50), tmp_path, real=500)


def test_peak_memory_is_at_least_what_is_resident() -> None:
    held = bytearray(64 << 20)
    held[:: 1 << 12] = b"1" * len(held[:: 1 << 12])
    resident = 4096 * int(Path("/proc/self/statm").read_text().split()[1])
    assert peak_memory() >= resident - (4 << 20) > 60 << 20


def test_a_child_that_fails_is_named_with_its_last_lines(bare_home: Path, tmp_path: Path, recipe: Path) -> None:
    side = set_up("my arm", plan("sre2l", str(recipe), engine="native"), tmp_path, real=2)
    broken = replace(side, spec=replace(side.spec, regularizers={"nobody": {}}))
    with pytest.raises(DirePlugError, match=r"(?s)my arm: the native loop ended with status 1.*nobody"):
        run_synthesis(broken, None)


@pytest.mark.slow
def test_steps_are_interleaved_and_syntheses_are_run_whole(
    cli: Cli, bare_home: Path, tmp_path: Path, recipe: Path
) -> None:
    options = ("--recipe", recipe, "--engine", "native", "--real", 4, "--json")
    answer = cli("time", "sre2l", "sre2l+dire", "--steps", 1, "--whole", 1, *options)
    assert answer.code == 0, answer.err
    content = json.loads(answer.out)
    baseline, dire = content["sides"]
    assert [side["name"] for side in content["sides"]] == ["sre2l", "sre2l+dire"]
    assert [side["images"] for side in content["sides"]] == [10, 20]
    assert [side["steps"] for side in content["sides"]] == [6, 3]
    for side in (baseline, dire):
        assert len(side["wall"]) == len(side["cpu"]) == content["rounds"] == 1
        assert min(*side["wall"], *side["cpu"], *side["start"], *side["first"]) > 0
        assert side["memory"] >= side["memory_before"] > 0
        assert side["whole"][0]["wall"] > 0 < side["whole"][0]["cpu"]
    assert not bare_home.exists()  # nothing of it is kept


def test_a_synthesis_with_too_few_steps_is_refused_before_any_process(
    bare_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("no child is needed to know it")

    monkeypatch.setattr(measure, "run_synthesis", never)
    request = Request("", recipe=str(recipe), engine="native")
    with pytest.raises(DirePlugError, match="sre2l: its synthesis has 6 steps, 7 were asked for"):
        time_arms(["sre2l"], request, steps=6, real=2)
    assert SEED == 0
