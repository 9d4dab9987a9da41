"""Arms side by side: what may be compared, the statistics by hand, the table to the letter.

`python tests/results/test_compare.py` writes the table, tests/golden/comparison.txt, again.
"""

import copy
import io
import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.cli import Cli
from support.paths import GOLDEN
from support.small_run import read_rows, run_folders, write_recipe
from support.terminal import as_text

from dire_plug.errors import DirePlugError
from dire_plug.home import resource
from dire_plug.measures import ACCURACY, run_measures
from dire_plug.pipeline import FinishedRun, Request, plan_run
from dire_plug.recipe import read_yaml
from dire_plug.results.arms import (
    check_alike,
    check_teachers,
    compare,
    equal_arms,
    plan_steps,
    split_by_control,
    with_ladder,
)
from dire_plug.results.comparison import Comparison
from dire_plug.results.report.runs import is_ladder
from dire_plug.results.statistics import (
    paired_difference,
    pairs_needed,
    power,
    power_of,
    smallest_difference,
    summarise,
)
from dire_plug.results.stored import to_json
from dire_plug.results.table import best_cells, describe_bold, format_difference, render
from dire_plug.store.runs import RunFolder

TABLE = GOLDEN / "comparison.txt"
T_OF_TWO = 0.95 / math.sqrt(2 * 0.975 * 0.025)
"""The 97.5 % quantile of Student's t with 2 degrees of freedom, in its closed form (2p − 1)/√(2p(1 − p))."""

# Statistics.


def test_mean_and_sample_deviation_by_hand() -> None:
    found = summarise([1.0, 2.0, 6.0])
    assert found is not None
    assert (found.mean, found.n) == (3.0, 3)
    assert found.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2), rel=1e-15)


def test_one_synthesis_has_no_spread() -> None:
    found = summarise([4.0])
    assert found is not None
    assert (found.mean, found.std, found.n) == (4.0, None, 1)


@pytest.mark.parametrize("values", [[], [None], [1.0, None], [1.0, math.nan]])
def test_a_missing_value_leaves_no_summary(values: list[float | None]) -> None:
    assert summarise(values) is None


def test_the_interval_of_three_pairs_by_hand() -> None:
    found = paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    assert found is not None
    # differences 2, 3, 1: mean 2, deviation 1
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(T_OF_TWO / math.sqrt(3), rel=1e-9)
    assert found.n == 3


def test_pairs_are_paired_and_not_pooled() -> None:
    found = paired_difference([10.0, 20.0, 30.0], [9.0, 19.0, 29.0])
    assert found is not None
    assert (found.mean, found.half_width) == (1.0, 0.0)


def test_one_pair_has_no_interval_and_a_missing_value_no_difference() -> None:
    found = paired_difference([2.0], [0.5])
    assert found is not None
    assert (found.mean, found.half_width, found.n, found.means) == (1.5, None, 1, (2.0, 0.5))
    assert paired_difference([1.0, None], [1.0, 2.0]) is None
    assert paired_difference([1.0, 2.0], [None, 2.0]) is None
    assert paired_difference([], []) is None


# Power.


def test_what_n_pairs_can_tell_is_that_of_published_tables() -> None:
    # R: power.t.test(n = 10, power = 0.8, type = "paired")$delta is 0.9960; Cohen: n = 34 for an effect of 0.5
    assert smallest_difference(10) == pytest.approx(0.9960, abs=1e-4)
    assert [pairs_needed(effect) for effect in (0.2, 0.5, 1.0)] == [199, 34, 10]
    assert power(smallest_difference(5), 5) == pytest.approx(0.8, abs=1e-9)


def test_power_takes_the_spread_of_the_differences_of_pairs() -> None:
    found = power_of([10.0, 21.0, 33.0, 40.0], [9.0, 19.0, 30.0, 39.0])  # 1, 2, 3, 1
    assert found is not None
    assert found.std == pytest.approx(statistics.stdev([1, 2, 3, 1]))
    assert found.smallest == pytest.approx(smallest_difference(4) * found.std)
    assert found.half_point == pairs_needed(0.5 / found.std)
    assert power_of([1.0], [0.0]) is None
    assert power_of([1.0, None], [0.0, 0.0]) is None
    assert pairs_needed(1e-4) is None


def test_differences_that_vary_by_rounding_alone_have_no_power() -> None:
    # 96.4 − 95.4 and 95.1 − 94.1 are two floats
    found = power_of([96.4, 95.1], [95.4, 94.1])
    assert found is not None
    assert (found.std, found.smallest, found.half_point) == (0.0, 0.0, 2)


def test_a_comparison_says_what_its_seeds_can_tell() -> None:
    text = " ".join(as_text(render(canned(seeds=5))).split())
    assert (
        "dire − control: differences in accuracy vary by 0.79, so 5 seeds find a true difference of 1.3 points "
        "80 times in 100, and half a point takes 22 seeds (paired t test, two-sided at 0.05)"
    ) in text


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_few_seeds_tell_no_number_of_seeds_but_to_take_more(seeds: int) -> None:
    text = " ".join(as_text(render(canned(seeds=seeds))).split())
    assert "a true difference" not in text
    told = f"n = {seeds}: below 5 pairs a difference says little; take more --seeds"
    assert told in text


# The table.


def diversity(value: float) -> dict[str, float]:
    return {
        "coverage": value / 100,
        "class_coverage": value / 50,
        "vendi": value / 2,
        "class_vendi": value / 8,
        "similarity": value / 40,
    }


def canned_run(arm: str, seed: int, *, last: list[float], value: float) -> FinishedRun:
    """Return a finished run with these accuracies of two students, and measures that follow from `value`."""
    spaces = {space: {**diversity(value + shift), "real": diversity(32)} for space, shift in (("T", 0), ("I", 4))}
    accuracy = {"students": {"net": {"last": last, "best": [score + 1 for score in last]}}}
    networks = {"teacher": "0f", "independent": "f0"}
    metrics = {"arm": arm, "networks": networks, "accuracy": accuracy, "diversity": spaces}
    return FinishedRun(RunFolder(Path(f"/runs/{arm}-{seed}-0a0b0c0d")), metrics, reused=True)


def canned(seeds: int = 3) -> Comparison:
    runs = {
        "control": [canned_run("control", seed, last=[50.0, 52.0 + seed], value=16.0) for seed in range(seeds)],
        "dire": [canned_run("dire", seed, last=[54.0, 52.0], value=16.0 + 2 * seed) for seed in range(seeds)],
    }
    runs = {"baseline": runs["control"], **runs}
    return Comparison(
        method="sre2l",
        recipe="quick",
        ipc=10,
        seeds=tuple(range(seeds)),
        engine="native",
        runs=runs,
        same={"control": "baseline"},
        controlled=("dire",),
    )


def rows(text: str, arm: str) -> list[list[str]]:
    """Return the cells of the rows of one arm."""
    return [line.removeprefix(arm).split() for line in text.splitlines() if line.startswith(arm)]


def test_a_set_of_more_images_has_a_real_reference_of_its_own() -> None:
    found = canned()
    more = [replace(run, metrics=copy.deepcopy(run.metrics)) for run in found.runs["dire"]]
    for run in more:
        run.metrics["diversity"]["T"]["real"] = diversity(8)
    text = as_text(render(replace(found, runs=found.runs | {"dire": more})))
    assert [cells[0] for cells in rows(text, " real, as many as baseline")] == ["32.0"]
    assert [cells[0] for cells in rows(text, " real, as many as dire")] == ["8.0"]
    assert "real, as many as ARM: that arm's number of real held-out images" in text
    # in I all have one
    assert [cells[0] for cells in rows(text, " real reference")] == ["32.0"]


@pytest.mark.parametrize(
    ("first", "second", "digits", "shown"),
    [
        ([96.944], [96.389], 1, "+0.5"),  # printed 96.9 and 96.4; the difference is .555
        ([5.96], [5.64], 1, "+0.4"),
        ([0.4004], [0.4016], 3, "−0.002"),
        ([96.964, 96.924], [96.409, 96.369], 1, "+0.6 ± 0.0"),  # the same means, of pairs
    ],
)
def test_a_difference_is_that_of_the_printed_means(
    first: list[float], second: list[float], digits: int, shown: str
) -> None:
    measure = replace(ACCURACY[0], digits=digits)
    assert format_difference(paired_difference(first, second), measure) == shown


def test_noise_is_the_best_in_nothing_and_one_synthesis_neither() -> None:
    noise = {seed: canned_run("noise", seed, last=[10.0, 10.0], value=1.0) for seed in range(3)}
    for one in noise.values():
        for space in one.metrics["diversity"].values():
            space.update(vendi=30.0, class_vendi=9.0, similarity=0.01)
    found = canned()
    found = replace(found, runs=found.runs | {"noise": list(noise.values())})
    measures = run_measures()
    assert not best_cells(found, measures)["noise"]
    assert {measures[at].key for at in best_cells(found, measures)["dire"]} >= {"accuracy_last", "coverage_teacher"}
    assert "Vendi and similarity have no best: noise is the most diverse" in describe_bold(found)
    alone = replace(found, seeds=(0,), runs={arm: runs[:1] for arm, runs in found.runs.items()})
    assert not any(best_cells(alone, measures).values())
    assert describe_bold(alone) == ""


def test_a_terminal_of_80_columns_shows_every_number_whole() -> None:
    file = io.StringIO()
    Console(file=file, width=80, color_system=None).print(render(canned()), crop=False)
    wide, narrow = (re.findall(r"(?:[+-]?\d+\.\d+ ± )?\d+\.\d+", text) for text in (TABLE.read_text(), file.getvalue()))
    assert sorted(wide) == sorted(narrow)
    assert max(map(len, file.getvalue().splitlines())) <= 80


def test_the_table_to_the_letter() -> None:
    assert as_text(render(canned())) == TABLE.read_text()


def test_the_table_of_one_synthesis_says_that_it_has_no_spread() -> None:
    text = as_text(render(canned(seeds=1)))
    assert "one synthesis per arm: neither a spread nor a best; --seeds 5 gives both" in text
    assert "±" not in text.replace("± students", "")
    assert rows(text, " dire − control")[0] == ["+2.0", "+2.0"]


def test_every_arm_with_a_term_has_its_difference_from_its_control() -> None:
    found = canned()
    energy = [canned_run("energy", seed, last=[58.0, 54.0], value=18.0) for seed in range(3)]
    found = replace(found, runs=found.runs | {"energy": energy, "regrouped": energy}, controlled=("dire", "energy"))
    text = as_text(render(replace(found, uncontrolled=("regrouped",))))
    assert [row[0] for row in rows(text, " dire − control")] == ["+1.5", "+2.0", "+2.0"]
    assert [row[0] for row in rows(text, " energy − control")] == ["+4.5", "+2.0", "+2.0"]
    assert rows(text, " regrouped − control") == []
    assert "… − control: paired by seed, ± half" in text
    assert "regrouped: differs from control in more than its term, so no difference is formed" in text
    assert to_json(found)["minus_control"]["energy"]["accuracy_last"]["mean"] == 4.5


def test_what_the_command_line_changed_stands_above_the_tables() -> None:
    found = replace(canned(), changes=("--preset released", "--set recover.flags.r-bn=0.1"))
    lines = as_text(render(found)).splitlines()
    assert lines[1:3] == ["with --preset released", "with --set recover.flags.r-bn=0.1"]
    assert to_json(found)["changes"] == ["--preset released", "--set recover.flags.r-bn=0.1"]


def test_a_missing_accuracy_is_a_dash_and_no_number() -> None:
    comparison = canned()
    comparison.runs["dire"][1].metrics["accuracy"] = {"missing": "the protocol hasn't landed yet"}
    accuracy = as_text(render(comparison)).partition("diversity")[0]
    assert rows(accuracy, " dire ") == [["–", "–", "–", "–"]]


def test_without_every_test_no_best_is_shown() -> None:
    found = canned()
    for runs in found.runs.values():
        for one in runs:
            one.metrics["accuracy"]["students"]["net"]["best"] = None
    text = as_text(render(found))
    assert "best on test" not in text
    assert rows(text, " dire ")[0] == ["53.0", "±", "0.0", "1.4", "±", "0.0"]


def test_what_is_stored_holds_every_value_and_the_statistics() -> None:
    content = json.loads(json.dumps(to_json(canned())))
    assert content["arms"]["control"]["same_as"] == "baseline"
    assert content["arms"]["dire"]["runs"] == [f"dire-{seed}-0a0b0c0d" for seed in range(3)]
    assert content["arms"]["control"]["values"]["accuracy_last"] == [51.0, 51.5, 52.0]
    assert content["arms"]["dire"]["values"]["coverage_independent"] == [20.0, 22.0, 24.0]
    assert content["arms"]["dire"]["summary"]["vendi_teacher"] == {"mean": 9.0, "std": 1.0, "n": 3}
    gap = content["minus_control"]["dire"]["accuracy_last"]
    assert (gap["mean"], gap["n"]) == (1.5, 3)
    assert gap["half_width"] == pytest.approx(T_OF_TWO * 0.5 / math.sqrt(3))
    assert content["notes"][1] == "control equals baseline here, so it was run once"
    assert {key: content[key] for key in ("method", "recipe", "ipc", "engine", "seeds")} == {
        "method": "sre2l",
        "recipe": "quick",
        "ipc": 10,
        "engine": "native",
        "seeds": [0, 1, 2],
    }


# What may be compared.


def request(recipe: Path, arm: str = "baseline", **more: Any) -> Request:
    return Request("sre2l", recipe=str(recipe), arm=arm, engine=more.pop("engine", "native"), **more)


def test_runs_of_different_teachers_are_not_compared() -> None:
    runs = canned().runs
    check_teachers(runs)
    for run in runs["dire"]:
        run.metrics["networks"] = {"teacher": "10", "independent": "f0"}
    with pytest.raises(DirePlugError, match="arms control and dire were made with different teachers"):
        check_teachers({"control": runs["control"], "dire": runs["dire"]})


@pytest.mark.parametrize("name", ["quick", "fashion-mnist"])
def test_the_arms_of_other_terms_that_ship_have_the_control_of_dire(name: str) -> None:
    names = ("control", *(arm for arm in read_yaml(resource("recipes") / "sre2l" / f"{name}.yaml")["arms"]))
    planned = {arm: plan_run(Request("sre2l", recipe=name, arm=arm, engine="native")) for arm in names}
    assert split_by_control(planned) == ("control", names[1:], ())
    assert len(names) > 8


@pytest.mark.parametrize("arms", ["baseline,control,dire", "baseline,dire"])
def test_control_that_equals_baseline_is_run_once_and_shown_so(cli: Cli, home: Path, tmp_path: Path, arms: str) -> None:
    path = write_recipe(
        tmp_path / "same.yaml", {"arms": {"dire": {"overrides": {"recover": {"plan": "keep", "start": "noise"}}}}}
    )
    answer = cli("compare", "sre2l", "--recipe", path, "--engine", "native", "--arms", arms)
    assert answer.code == 0, answer.err
    assert [folder.name.partition("-")[0] for folder in run_folders(home)] == ["baseline", "dire"]
    assert "control = baseline" in answer.out
    assert "control equals baseline here, so it was run once" in answer.out
    assert "dire − control" in answer.out


REAL_START = {"arms": {"dire": {"overrides": {"recover": {"start": "real"}}}}}


def test_a_ladder_compares_each_arm_with_the_one_before(cli: Cli, home: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "ladder.yaml", REAL_START)
    options = ("--recipe", recipe, "--engine", "native", "--arms", "random", "--ladder")
    planned = cli("compare", "sre2l", *options, "--dry-run")
    assert planned.out.splitlines()[:3] == [
        "rung-1-start: baseline + real start",
        "control: rung-1-start + 2 of a class in a batch",
        "dire: control + the term",
    ]
    answer = cli("compare", "sre2l", *options, "--class", "3")
    assert answer.code == 0, answer.err
    found = [
        row[0] for row in read_rows(answer.out) if row[0] in ("random", "dire") or row[0].startswith(("rung", "+ "))
    ]
    steps = ["+ real start", "+ 2 of a class in a batch", "+ the term"]
    assert found[:6] == ["rung-1-start", "dire", "random", *steps]
    (folder,) = home.glob("runs/sre2l/*/compare-*")
    content = json.loads((folder / "compare.json").read_text())
    values = {arm: one["values"]["coverage_teacher"][0] for arm, one in content["arms"].items()}
    for step in content["ladder"]:
        assert step["difference"]["coverage_teacher"]["mean"] == values[step["arm"]] - values[step["before"]]
    assert [step["arm"] for step in content["ladder"]] == ["rung-1-start", "control", "dire"]
    assert {file.name for file in folder.iterdir()} >= {"images.png", "class.png", "ladder.png"}
    assert is_ladder([folder.name], home / "runs")


def test_an_unknown_class_to_enlarge_is_an_error_before_any_run(cli: Cli, bare_home: Path, recipe: Path) -> None:
    answer = cli("compare", "sre2l", "--recipe", recipe, "--engine", "native", "--class", "ten")
    assert (answer.code, answer.out) == (2, "")
    assert "--class ten: digits has no such class; give a number from 0 to 9" in answer.err
    assert not (bare_home / "runs").exists()


def test_an_equal_rung_is_run_once_and_shown_so(bare_home: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "ladder.yaml", REAL_START)
    planned = {
        arm: plan_run(request(recipe, arm, settings=("recover.start=noise",)))
        for arm in with_ladder(request(recipe), ())
    }
    assert equal_arms(planned) == {"rung-1-start": "baseline"}
    assert [step.change for step in plan_steps(planned)] == ["no change", "2 of a class in a batch", "the term"]


def test_control_differs_from_baseline_where_dire_regroups(bare_home: Path, recipe: Path) -> None:
    planned = {arm: plan_run(request(recipe, arm)) for arm in ("baseline", "control", "dire", "random")}
    assert equal_arms(planned) == {}
    assert planned["control"].resolved.recipe.recover == planned["dire"].resolved.recipe.recover


def test_control_is_that_of_arms_which_differ_by_their_term_alone(bare_home: Path, tmp_path: Path) -> None:
    arms = {
        "dire": {"overrides": {"recover": {"plan": "keep", "start": "noise"}}},
        "elsewhere": {
            "overrides": {"term": {"network": "several"}, "real": {"per_class": 3}},
            "regularizers": {"dire": {"weight": "auto"}},
        },
        "regrouped": {"overrides": {"recover": {"plan": {"per_class": 1}}}, "regularizers": {"dire": {"r_c": 2}}},
        "bare": {"overrides": {"recover": {"plan": {"per_class": 2}}}},
    }
    path = write_recipe(tmp_path / "arms.yaml", {"arms": arms})
    names = ("baseline", "control", "energy", *arms, "random")
    planned = {arm: plan_run(request(path, arm)) for arm in names}
    assert split_by_control(planned) == ("control", ("energy", "dire", "elsewhere"), ("regrouped",))
    del planned["control"]
    # baseline is `dire` without its term, and so control under another name
    assert split_by_control(planned) == ("baseline", ("energy", "dire", "elsewhere"), ("regrouped",))
    del planned["baseline"]
    assert split_by_control(planned) == ("control", (), ())


def test_two_engines_are_not_compared(bare_home: Path, recipe: Path) -> None:
    planned = {arm: plan_run(request(recipe, arm)) for arm in ("control", "dire", "random")}
    planned["dire"] = replace(planned["dire"], engine="upstream")
    with pytest.raises(DirePlugError, match=r"must use one engine, not .*'control': 'native', 'dire': 'upstream'"):
        check_alike(planned)


def test_arms_with_other_components_are_not_compared(bare_home: Path, recipe: Path) -> None:
    planned = {
        arm: plan_run(replace(request(recipe, arm), accelerate="fast", able=able))
        for arm, able in {"control": ("bf16",), "dire": ("bf16", "compile")}.items()
    }
    with pytest.raises(DirePlugError, match=r"'native, fast \(bf16\)', 'dire': 'native, fast \(bf16 \+ compile\)'"):
        check_alike(planned)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("evaluate", {"evaluate": {"epochs": 3}}),
        ("dataset", {"dataset": {"limit": 200}}),
        ("squeeze", {"squeeze": {"teacher": {"epochs": 2}}}),
        ("measure", {"measure": {"nearest_k": 3}}),
    ],
)
def test_arms_that_differ_in_more_than_the_synthesis_are_not_compared(
    cli: Cli, bare_home: Path, tmp_path: Path, part: str, change: dict[str, Any]
) -> None:
    path = write_recipe(tmp_path / "unfair.yaml", {"arms": {"dire": {"overrides": change}}})
    answer = cli("compare", "sre2l", "--recipe", path, "--engine", "native")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"error: arms baseline and control differ in `{part}`, so they can't be compared\n"
    assert run_folders(bare_home) == []


def test_seeds_are_paired_across_arms_and_finished_runs_are_reused(home: Path, recipe: Path) -> None:
    found = compare(request(recipe, seed=3, settings=("ipc=2",)), arms=("control", "dire"), seeds=2)
    assert found.changes == ("--set ipc=2",)
    assert found.seeds == (3, 4)
    assert [[run.metrics["seed"] for run in runs] for runs in found.runs.values()] == [[3, 4], [3, 4]]
    again = compare(request(recipe, seed=3), arms=("control", "dire"), seeds=2)
    assert all(run.reused for runs in again.runs.values() for run in runs)
    assert not any(run.reused for runs in found.runs.values() for run in runs)


if __name__ == "__main__":
    TABLE.write_text(as_text(render(canned())))
