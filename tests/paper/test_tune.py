"""The search of a term's settings: what is searched, whose a trial is, when it is pruned, what becomes of the best."""

import contextlib
import itertools
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.canned_runs import Score, score_runs
from support.cli import Cli
from support.small_run import read_rows, run_folders, start_process, wait_until, when_made, write_recipe

from dire_plug import plugins
from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import read_json
from dire_plug.paper.tune import Tuned, plan_study, render_tuned, tune, tuned_json
from dire_plug.paper.tune.space import as_settings, short_names
from dire_plug.paper.tune.study import JOURNAL, Study, Tried, read_study
from dire_plug.paper.tune.tune_table import ranked, study_notes, verdict
from dire_plug.pipeline import Request, plan_run
from dire_plug.recipe import AS_PRINTED, PROBE, header, read_yaml
from dire_plug.recipe.loading import merge, settings_tree, split_setting
from dire_plug.ui import to_text

MULTIPLIER, R_E = "regularizers.dire.multiplier", "regularizers.dire.r_e"
AUTO = "regularizers.{}.weight=auto"
REGULARIZERS = [name for name in plugins.known("regularizers") if name != PROBE]


def request(recipe: Path, *settings: str, arm: str = "dire", **more: Any) -> Request:
    return Request("sre2l", recipe=str(recipe), engine="native", arm=arm, settings=settings, **more)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, bare_home: Path) -> Callable[[Score], list[Request]]:
    """Return a function that lets runs score what `score` says; it returns the list of requests that will have run."""
    return lambda score: score_runs(monkeypatch, score)


def value_of(asking: Request, key: str) -> float | None:
    """Return the value of a setting that a trial was given; None in other runs."""
    found = [split_setting(text) for text in asking.settings]
    return next((value for keys, value in found if ".".join(keys) == key), None)


def on_validation(asking: Request) -> bool:
    return "evaluate.judge=validation" in asking.settings


# What is searched.


def searched(recipe: Path, *settings: str, search: tuple[str, ...] = (), **more: Any) -> list[str]:
    return [str(one) for one in plan_study(request(recipe, *settings, **more), seeds=1, search=search).space]


def test_the_default_ranges_lie_around_the_recipes_own_values(bare_home: Path, recipe: Path) -> None:
    """The tiny recipe has multiplier .3 and r_e .03."""
    assert searched(recipe) == [f"{MULTIPLIER}=0.03..3:log", f"{R_E}=0.003..0.3:log"]


def test_a_weight_that_follows_gradients_is_searched_by_its_ratio(bare_home: Path, recipe: Path) -> None:
    """The multiplier has no effect then: the ratio is that of the whole term's gradient. Above .3 images collapse."""
    found = searched(recipe, "regularizers.dire.weight=auto")
    assert found == ["regularizers.dire.weight.ratio=0.02..0.3:log", f"{R_E}=0.003..0.3:log"]


@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_regularizer_has_a_default_search(bare_home: Path, recipe: Path, name: str) -> None:
    for settings, scale in (((), "multiplier" if name == "dire" else "weight"), ((AUTO.format(name),), "weight.ratio")):
        plan = plan_study(request(recipe, *settings, arm=name), seeds=1)
        keys = [one.key.removeprefix(f"regularizers.{name}.") for one in plan.space]
        assert keys[0] == scale
        assert not {"weight", "multiplier", "r_c"} & set(keys[1:])
        assert plan.own_values is not None


@pytest.mark.parametrize(("components", "keys"), [("[cd]", [MULTIPLIER]), ("[edm]", [MULTIPLIER])])
def test_what_would_change_nothing_is_left_out_and_said(
    bare_home: Path, recipe: Path, components: str, keys: list[str]
) -> None:
    plan = plan_study(request(recipe, f"regularizers.dire.components={components}"), seeds=1)
    assert [one.key for one in plan.space] == keys
    assert [line.partition(":")[0] for line in plan.left_out] == [R_E]


def test_a_search_replaces_the_default_one(bare_home: Path, recipe: Path) -> None:
    texts = (f"{R_E}=0.01..0.3", MULTIPLIER, "regularizers.dire.components=[edm],[cd, edm]")
    assert searched(recipe, search=texts) == [
        f"{R_E}=0.01..0.3",
        f"{MULTIPLIER}=0.03..3:log",
        "regularizers.dire.components=[edm],[cd, edm]",
    ]


def test_settings_of_two_terms_keep_their_names_apart(bare_home: Path, recipe: Path) -> None:
    plan = plan_study(request(recipe, arm="dpp+dire"), seeds=1)
    assert list(short_names(plan.space).values())[:2] == ["dpp.weight", "dpp.epsilon"]
    assert plan.space[-1].key == R_E


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("regularizers.dire.r_x=1..2", "arm 'dire' has no such setting of a regularizer (did you mean 'regularizers."),
        ("recover.plan=1..2", "Other keys of the recipe would change the control too"),
        (f"{R_E}=2..1", "expected LOW..HIGH or LOW..HIGH:log, with LOW below HIGH"),
        (f"{R_E}=a..1", "'a..1' is no range of two numbers"),
        (f"{R_E}=0..1:log", "a logarithm needs LOW above 0"),
        (f"{R_E}=1..2:lin", "expected LOW..HIGH or LOW..HIGH:log"),
        (f"{R_E}=1", "or two different values or more"),
        (f"{R_E}=-1..1", "at -1.0: regularizers.dire.r_e: must be at least 0"),
        ("regularizers.dire.weight.every=1..9", "regularizers.dire has no such"),
        ("regularizers.dire.variant=released,papr", "at papr: "),
        ("regularizers.dire.variant", "has no default range; give one"),
    ],
)
def test_a_wrong_search_is_told_before_anything_runs(
    cli: Cli, bare_home: Path, recipe: Path, text: str, words: str
) -> None:
    answer = cli("tune", "sre2l", "--recipe", recipe, "--engine", "native", "--search", text)
    assert answer.code == 2
    assert words in answer.err or "has no such setting" in answer.err
    assert not bare_home.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "evaluate.judge=test"), "settings are chosen on validation images, never on the test set"),
        (("--arm", "control"), "arm 'control' of recipe"),
        (("--set", f"{R_E}=1", "--search", R_E), "contradict each other"),
        (("--search", R_E, "--search", f"{R_E}=1..2"), "is given twice"),
        (("--set", f"{R_E}=1", "--set", f"{MULTIPLIER}=1"), "nothing is searched"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    cli: Cli, bare_home: Path, recipe: Path, arguments: tuple[str, ...], words: str
) -> None:
    answer = cli("tune", "sre2l", "--recipe", recipe, "--engine", "native", *arguments)
    assert answer.code == 2
    assert words in answer.err
    assert not bare_home.exists()


# Whose a trial is.


def open_study(folder: Path, recipe: Path, *, seed: int = 0) -> Study:
    plan = plan_study(request(recipe), seeds=1)
    return Study(folder, plan.space, seed=seed, own=plan.own_values)


def test_two_workers_never_get_the_same_trial(bare_home: Path, tmp_path: Path, recipe: Path) -> None:
    one, other = open_study(tmp_path, recipe), open_study(tmp_path, recipe)
    with contextlib.ExitStack() as held:
        mine, theirs = one.claim(2, total=5, held=held), other.claim(9, total=5, held=held)
        assert [trial.number for trial in mine] == [0, 1]
        assert [trial.number for trial in theirs] == [2, 3, 4]
        assert len({str(trial.values) for trial in (*mine, *theirs)}) == 5
        assert one.claim(1, total=5, held=held) == []
        with pytest.raises(RunBusyError, match="trial 0 of the study"):
            one.wait_for_others(wait=False)


def test_a_trial_that_was_left_goes_on_with_its_number_and_values(
    bare_home: Path, tmp_path: Path, recipe: Path
) -> None:
    with contextlib.ExitStack() as held:
        left = open_study(tmp_path, recipe).claim(2, total=9, held=held)
        left[0].report(12.5)
    with contextlib.ExitStack() as held:
        study = open_study(tmp_path, recipe)
        found = study.claim(3, total=9, held=held)
        assert [trial.number for trial in found] == [0, 1, 2]
        assert [trial.values for trial in found[:2]] == [trial.values for trial in left]
        assert not found[0].report(12.5)  # once more
        found[0].complete([40.0, 50.0], ["run-0", "run-1"])
        found[1].fail("it broke")
        found[2].prune(["run-2"])
    told = study.trials()
    assert [trial.state for trial in told] == ["complete", "failed", "pruned"]
    assert (told[0].first, told[0].accuracy, told[0].runs) == (12.5, 45.0, ("run-0", "run-1"))
    assert told[1].why == "it broke"


def test_what_a_trial_draws_follows_from_the_seed_and_its_number(bare_home: Path, tmp_path: Path, recipe: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with contextlib.ExitStack() as held:
            # another process for each: nothing of a sampler's state is kept
            numbers = [open_study(tmp_path / name, recipe, seed=seed).claim(1, total=9, held=held)[0] for _ in range(3)]
            drawn.append([trial.values for trial in numbers])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == drawn[2][0] == {MULTIPLIER: 0.3, R_E: 0.03}  # the recipe's own
    assert drawn[0][1] != drawn[2][1]


def test_a_journal_with_half_a_line_is_mended_and_another_file_refused(
    bare_home: Path, tmp_path: Path, recipe: Path
) -> None:
    with contextlib.ExitStack() as held:
        open_study(tmp_path, recipe).claim(2, total=2, held=held)
    journal = tmp_path / JOURNAL
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    with contextlib.ExitStack() as held:
        study = open_study(tmp_path, recipe)
        assert [trial.number for trial in study.claim(3, total=3, held=held)] == [0, 1, 2]
    assert read_study(tmp_path) == study.trials()
    for content in ("no journal\n", "[1]\n", "{}\n"):
        journal.write_text(content)
        with pytest.raises(DirePlugError, match=r"study\.journal: is no journal of Optuna's"):
            open_study(tmp_path, recipe)


# A whole study.


def hill(asking: Request) -> float:
    """Score trials the higher, the nearer the multiplier is to 1; what is tested loses to control."""
    multiplier = value_of(asking, MULTIPLIER)
    if asking.arm == "control":
        return 50.0
    if not on_validation(asking):
        return 48.0 if multiplier is None and asking.preset else 49.0
    return 60.0 - 10 * abs(1 - (multiplier or 0.3))


def tuned(recipe: Path, *settings: str, trials: int = 4, seeds: int = 1, **more: Any) -> Tuned:
    return tune(plan_study(request(recipe, *settings), seeds=seeds), trials=trials, **more)


def test_the_best_becomes_a_preset_and_is_tested_even_where_it_loses(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    asked = scored(hill)
    found = tuned(recipe, seeds=2)
    assert len(found.trials) == 4
    best = max(found.trials, key=lambda one: one.accuracy or 0)
    assert found.best == best
    assert found.own == 0
    preset = plan_run(request(found.file, preset=found.preset)).resolved
    own = plan_run(request(recipe)).resolved
    assert preset.regularizers["dire"] == own.regularizers["dire"] | {
        "multiplier": best.values[MULTIPLIER],
        "r_e": best.values[R_E],
    }
    assert preset.recipe.recover == own.recipe.recover
    assert f"study {found.folder.name}" in preset.origin[MULTIPLIER]
    assert "chosen: the best of 4 trials (0 pruned)" in preset.origin[MULTIPLIER]
    assert "on 20 validation images, 2 seeds with 1 student each" in preset.origin[MULTIPLIER]
    assert verdict(found) == [
        f"best of 4 trials (4 complete) on validation images: trial {best.number}",
        "on the test set it loses to control (−2.0 ± 0.0 points) and loses to the recipe's own setting (−1.0 ± 0.0 "
        "points)",
    ]
    tested = [asking for asking in asked if not on_validation(asking)]
    assert {asking.seed for asking in tested} == {2, 3}
    assert {asking.seed for asking in asked if on_validation(asking)} == {0, 1}
    assert all("dataset.validation=20" in asking.settings for asking in asked)
    content = tuned_json(found)
    assert content["ranking"][0] == content["best"] == best.number
    assert content["test_differences"]["control"]["mean"] == -2.0
    shown = "".join(to_text(part) for part in render_tuned(found))
    assert f"{best.number} ← best" in shown
    assert "0, the recipe's own" in shown


def test_settings_of_the_command_line_go_into_the_preset(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    scored(hill)
    found = tuned(recipe, "regularizers.dire.weight=auto", "evaluate.epochs=1")
    assert found.best.values.keys() == {"regularizers.dire.weight.ratio", R_E}
    preset = read_yaml(found.file)["presets"][found.preset]
    assert preset["regularizers"]["dire"] == {
        "weight": {"ratio": found.best.values["regularizers.dire.weight.ratio"]},
        "r_e": found.best.values[R_E],
    }
    assert found.tested.changes[:2] == ("--preset tuned", "--set evaluate.epochs=1")
    assert header(found.file) == f"A copy of sre2l/tiny with the preset 'tuned', from the study {found.folder.name}."


@pytest.mark.parametrize(("arm", "key"), [("dire", MULTIPLIER), ("dpp", "regularizers.dpp.weight")])
def test_what_is_written_on_top_of_as_printed_is_what_was_searched(
    scored: Callable[[Score], list[Request]], tmp_path: Path, arm: str, key: str
) -> None:
    """The printed arm lacks what the recipe's own arm changes, which no preset could take away."""
    scored(hill)
    terms = {"dire": {"weight": "auto"}, "energy": {"weight": 0.2}}
    overrides = {"recover": {"start": "real", "flags": {"lr": 0.02}}}
    recipe = write_recipe(tmp_path / "two.yaml", {"arms": {"dire": {"overrides": overrides, "regularizers": terms}}})
    asked = request(recipe, arm=arm, preset=AS_PRINTED, ipc=3)
    found = tune(plan_study(asked, seeds=1, search=(f"{key}=2..3",)), trials=1)
    for name in (arm, "control", "baseline"):
        searched = plan_run(replace(asked, arm=name)).resolved
        written = plan_run(request(found.file, arm=name, preset=found.preset, ipc=3)).resolved
        assert written.recipe.recover == searched.recipe.recover
        terms = settings_tree(as_settings(found.best.values) if name == arm else ())
        assert {"regularizers": written.regularizers} == merge({"regularizers": searched.regularizers}, terms)
    assert header(found.file).endswith("its arm dire is as printed, for IPC 3.")


def test_the_recipes_own_setting_may_be_the_best(scored: Callable[[Score], list[Request]], recipe: Path) -> None:
    scored(lambda asking: 50.0)
    found = tuned(recipe, trials=2)
    assert found.best.number == 0
    assert verdict(found) == [
        "best of 2 trials (2 complete) on validation images: trial 0",
        "on validation images no more accurate than control: the term did not help there",
        "that is the recipe's own setting; on the test set it equals control (+0.0 points)",
    ]


def test_a_trial_below_the_median_of_first_students_ends_there(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    asked = scored(lambda asking: 20.0 if value_of(asking, MULTIPLIER) == values[6] else 50.0)
    values = [0.0] * 7
    with contextlib.ExitStack() as held:
        plan = plan_study(request(recipe, "evaluate.per_synthesis=2"), seeds=1)
        study = Study(plan.folder(), plan.space, seed=0, own=plan.own_values)
        values = [float(trial.values[MULTIPLIER]) for trial in study.claim(7, total=7, held=held)]
    found = tuned(recipe, "evaluate.per_synthesis=2", trials=7)
    assert [one.state for one in found.trials] == ["complete"] * 6 + ["pruned"]
    assert (found.trials[6].first, found.trials[6].accuracy) == (20.0, None)
    runs = [asking.settings[-1] for asking in asked if value_of(asking, MULTIPLIER) == values[6]]
    assert runs == ["evaluate.per_synthesis=1"]
    assert ranked(found.trials)[-1].number == 6
    assert any(line.startswith("1 pruned: the first student") for line in study_notes(found))


def test_a_trial_that_fails_is_told_and_the_others_go_on(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    def score(asking: Request) -> float:
        # as a trial, and by itself
        if asking.arm == "dire" and not asking.preset and value_of(asking, MULTIPLIER) in (0.3, None):
            raise DirePlugError("plugin 'dire': its term was not finite")
        return 50.0

    scored(score)
    found = tuned(recipe, trials=3)
    assert [one.state for one in found.trials] == ["failed", "complete", "complete"]
    assert study_notes(found)[-1] == "trial 0 failed: plugin 'dire': its term was not finite"
    assert verdict(found)[-1] == "on the test set it equals control (+0.0 points)"


def test_three_failures_in_a_row_end_the_study(scored: Callable[[Score], list[Request]], recipe: Path) -> None:
    def score(asking: Request) -> float:
        if asking.arm == "dire":
            raise DirePlugError("the disk is full")
        return 50.0

    asked = scored(score)
    with pytest.raises(DirePlugError, match="3 trials in a row failed, the last of them: the disk is full"):
        tuned(recipe, trials=9)
    assert len(asked) == 4


def test_a_control_that_fails_ends_the_command_before_any_trial(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    def score(asking: Request) -> float:
        raise DirePlugError("it broke")

    asked = scored(score)
    with pytest.raises(DirePlugError, match="it broke"):
        tuned(recipe)
    assert [asking.arm for asking in asked] == ["control"]


def test_a_study_that_was_killed_has_the_trials_of_a_whole_one(
    scored: Callable[[Score], list[Request]], recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Past the ten random trials, so that what is drawn depends on the earlier results."""
    calls = 0

    def impatient(asking: Request) -> float:
        nonlocal calls
        calls += 1
        if calls in (4, 12):
            raise KeyboardInterrupt
        return hill(asking)

    scored(hill)
    whole = tuned(recipe, trials=13)
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "other"))
    scored(impatient)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tuned(recipe, trials=13)
    found = tuned(recipe, trials=13)
    assert found.folder.name == whole.folder.name
    assert found.trials == whole.trials


def test_more_trials_go_on_and_fewer_take_none_away(scored: Callable[[Score], list[Request]], recipe: Path) -> None:
    asked = scored(hill)
    first = tuned(recipe, trials=2)
    asked.clear()
    more = tuned(recipe, trials=3)
    assert more.trials[:2] == first.trials
    assert len({asking.settings for asking in asked if on_validation(asking) and asking.arm == "dire"}) == 1
    assert tuned(recipe, trials=1).trials == more.trials


def test_several_trials_at_a_time_are_asked_for_together(
    scored: Callable[[Score], list[Request]], recipe: Path
) -> None:
    scored(hill)
    found = tuned(recipe, trials=5, parallel=3)
    assert [one.number for one in found.trials if one.state == "complete"] == [0, 1, 2, 3, 4]


def test_a_file_of_the_users_is_not_overwritten(
    scored: Callable[[Score], list[Request]], recipe: Path, tmp_path: Path
) -> None:
    asked = scored(hill)
    file = tmp_path / "mine.yaml"
    file.write_text("# my own recipe\n")
    with pytest.raises(DirePlugError, match="exists already and isn't of the study tune-"):
        tuned(recipe, write=file)
    assert asked == []
    other = tmp_path / "new" / "tuned.yaml"
    assert tuned(recipe, write=other).file == other
    assert tuned(recipe, write=other).preset == "tuned"  # again: it is this study's


def test_a_file_that_is_no_recipes_is_refused_before_anything_runs(
    scored: Callable[[Score], list[Request]], recipe: Path, tmp_path: Path
) -> None:
    asked = scored(hill)
    for name in ("best", "best.json"):
        with pytest.raises(DirePlugError, match=rf"--write \S+/{name}: .* end the name in \.yaml"):
            tuned(recipe, write=tmp_path / name)
    assert asked == []


# Processes of their own.

TRIALS = 4
WORKER = f"""
import sys, time
from pathlib import Path
from dire_plug.executors import dispatch
from dire_plug.paper.tune import plan_study, tune
from dire_plug.pipeline import Request
from support.canned_runs import canned
recipe, seen, pause = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])

def run_arm(asking):
    if asking.arm == "dire" and "evaluate.judge=validation" in asking.settings:
        with seen.open("a") as file:
            print(asking.settings, file=file)
        time.sleep(pause)
    return canned(asking.arm, asking.seed, 50.0)

dispatch.run_arm = run_arm
request = Request("sre2l", recipe=recipe, engine="native", arm="dire")
tune(plan_study(request, seeds=1), trials={TRIALS})
"""


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_takes_over_the_others_trial(
    recipe: Path, tmp_path: Path, bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    seen = tmp_path / "seen"
    stuck = start_process(recipe, seen, 600, program=WORKER)
    wait_until(lambda: seen.is_file() or stuck.poll() is not None)
    other = start_process(recipe, seen, 0, program=WORKER)
    wait_until(lambda: len(seen.read_text().splitlines()) == TRIALS or other.poll() is not None)
    assert [one.state for one in trials_of(recipe)] == ["running", *["complete"] * (TRIALS - 1)]
    assert other.poll() is None  # it waits for the trial of the first
    stuck.send_signal(signal.SIGKILL)
    assert stuck.communicate()[0] is not None
    told, _ = other.communicate(timeout=300)
    assert other.returncode == 0, told
    assert [one.state for one in trials_of(recipe)] == ["complete"] * TRIALS
    lines = seen.read_text().splitlines()
    assert lines[0] == lines[-1]
    assert len(set(lines)) == len(lines) - 1 == TRIALS


def trials_of(recipe: Path) -> list[Tried]:
    plan = plan_study(request(recipe), seeds=1)
    return Study(plan.folder(), plan.space, seed=0, own=plan.own_values).trials()


# As a user runs it.


def test_a_study_really_runs_and_keeps_the_test_for_the_end(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "two.yaml", {"evaluate": {"per_synthesis": 2}})
    line = ("tune", "sre2l", "--recipe", recipe, "--engine", "native", "--device", "cpu")
    numbers = ("--trials", 2, "--seeds", 1, "--seed", 3)
    answer = cli(*line, *numbers)
    assert answer.code == 0, answer.err
    (folder,) = bare_home.glob("runs/sre2l/two/tune-*")
    content = read_json(folder / "tune.json")
    assert [one["state"] for one in content["trials"]] == ["complete"] * 2
    tried = [name for one in content["trials"] for name in one["runs"]]
    judged = {path.name: read_json(path / "metrics.json")["judged"] for path in run_folders(bare_home)}
    assert {judged[name] for name in (*tried, *content["control"]["runs"])} == {"validation"}
    assert {judged[name] for arm in content["test"]["arms"].values() for name in arm["runs"]} == {"test"}
    # the first student of a trial alone, and then both
    assert len([name for name, judge in judged.items() if judge == "validation"]) == 1 + 2 * 2
    assert {path.suffix for path in folder.iterdir()} == {".json", ".journal", ".png", ".svg", ".pdf", ".yaml"}
    (said,) = (one for one in answer.out.splitlines() if one.startswith("next:"))
    words = shlex.split(said)[2:]
    assert words[:4] == ["compare", "sre2l", "--recipe", str(folder / "two-tuned.yaml")]
    assert {"--preset tuned", "--seed 3", "--device cpu", "--engine native"} <= {
        " ".join(pair) for pair in itertools.pairwise(words)
    }
    preset = cli(*words, "--dry-run")
    assert preset.code == 0, preset.err
    before = when_made(bare_home)
    assert cli(*line, *numbers).out.splitlines()[:8] == answer.out.splitlines()[:8]
    assert when_made(bare_home) == before


def test_a_dry_run_says_what_would_be_searched_and_makes_nothing(cli: Cli, bare_home: Path, recipe: Path) -> None:
    answer = cli("tune", "sre2l", "--recipe", recipe, "--engine", "native", "--trials", 5, "--seeds", 2, "--dry-run")
    assert answer.code == 0, answer.err
    rows = read_rows(answer.out)
    assert [R_E, "0.003", "0.3", "uniform in its logarithm"] in rows
    assert "5 trials of 2 seeds each, and control: 12 runs; fewer where trials are pruned" in answer.out
    assert ["recover dire, seed 1 (5)"] in [row[:1] for row in rows]
    assert not bare_home.exists()
