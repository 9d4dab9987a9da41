"""The seven combinations and the sweep: how values are normalised, what is tried, how the best is chosen and tested."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.canned_runs import Score, canned, score_runs
from support.cli import Cli
from support.small_run import read_rows, run_folders, write_recipe

from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import read_json
from dire_plug.paper.ablate import (
    Sweep,
    ablate_components,
    components_json,
    draw_trials,
    render_sweep,
    sweep,
    sweep_json,
)
from dire_plug.paper.ablate.components import (
    COMBINATIONS,
    CONTROL,
    PAPER,
    component_settings,
    normalise,
    normalised_columns,
)
from dire_plug.paper.ablate.sweep import BEST, DEFAULT, make_grid
from dire_plug.paper.ablate.sweep_table import ranked, sweep_notes, verdict
from dire_plug.paper.ablate.trials import Setting, Trial
from dire_plug.pipeline import Request, plan_run
from dire_plug.results.figures import FORMATS

KEEP = ("--engine", "native", "--seeds", "1")


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, bare_home: Path) -> Callable[[Score], list[Request]]:
    """Return a function that lets runs score what `score` says; it returns the list of requests that will have run."""
    return lambda score: score_runs(monkeypatch, score)


def request(recipe: Path, *settings: str, **more: Any) -> Request:
    return Request("sre2l", recipe=str(recipe), engine="native", settings=settings, **more)


def has(asking: Request, text: str) -> bool:
    return any(text in setting for setting in asking.settings)


def on_validation(asking: Request) -> bool:
    return "evaluate.judge=validation" in asking.settings


def as_text(content: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=250, color_system=None).print(content)
    return stream.getvalue()


# Normalised values.


def test_the_least_becomes_0_and_the_greatest_1() -> None:
    assert normalise([3.0, 1.0, 2.0]) == [1.0, 0.0, 0.5]
    assert normalise([None, 1.0, 5.0]) == [None, 0.0, 1.0]
    assert normalise([2.0, 2.0, None]) == [None, None, None]
    assert normalise([]) == []


def test_the_papers_columns_are_normalised_over_their_seven_rows() -> None:
    """The reason for our reading of "normalized": each column has its 0 and its 1 among the seven."""
    for column in range(3):
        values = [float(row[column]) for row in PAPER.values()]
        assert (min(values), max(values)) == (0.0, 1.0)
    assert PAPER["CD"][1] == 0.0  # similarity isn't turned round: least where CD alone pulls images apart


def test_the_rows_are_every_choice_of_parts() -> None:
    parts = ("cd", "cdm", "edm")
    every = {choice for size in (1, 2, 3) for choice in itertools.combinations(parts, size)}
    assert set(COMBINATIONS.values()) == every
    assert list(COMBINATIONS) == list(PAPER)


def test_combinations_differ_in_their_parts_alone(bare_home: Path, recipe: Path) -> None:
    own = plan_run(request(recipe, arm="dire")).resolved
    for setting in component_settings()[1:]:
        found = plan_run(setting.of(request(recipe), seed=0)).resolved
        assert found.recipe.recover == own.recipe.recover
        expected = {**own.regularizers["dire"], "components": list(COMBINATIONS[setting.name])}
        assert found.regularizers["dire"] == expected


def test_the_control_stands_on_the_scale_of_the_seven(scored: Callable[[Score], list[Request]], recipe: Path) -> None:
    places = {str(list(parts)).replace("'", ""): number for number, parts in enumerate(COMBINATIONS.values())}

    def score(asking: Request) -> float:
        if asking.arm == "control":
            return 13.0
        return 10.0 + next(number for parts, number in places.items() if has(asking, f"={parts}"))

    scored(score)
    found = normalised_columns(ablate_components(request(recipe), 2), "T")
    assert found["coverage"] == pytest.approx({"control": 0.5, **{n: i / 6 for i, n in enumerate(COMBINATIONS)}})
    assert found["similarity"]["CD"] == pytest.approx(1)  # 1 − accuracy/100: the most alike
    assert found["similarity"]["CD + CDM + EDM"] == pytest.approx(0)


def test_a_combination_that_fails_is_told_and_the_others_go_on(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    def score(asking: Request) -> float:
        if has(asking, "=[cdm]"):
            raise DirePlugError("the images are not finite")
        return 20.0 + asking.seed

    scored(score)
    content = components_json(ablate_components(request(recipe), 2))
    assert content["rows"]["CDM"]["trouble"] == "failed with seed 0: the images are not finite"
    assert content["rows"]["CDM"]["runs"] == []
    assert content["rows"]["CDM"]["minus_control"] is None
    assert content["rows"]["EDM"]["summary"]["accuracy"]["mean"] == 20.5
    assert content["notes"][-1] == "CDM: failed with seed 0: the images are not finite"


def test_components_are_run_drawn_stored_and_found_again(cli: Cli, home: Path, recipe: Path) -> None:
    answer = cli("ablate", "sre2l", "--recipe", recipe, "--only", "components", *KEEP)
    assert answer.code == 0, answer.err
    rows = [row[0] for row in read_rows(answer.out)]
    assert [rows.count(name) for name in (CONTROL, *COMBINATIONS)] == [3] * 8
    assert ["CD + EDM", "33.6 ± 0.1"] in [[row[0], row[-1]] for row in read_rows(answer.out)]
    assert "one synthesis of each setting: no spread" in answer.out
    (folder,) = home.glob("runs/sre2l/*/ablate-*")
    content = read_json(folder / "ablate.json")
    assert list(content) == ["components"]
    assert {path.name for path in folder.iterdir()} == {"ablate.json", *(f"components{end}" for end in FORMATS)}
    runs = {row["runs"][0] for row in content["components"]["rows"].values()}
    assert runs == {path.name for path in run_folders(home)}
    assert len(runs) == 8
    own = cli("run", "sre2l", "--recipe", recipe, "--dire", "--engine", "native")
    assert "it was finished before" in own.out  # all three parts: the recipe's own arm
    before = {path: path.stat().st_mtime_ns for path in home.glob("store/*/*/entry.json")}
    assert cli("ablate", "sre2l", "--recipe", recipe, "--only", "components", *KEEP).code == 0
    assert {path: path.stat().st_mtime_ns for path in home.glob("store/*/*/entry.json")} == before
    assert list(home.glob("runs/sre2l/*/ablate-*")) == [folder]


# What is tried.


def names(recipe: Path, *texts: str, **more: Any) -> list[str]:
    return [setting.name for setting in make_grid(request(recipe, **more), texts)[0]]


def test_the_default_grids_lie_around_the_recipes_own_values(bare_home: Path, recipe: Path) -> None:
    """The tiny recipe has multiplier .3, r_c 1, r_e .03, two images of a class a batch, and the variant released."""
    assert names(recipe) == [
        DEFAULT,
        "r_c 0.3",
        "r_c 3",
        "r_e 0.009",
        "r_e 0.09",
        "multiplier 0.03",
        "multiplier 0.09",
        "multiplier 0.9",
        "plan keep",
        "variant paper-mean",
        "real.order as_released",
    ]


def test_each_setting_differs_from_the_recipes_own_in_one_thing(bare_home: Path, recipe: Path) -> None:
    own, *others = (
        plan_run(setting.of(request(recipe), seed=0)).resolved for setting in make_grid(request(recipe), ())[0]
    )
    for found in others:
        term, ours = found.regularizers["dire"], own.regularizers["dire"]
        changed = {key for key in ours if term[key] != ours[key]} - {"reduction"}
        changed |= {part for part in ("recover", "real") if getattr(found.recipe, part) != getattr(own.recipe, part)}
        assert len(changed) == 1


def test_a_grid_replaces_the_default_ones_and_tries_equal_settings_once(bare_home: Path, recipe: Path) -> None:
    settings, left_out = make_grid(request(recipe), ("r_c=0.3, 1,2", "plan=2,1"))
    assert [setting.name for setting in settings] == [DEFAULT, "r_c 0.3", "r_c 2", "plan 1"]
    assert left_out == ["r_c 1: the same as default", "plan 2: the same as default"]


def test_what_a_method_refuses_of_a_default_grid_is_left_out_and_said(bare_home: Path) -> None:
    settings, left_out = make_grid(Request("delt"), (), dry=True)
    assert "plan keep" not in [setting.name for setting in settings]
    assert [line.partition(": ")[0] for line in left_out] == ["plan 10"]
    assert "recover.plan: must be 'keep'" in left_out[0]


def test_weights_of_the_printed_sums_have_no_other_variant(bare_home: Path, recipe: Path) -> None:
    sums = ("regularizers.dire.variant=paper", "regularizers.dire.r_c=0")
    _, left_out = make_grid(request(recipe, *sums), ())
    assert {
        "variant: no default grid here; give one with --grid",
        "r_c: no default grid here; give one with --grid",
    } == {*left_out}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("r_x=1", "--grid r_x=1: no axis 'r_x' (did you mean 'r_e'?)"),
        ("r_c", "--grid r_c: expected AXIS=VALUE,VALUE…"),
        ("r_c=,", "--grid r_c=,: expected AXIS=VALUE,VALUE…"),
        ("plan=half", "--grid plan=half: expected keep, or how many images of a class share a batch"),
        ("r_c=-1", "regularizers.dire.r_c: must be at least 0"),
        ("variant=released,papr", "--grid variant=papr: no such variant"),
        ("real.order=sorted", "real.order: must be 'by_class' or 'as_released'"),
    ],
)
def test_a_wrong_grid_is_told_before_anything_runs(
    cli: Cli, bare_home: Path, recipe: Path, text: str, words: str
) -> None:
    answer = cli("ablate", "sre2l", "--recipe", recipe, "--grid", text, *KEEP)
    assert answer.code == 2
    assert words in answer.err
    assert not bare_home.exists()


def test_a_grid_without_a_sweep_is_refused(cli: Cli, bare_home: Path) -> None:
    answer = cli("ablate", "sre2l", "--only", "components", "--grid", "r_c=1")
    assert answer.code == 2
    assert "--grid belongs to the sweep" in answer.err


@pytest.mark.parametrize("arms", [{}, {"energy-like": {"regularizers": {"probe": {}}}}])
def test_a_recipe_without_the_arm_dire_is_told_so(cli: Cli, bare_home: Path, tmp_path: Path, arms: Any) -> None:
    import yaml

    path = write_recipe(tmp_path / "bare.yaml")
    content = yaml.safe_load(path.read_text())
    content["arms"] = arms
    content["sources"] = {}
    path.write_text(yaml.safe_dump(content))
    answer = cli("ablate", "sre2l", "--recipe", path, *KEEP)
    assert answer.code == 2
    assert "has no arm 'dire' with the regularizer 'dire', so there is nothing to ablate" in answer.err


def test_a_dry_run_lists_every_setting_and_makes_nothing(cli: Cli, bare_home: Path, recipe: Path) -> None:
    answer = cli("ablate", "sre2l", "--recipe", recipe, "--dry-run", *KEEP)
    assert answer.code == 0, answer.err
    rows = read_rows(answer.out)
    assert ["CD + EDM", "dire", "regularizers.dire.components=[cd, edm]"] in rows
    assert ["plan keep", "dire", "recover.plan=keep"] in rows
    assert "sweep, on validation images, a fifth of each class, at most 5000 in all, 1 of each" in answer.out
    assert not bare_home.exists()


# How the best is chosen and tested.


def swept(recipe: Path, seeds: int = 2, *texts: str) -> Sweep:
    return sweep(request(recipe), seeds, grid=texts or ("r_c=2,3",))


def test_the_best_on_validation_is_reported_even_if_it_loses_in_the_test(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    def score(asking: Request) -> float:
        gain = 2.0 if has(asking, "r_c=3") else 0.0
        return 50.0 + asking.seed % 2 + (gain if on_validation(asking) else -gain) + (asking.arm == "dire")

    asked = scored(score)
    found = swept(recipe)
    assert found.best == "r_c 3"
    assert ranked(found) == ["r_c 3", DEFAULT, "r_c 2"]
    assert verdict(found) == [
        "best of 3 on validation images: r_c 3",
        "on the test set it loses to default (−2.0 ± 0.0 points) and loses to control (−1.0 ± 0.0 points)",
    ]
    assert list(found.final) == ["baseline", "control", DEFAULT, BEST]
    tested = [asking for asking in asked if not on_validation(asking)]
    assert {asking.seed for asking in tested} == {2, 3}
    assert {asking.seed for asking in asked if on_validation(asking)} == {0, 1}
    assert all("dataset.validation=20" in asking.settings for asking in asked)
    content = sweep_json(found)
    assert content["final_differences"][f"{BEST} − {DEFAULT}"]["mean"] == -2.0
    assert content["ranking"][0] == content["best"] == "r_c 3"
    assert "r_c 3 ← best" in as_text(render_sweep(found))


def test_the_recipes_own_setting_wins_ties_and_is_not_tested_twice(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    scored(lambda asking: 50.0 + asking.seed)
    found = swept(recipe)
    assert found.best == DEFAULT
    assert list(found.final) == ["baseline", "control", DEFAULT]
    assert verdict(found) == [
        "best of 3 on validation images: default",
        "on validation images no more accurate than its own control: the term did not help there",
        "that is the recipe's own setting; on the test set it equals control (+0.0 ± 0.0 points)",
    ]


def test_a_setting_with_another_plan_has_a_control_of_its_own(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    asked = scored(lambda asking: 50.0 + 5 * has(asking, "recover.plan=keep") + (asking.arm == "dire"))
    found = swept(recipe, 1, "plan=keep", "r_c=2")
    assert found.best == "plan keep"
    assert found.controls["plan keep"].accuracy == 55.0
    assert found.controls["plan keep"].same_as is None
    assert found.controls["r_c 2"].same_as == "control"
    assert found.final_controls == {DEFAULT: "control", BEST: "control of best"}
    # without its term this setting is the published method, which is run already
    assert found.final["control of best"].same_as == "baseline"
    assert "gains on default (+5.0 points) and gains on control of best (+6.0 points)" in verdict(found)[-1]
    assert len([asking for asking in asked if asking.arm == "control" and on_validation(asking)]) == 2


def test_a_setting_that_fails_or_collapses_is_told_and_never_the_best(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    def score(asking: Request) -> float:
        if has(asking, "r_c=2"):
            raise DirePlugError("plugin 'dire': its term was not finite")
        return 24.0 if has(asking, "r_c=3") else 50.0

    asked = scored(score)
    found = swept(recipe, 2, "r_c=2,3,4")
    assert found.best == DEFAULT
    assert ranked(found) == [DEFAULT, "r_c 4", "r_c 2", "r_c 3"]
    assert found.tried["r_c 3"].problem == "collapsed: 24.0 % accuracy, below half of its control's 50.0 %"
    assert len([asking for asking in asked if has(asking, "r_c=2")]) == 1  # its other seed isn't tried
    assert verdict(found)[0] == "best of 2 on validation images: default"
    told = as_text(render_sweep(found))
    assert ["r_c 2", "failed"] in read_rows(told)
    assert "r_c 3, collapsed" in told
    assert "r_c 2: failed with seed 0: plugin 'dire': its term was not finite" in told


def test_below_twice_chance_nothing_counts_as_collapsed(scored: Callable[[Score], list[Request]], recipe: Path) -> None:
    scored(lambda asking: 5.0 if has(asking, "r_c=2") else 20.0)
    assert swept(recipe).tried["r_c 2"].problem is None


def test_a_best_setting_that_fails_with_the_new_seeds_is_told(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    def score(asking: Request) -> float:
        if has(asking, "r_c=2") and not on_validation(asking):
            raise DirePlugError("the images are not finite")
        return 60.0 if has(asking, "r_c=2") else 50.0

    scored(score)
    found = swept(recipe, 1, "r_c=2")
    assert verdict(found)[-1] == "on the test set it can't be compared with default and can't be compared with control"
    assert "best, tested: failed with seed 1: the images are not finite" in as_text(render_sweep(found))
    assert sweep_json(found)["final"][BEST]["runs"] == []


@pytest.mark.parametrize("arm", ["control", "dire"])
def test_a_control_or_default_that_fails_ends_the_sweep(
    scored: Callable[[Score], list[Request]], recipe: Path, arm: str
) -> None:
    def score(asking: Request) -> float:
        if asking.arm == arm:
            raise DirePlugError("it broke")
        return 50.0

    scored(score)
    with pytest.raises(DirePlugError, match="it broke"):
        swept(recipe)


def test_a_run_that_another_process_holds_ends_the_sweep(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    def score(asking: Request) -> float:
        if has(asking, "r_c=2"):
            raise RunBusyError("held")
        return 50.0

    scored(score)
    with pytest.raises(RunBusyError):
        swept(recipe)


def test_the_notes_say_how_many_were_tried_and_how_sure_an_accuracy_is(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    scored(lambda asking: 50.0)
    (line,) = [line for line in sweep_notes(swept(recipe)) if "luck" in line]
    assert line == (
        "the best of 3 settings looks better on validation images than it is, since the luckiest is chosen "
        "(one accuracy on 20 images is uncertain by ± 11.2 points, binomial)"  # 100·√(.25/20)
    )


def test_a_recipes_own_number_of_validation_images_is_kept(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    asked = scored(lambda asking: 50.0)
    found = sweep(request(recipe, "dataset.validation=30"), 1, grid=("r_c=2",))
    assert found.validation == 30
    assert {asking.settings.count("dataset.validation=30") for asking in asked} == {2}


def test_a_picture_is_drawn_of_settings_that_failed_too(tmp_path: Path) -> None:
    control = Trial(Setting("control", arm="control"), (canned("control", 0, 40.0),))
    trials = {
        "good": Trial(Setting("good"), (canned("dire", 0, 50.0), canned("dire", 1, 60.0))),
        "bad": Trial(Setting("bad"), (), problem="failed"),
        "poor": Trial(Setting("poor"), (canned("dire", 0, 5.0),), problem="collapsed"),
    }
    draw_trials(trials, control, tmp_path / "new" / "picture.png", title="settings", accuracy="accuracy %")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_really_runs_and_keeps_the_test_for_the_end(cli: Cli, bare_home: Path, recipe: Path) -> None:
    answer = cli("ablate", "sre2l", "--recipe", recipe, "--only", "sweep", "--grid", "real.order=as_released", *KEEP)
    assert answer.code == 0, answer.err
    (folder,) = bare_home.glob("runs/sre2l/*/ablate-*")
    assert {path.name for path in folder.iterdir()} == {"ablate.json", *(f"sweep{end}" for end in FORMATS)}
    content = read_json(folder / "ablate.json")["sweep"]
    assert list(content["tried"]) == [DEFAULT, "real.order as_released"]
    judged = {path.name: read_json(path / "metrics.json")["judged"] for path in run_folders(bare_home)}
    tried = [content["controls"][DEFAULT], *content["tried"].values()]
    assert [judged[name] for trial in tried for name in trial["runs"]] == ["validation"] * 3
    assert {judged[name] for trial in content["final"].values() for name in trial["runs"]} == {"test"}
    assert len({str(read_json(path / "metrics.json")["networks"]) for path in run_folders(bare_home)}) == 1
    assert (content["seeds"], content["final_seeds"], content["validation_images"]) == ([0], [1], 20)
