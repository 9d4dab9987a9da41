"""Recipes: reading, checking, resolving for an arm, and the ones that ship."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field
from support.paths import ROOT

from dire_plug.data import class_count
from dire_plug.data.dataset import make_tensor_dataset
from dire_plug.errors import DirePlugError
from dire_plug.methods.sre2l import SRe2L
from dire_plug.pipeline import Request, Run
from dire_plug.pipeline.run import name_artefacts
from dire_plug.recipe import (
    REAL_IMAGE_ARMS,
    Catalogue,
    Resolved,
    arm_names,
    as_file,
    check_recipe,
    header,
    read_yaml,
    recipe_names,
    recipe_path,
    resolve,
)
from dire_plug.recipe.loading import merge, split_setting

COMMIT = SRe2L.upstream.commit
RECIPES = ROOT / "recipes" / "sre2l"
SHIPPED = recipe_names(RECIPES)


class DireSettings(BaseModel):
    """Stands in for the settings of DiRe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str = "released"
    multiplier: float = Field(default=0.1, ge=0)
    r_c: float = Field(default=1.0, ge=0)
    r_e: float = Field(default=0.01, ge=0)


class EnergySettings(BaseModel):
    """Stands in for the settings of another regularizer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = 0.5


SETTINGS: dict[str, type[BaseModel]] = {"dire": DireSettings, "energy": EnergySettings}
CATALOGUE: Catalogue = {name: partial(SETTINGS.__getitem__, name) for name in SETTINGS}


def recipe(**changes: Any) -> dict[str, Any]:
    """Return a small valid recipe; keyword a__b=value sets a.b."""
    tree: dict[str, Any] = {
        "name": "toy",
        "title": "Toy",
        "method": "sre2l",
        "upstream": {"repository": "https://github.com/VILA-Lab/SRe2L", "commit": COMMIT},
        "dataset": {"name": "digits"},
        "ipc": 10,
        "by_ipc": {50: {"recover": {"flags": {"iteration": 50}}, "regularizers": {"dire": {"r_c": 2.0}}}},
        "squeeze": {
            "outputs": 100,
            "teacher": {"architecture": "resnet-small", "epochs": 1},
            "independent": {"architecture": "convnet-small", "epochs": 1},
        },
        "recover": {"script": "cifar", "flags": {"lr": 0.25}},
        "evaluate": {"protocol": "on-the-fly", "students": ["resnet-small"]},
        "arms": {
            "dire": {
                "overrides": {"recover": {"plan": {"per_class": 10}, "flags": {"lr": 0.1}}},
                "regularizers": {"dire": {"multiplier": 0.3, "r_e": 0.03}},
            }
        },
        "presets": {
            "released": {"regularizers": {"dire": {"multiplier": 0.1}}, "recover": {"flags": {"jitter": 1}}},
        },
        "sources": {"recover.flags": "published: a script", "arms.dire": "chosen: a trial", "presets": "chosen: here"},
    }
    for key, value in changes.items():
        for part in reversed(key.split("__")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def resolved(
    tree: dict[str, Any] | None = None,
    arm: str = "baseline",
    *settings: str,
    ipc: int | None = None,
    preset: str | None = None,
    catalogue: Catalogue | None = CATALOGUE,
) -> Resolved:
    tree = recipe() if tree is None else tree
    return resolve(tree, arm=arm, ipc=ipc, preset=preset, settings=settings, adapter=SRe2L(), catalogue=catalogue)


def names(one: Resolved) -> dict[str, str]:
    """Return role → name of what a run of this recipe would end in, on an image of each class."""
    engine: Any = "none" if one.arm in REAL_IMAGE_ARMS else "native"
    classes = class_count(one.recipe.dataset.name)
    images = torch.zeros(classes, 3, 1, 1, dtype=torch.uint8), torch.arange(classes)
    data = make_tensor_dataset("x", train=images, test=images, classes=tuple(map(str, range(classes))))
    run = Run(Request("sre2l"), SRe2L(), Path("x.yaml"), one, engine, data=data)
    return {role: artefact.name for role, artefact in name_artefacts(run).items()}


def problems_of(tree: dict[str, Any]) -> list[str]:
    """Return the lines of the error that a check raises."""
    with pytest.raises(DirePlugError) as caught:
        check_recipe(tree, adapter=SRe2L(), catalogue=CATALOGUE)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


# Reading


def written(folder: Path, text: str) -> Path:
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["1e-7", "1E-7", ".0000001", "1.0e-7", "+1e-7"])
def test_numbers_are_numbers_as_in_yaml_1_2(tmp_path: Path, text: str) -> None:
    assert read_yaml(written(tmp_path, f"lr: {text}"))["lr"] == 1e-7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("010", 10),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("", None),
    ],
)
def test_words_and_numbers_mean_what_yaml_1_2_says(tmp_path: Path, text: str, value: object) -> None:
    assert read_yaml(written(tmp_path, f"key: {text}"))["key"] == value


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"toy\.yaml: line 3: the key 'ipc' appears twice"):
        read_yaml(written(tmp_path, "ipc: 1\ntitle: x\nipc: 2\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "line 1"),
        ("a: 1\n b: 2", "line 2"),
        ("- a", "mapping"),
        ("", "nothing"),
        ("a: &x 1\nb: *x", "line 2: aliases"),
        ("a: !!python/name:os.system", "line 1: tags (!!python/name:os.system) aren't supported"),
        (
            "a: 1\nmethod: !!binary ZG0=",
            "line 2: tags (!!binary) aren't supported; write the plain value, text in quotes",
        ),
        ("a: !!timestamp 1", "line 1: tags (!!timestamp) aren't supported"),
        ("a: !!bool x", "line 1: tags (!!bool) aren't supported"),
        ("a: ! 1", "line 1: tags (!) aren't supported"),
        ("a: !own {b: 1}", "line 1: tags (!own) aren't supported"),
        ("!!map {a: 1}", "line 1: tags (!!map) aren't supported"),
        ("!!str a: 1", "line 1: tags (!!str) aren't supported"),
        ('a: 1\nb: "x\\ud800"', r"line 2: 'x\ud800' isn't Unicode text"),
        ('"\\udfff": 1', r"line 1: '\udfff' isn't Unicode text"),
        ("[a]: 1", "line 1"),
        ("true: 1", "line 1"),
        ("a: " + "[" * 500, "nested too deeply"),
    ],
)
def test_what_is_no_recipe_file_is_an_error_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DirePlugError, match=r"toy\.yaml") as caught:
        read_yaml(written(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["..yaml", "...yaml", "....yaml"])
def test_a_file_whose_name_is_dots_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("ipc: 1\n")
    with pytest.raises(DirePlugError, match="give the file another name than dots"):
        read_yaml(tmp_path / name)


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(DirePlugError, match="not UTF-8"):
        read_yaml(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match="No such file"):
        read_yaml(tmp_path / "toy.yaml")


def test_the_name_defaults_to_the_files_stem(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "ipc: 1"))["name"] == "toy"
    assert read_yaml(written(tmp_path, "name: other"))["name"] == "other"


def test_the_header_is_the_comment_at_the_head(tmp_path: Path) -> None:
    path = written(tmp_path, "# One.\n#\n#   indented\n\n# not this\nipc: 1\n")
    assert header(path) == "One.\n\n  indented"


def test_recipes_are_found_by_glob(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "c.txt"):
        (tmp_path / name).touch()
    assert recipe_names(tmp_path) == ["a", "b"]
    assert recipe_path(tmp_path, "b") == tmp_path / "b.yaml"
    with pytest.raises(DirePlugError, match=r"no recipe '\.\./b'"):
        recipe_path(tmp_path, "../b")


# Checking


def test_a_valid_recipe_passes() -> None:
    check_recipe(recipe(), adapter=SRe2L(), catalogue=CATALOGUE)


def test_an_adapter_that_names_images_with_an_unknown_suffix_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = SRe2L()
    monkeypatch.setattr(adapter, "image_path", lambda label, image: f"{label}/{image}.bmpp")
    with pytest.raises(DirePlugError, match=r"recover\.script: image_path of sre2l's adapter: '0/0\.bmpp' ends in no"):
        check_recipe(recipe(), adapter=adapter, catalogue=CATALOGUE)


def test_all_problems_are_found_at_once() -> None:
    tree = recipe(
        evaluate__epochs=0,
        squeeze__teacher__lr="fast",
        recover__flags={"lrr": 1, "exp-name": "x", "iteration": 0},
        arms__dire__regularizers__dier={},
    )
    assert sorted(problems_of(tree)) == [
        "arms.dire.regularizers.dier: no regularizer of this name is installed (did you mean 'dire'?); "
        "known: dire, energy",
        "evaluate.epochs: must be at least 1 (is 0)",
        "recover.flags.exp-name: can't be set in a recipe: the tool chooses where files lie",
        "recover.flags.iteration: must be at least 1 (is 0)",
        "recover.flags.lrr: unknown key (did you mean 'lr'?)",
        "squeeze.teacher.lr: must be a number (is 'fast')",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"evaluat": {}}, "evaluat: unknown key (did you mean 'evaluate'?)"),
        (
            {"squeeze__teacher__warmup_epochs": 99},
            "squeeze.teacher: warmup_epochs: 99 leaves nothing of 1 epoch; lower it",
        ),
        ({"squeeze__teacher__epoch": 3}, "squeeze.teacher.epoch: unknown key (did you mean 'epochs'?)"),
        ({"arms__dire__override": {}}, "arms.dire.override: unknown key (did you mean 'overrides'?)"),
        ({"recover__plan": "kep"}, "recover.plan: must be 'keep' or a mapping (is 'kep')"),
        (
            {"recover__plan": {"per_clas": 1, "per_class": 2}},
            "recover.plan.per_clas: unknown key (did you mean 'per_class'?)",
        ),
        ({"recover__plan": {"per_class": 0}}, "recover.plan.per_class: must be at least 1 (is 0)"),
        ({"recover__plan": {}}, "recover.plan.per_class: is missing"),
        ({"recover__start": "reel"}, "recover.start: must be 'noise', 'real', 'rded' or 'own' (is 'reel')"),
        (
            {"recover__script": "cifr"},
            "recover.script: sre2l has no script 'cifr' (did you mean 'cifar'?); it has cifar, tiny, imagenet",
        ),
        ({"recover__flags": 3}, "recover.flags: must be a mapping of keys to values (is 3)"),
        ({"recover__flags__jitter": 1.5}, "recover.flags.jitter: must be a whole number (is 1.5)"),
        ({"recover__flags__batch-size": 101}, "recover.flags.batch-size: must be at most 100 (is 101)"),
        ({"recover__flags__tv-l2": 0}, "recover.flags.tv-l2: unknown key"),
        ({"recover__flags__r-bn": float("inf")}, "recover.flags.r-bn: must be a finite number (is inf)"),
        ({"evaluate__lr": float("inf")}, "evaluate.lr: must be a finite number (is inf)"),
        ({"evaluate__students": []}, "evaluate.students: needs at least 1"),
        (
            {"name": "../up"},
            "name: must be made of letters, digits, '.', '_' and '-', and begin with a letter or digit",
        ),
        ({"method": "cda"}, "method: is 'cda', but the recipe was asked for as one of sre2l"),
        (
            {"upstream__commit": "8d00cba3"},
            "upstream.commit: must be the full commit, 40 hex digits in quotes (is '8d00cba3')",
        ),
        (
            {"upstream__commit": "g" * 40},
            f"upstream.commit: must be the full commit, 40 hex digits in quotes (is '{'g' * 40}')",
        ),
        ({"upstream__commit": "a" * 40}, f"upstream.commit: the patch of sre2l fits {COMMIT} only (is '{'a' * 40}')"),
        (
            {"squeeze__outputs": 10},
            "squeeze.outputs: the script 'cifar' builds a network with 100 outputs, so this must be 100 (is 10)",
        ),
        (
            {"squeeze__teacher__architecture": "convnet-3"},
            "squeeze.teacher.architecture: the script 'cifar' takes resnet-18 or resnet-small or resnet-small-grey "
            "(is 'convnet-3')",
        ),
        ({"arms__control": {}}, "arms.control: this name is reserved; choose another"),
        ({"arms__dire__overrides__ipc": 3}, "arms.dire.overrides.ipc: can't be changed here"),
        (
            {"arms__dire__overrides__evaluate": {"epoch": 3}},
            "arms.dire.overrides.evaluate.epoch: unknown key (did you mean 'epochs'?)",
        ),
        (
            {"arms__energy": {"regularizers": {"energy": {}}, "overrides": {"evaluate": {}}}},
            "arms.energy.overrides: the arm of a regularizer shares dire's overrides and control; "
            "move them to an arm not named energy",
        ),
        ({"arms__dire__regularizers__dire__r_e": -1}, "arms.dire.regularizers.dire.r_e: must be at least 0 (is -1)"),
        ({"presets__released__evaluate": {"lr": 0}}, "presets.released.evaluate.lr: must be greater than 0 (is 0)"),
        ({"presets__released__ipc": 3}, "presets.released.ipc: can't be changed here"),
        (
            {"presets__released__regularizers__dire__re": 3},
            "presets.released.regularizers.dire.re: unknown key (did you mean 'r_e'?)",
        ),
        (
            {"by_ipc": {50: {"recover": {"flags": {"lr": 0}}}}},
            "by_ipc.50.recover.flags.lr: must be greater than 0 (is 0)",
        ),
        (
            {"sources": {"recover.flag": "chosen: x"}},
            "sources.recover.flag: the recipe has no such key (did you mean 'recover.flags'?)",
        ),
        (
            {"sources": {"recover.flags": "a guess"}},
            "sources.recover.flags: must begin with 'published: ' or 'chosen: '",
        ),
        ({"regularizers": {"dire": {}}}, "regularizers: unknown key (did you mean 'prepare'?)"),
    ],
)
def test_a_problem_is_told_with_its_place(changes: dict[str, Any], line: str) -> None:
    assert problems_of(recipe(**changes)) == [line]


@pytest.mark.parametrize("key", ["title", "recover", "squeeze", "ipc"])
def test_a_missing_key_is_named(key: str) -> None:
    tree = recipe(sources={"arms.dire": "chosen: x"})
    del tree[key], tree["sources"]
    assert f"{key}: is missing" in problems_of(tree)


@pytest.mark.parametrize("section", ["recover", "squeeze", "arms", "presets", "by_ipc", "upstream", "sources"])
@pytest.mark.parametrize("value", [3, "text", [1], None])
def test_a_section_that_is_no_mapping_is_a_problem_and_no_crash(section: str, value: object) -> None:
    tree = recipe()
    tree["sources"] = {}
    tree[section] = value
    assert any(line.startswith(f"{section}: must be a mapping") for line in problems_of(tree))


# Resolving


def test_the_baseline_is_the_recipe_itself_without_a_term() -> None:
    one = resolved()
    assert one.recipe.recover.plan == "keep"
    assert one.recipe.recover.flags["lr"] == 0.25
    assert one.regularizers == {}


def test_upstreams_defaults_are_filled_in() -> None:
    flags = resolved().recipe.recover.flags
    assert flags == {
        "batch-size": 100,
        "iteration": 1000,
        "lr": 0.25,
        "jitter": 4,
        "r-bn": 0.05,
        "first-bn-multiplier": 10.0,
    }


def test_later_layers_win_over_earlier_ones() -> None:
    tree = recipe(by_ipc={50: {"recover": {"flags": {"lr": 2.0}}}}, presets__p={"recover": {"flags": {"lr": 3.0}}})

    def lr(arm: str, *settings: str, ipc: int | None = None, preset: str | None = None) -> object:
        return resolved(tree, arm, *settings, ipc=ipc, preset=preset).recipe.recover.flags["lr"]

    assert lr("baseline") == 0.25
    assert lr("baseline", ipc=50) == 2.0
    assert lr("baseline", ipc=50, preset="p") == 3.0
    assert lr("dire", ipc=50, preset="p") == 0.1
    assert lr("dire", "recover.flags.lr=5", ipc=50, preset="p") == 5


def test_the_settings_of_a_term_follow_the_same_order() -> None:
    assert resolved(None, "dire").regularizers == {
        "dire": {"variant": "released", "multiplier": 0.3, "r_c": 1.0, "r_e": 0.03}
    }
    one = resolved(None, "dire", "regularizers.dire.r_e=.5", ipc=50, preset="released")
    assert one.regularizers["dire"] == {"variant": "released", "multiplier": 0.1, "r_c": 2.0, "r_e": 0.5}


def test_control_is_dire_without_its_term_and_nothing_else() -> None:
    control, dire = resolved(None, "control"), resolved(None, "dire")
    assert control.regularizers == {}
    assert control.recipe == dire.recipe
    assert control.recipe.recover.plan != "keep"


def test_control_equals_baseline_where_dire_overrides_nothing() -> None:
    tree = recipe()
    tree["arms"]["dire"]["overrides"] = {}
    assert names(resolved(tree, "control")) == names(resolved(tree))
    assert names(resolved(None, "control")) != names(resolved())


def test_definitions_do_not_make_recipes_differ() -> None:
    one = resolved(recipe(presets__other={}, arms__other={}, sources={}))
    assert names(one) == names(resolved())


def test_an_arm_named_after_a_regularizer_is_dire_with_that_one_instead() -> None:
    energy = resolved(None, "energy", "regularizers.energy.weight=.7")
    assert energy.regularizers == {"energy": {"weight": 0.7}}
    assert energy.recipe == resolved(None, "dire").recipe
    defined = resolved(recipe(arms__energy__regularizers={"energy": {"weight": 0.2}}), "energy")
    assert defined.regularizers == {"energy": {"weight": 0.2}}
    assert defined.recipe.recover == energy.recipe.recover


def test_a_recipe_may_define_more_arms() -> None:
    tree = recipe(arms__strong={"overrides": {"recover": {"bank": True}}, "regularizers": {"dire": {"r_e": 1}}})
    strong = resolved(tree, "strong")
    assert strong.recipe.recover.bank
    assert strong.recipe.recover.plan == "keep"
    assert strong.regularizers["dire"]["r_e"] == 1
    assert arm_names(tree)[:4] == ["baseline", "control", "dire", "strong"]


def test_real_image_arms_take_the_baselines_recipe() -> None:
    one = resolved(None, "random")
    assert one.recipe == resolved().recipe
    assert one.regularizers == {}


def test_one_command_line_serves_every_arm() -> None:
    for arm in ("baseline", "control", "random"):
        assert resolved(None, arm, "regularizers.dire.r_e=.5").regularizers == {}
        assert names(resolved(None, arm, "regularizers.dire.r_e=.5")) == names(resolved(None, arm))


def test_a_setting_may_change_an_arms_definition() -> None:
    settings = ("arms.dire.overrides.recover.flags.lr=.9", "recover.bank=true")
    assert resolved(None, "control", *settings).recipe.recover.flags["lr"] == 0.9
    assert resolved(None, "baseline", *settings).recipe.recover.flags["lr"] == 0.25


def test_a_setting_may_replace_a_plan_by_another() -> None:
    assert resolved(None, "dire", "recover.plan=keep").recipe.recover.plan == "keep"
    assert resolved(None, "baseline", "recover.plan.per_class=3").recipe.recover.model_dump()["plan"] == {
        "per_class": 3
    }


@pytest.mark.parametrize("arm", ["baseline", "dire"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "regularizers.dier.r_e=1",
            "regularizers.dier: no regularizer of this name is installed (did you mean 'dire'?)",
        ),
        ("regularizers.dire.r_d=1", "regularizers.dire.r_d: unknown key (did you mean 'r_e'?)"),
        ("regularizers.dire.r_e=-1", "regularizers.dire.r_e: must be at least 0 (is -1) (from --set)"),
        ("regularizers=3", "regularizers: must be a mapping"),
        ("regularizers.dire=3", "regularizers.dire: must be a mapping"),
        ("arms=3", "arms: must be a mapping"),
        ("arms.dier.overrides.ipc=1", "arms.dier: no such arm (did you mean 'dire'?)"),
        ("recover.flags.lrr=1", "recover.flags.lrr: unknown key (did you mean 'lr'?) (from --set)"),
        ("recover.flags.lr=fast", "recover.flags.lr: must be a number (is 'fast') (from --set)"),
        ("recover.flags.lr=[1", "--set recover.flags.lr=[1"),
        ("title=x", "title: can't be changed here (from --set)"),
        ("recover.lr", "expected KEY.KEY=VALUE"),
        ("recover..lr=1", "expected KEY.KEY=VALUE"),
        ("ipc=0", "ipc: must be at least 1 (is 0) (from --set)"),
        ("ipc=[1]", "ipc: must be a whole number (is [1]) (from --set)"),
    ],
)
def test_a_faulty_setting_is_told_in_every_arm(arm: str, setting: str, message: str) -> None:
    with pytest.raises(DirePlugError) as caught:
        resolved(None, arm, setting)
    assert message in str(caught.value)


def test_without_a_catalogue_a_misspelt_regularizer_is_still_told() -> None:
    with pytest.raises(DirePlugError, match=r"no arm has this regularizer \(did you mean 'dire'\?\)"):
        resolved(None, "dire", "regularizers.dier.r_e=1", catalogue=None)
    assert resolved(None, "dire", catalogue=None).regularizers == {"dire": {"multiplier": 0.3, "r_e": 0.03}}


def test_an_unknown_arm_is_told_with_the_nearest() -> None:
    with pytest.raises(DirePlugError, match=r"no arm 'dier' \(did you mean 'dire'\?\)"):
        resolved(None, "dier")


def test_control_needs_the_arm_dire() -> None:
    tree = recipe(sources={"arms.dire": "chosen: x"})
    del tree["arms"], tree["sources"]
    with pytest.raises(DirePlugError, match="this recipe lacks"):
        resolved(tree, "control")


def test_an_unknown_preset_is_told_with_the_nearest() -> None:
    with pytest.raises(DirePlugError, match=r"no preset 'release' \(did you mean 'released'\?\)"):
        resolved(preset="release")


def test_ipc_by_option_and_by_setting_mean_the_same() -> None:
    assert names(resolved(None, "dire", "ipc=50")) == names(resolved(None, "dire", ipc=50))
    assert resolved(None, "dire", "ipc=50").recipe.recover.flags["iteration"] == 50
    with pytest.raises(DirePlugError, match="contradict"):
        resolved(None, "dire", "ipc=50", ipc=10)


def test_every_value_has_an_origin_with_its_source() -> None:
    origin = resolved(None, "dire", "evaluate.lr=1e-7", ipc=50, preset="released").origin
    assert origin["evaluate.lr"] == "--set"
    assert origin["ipc"] == "--ipc"
    assert origin["evaluate.epochs"] == "default"
    assert origin["dataset.name"] == "recipe file"
    assert origin["recover.flags.lr"] == "arm dire; chosen: a trial"
    assert origin["recover.flags.iteration"] == "by_ipc 50"
    assert origin["recover.flags.jitter"] == "preset released; chosen: here"
    assert origin["recover.flags.r-bn"] == "default"
    assert origin["regularizers.dire.r_e"] == "arm dire; chosen: a trial"
    assert origin["regularizers.dire.r_c"] == "by_ipc 50"
    assert origin["regularizers.dire.multiplier"] == "preset released; chosen: here"
    assert origin["regularizers.dire.variant"] == "default"
    assert resolved().origin["recover.flags.lr"] == "recipe file; published: a script"


# Identity


def test_names_are_of_what_changes_results() -> None:
    plain = names(resolved())
    told = recipe(title="Other", name="other", presets__more={}, demonstration=True, sources={})
    assert names(resolved(told)) == plain
    assert names(resolved(recipe(evaluate__lr=0.5))) != plain
    assert names(resolved(None, "dire")) != names(resolved(None, "control"))
    assert names(resolved(None, "dire", "regularizers.dire.r_e=.04")) != names(resolved(None, "dire"))


def test_real_embeddings_count_only_where_a_term_sees_them() -> None:
    assert names(resolved(None, "control", "real.mode=train")) == names(resolved(None, "control"))
    assert names(resolved(None, "dire", "real.mode=train")) != names(resolved(None, "dire"))


def test_real_images_do_not_depend_on_how_others_are_synthesized() -> None:
    assert names(resolved(None, "random", "recover.flags.lr=9")) == names(resolved(None, "random"))
    assert names(resolved(None, "random", "evaluate.lr=9")) != names(resolved(None, "random"))


def test_a_checkpoint_counts_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    one, two = (names(resolved(recipe(squeeze__teacher__checkpoint=str(path)))) for path in (first, second))
    assert one == two
    second.write_bytes(b"others")
    assert names(resolved(recipe(squeeze__teacher__checkpoint=str(second)))) != one


# Layers


def test_a_value_is_read_as_yaml() -> None:
    assert split_setting("a.b=1e-7") == (("a", "b"), 1e-7)
    assert split_setting("a=[x, 2]") == (("a",), ["x", 2])
    assert split_setting("a=b=c") == (("a",), "b=c")


def test_merging_leaves_its_inputs_alone() -> None:
    base = {"a": {"b": 1}, "c": 2}
    assert merge(base, {"a": {"d": 3}}) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert base == {"a": {"b": 1}, "c": 2}


# The recipes that ship


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - {"quick", "own", "fashion-mnist"}))
def test_a_papers_recipe_has_every_ipc_of_its_table(name: str) -> None:
    assert list(read_yaml(RECIPES / f"{name}.yaml")["by_ipc"]) == ["10", "50", "100"]


def test_the_authors_release_is_cifar_100s_arm_dire() -> None:
    one = resolved(read_yaml(RECIPES / "cifar-100.yaml"), "dire")
    flags = one.recipe.recover.flags
    assert (flags["lr"], flags["r-bn"], flags["batch-size"], flags["iteration"]) == (0.1, 1.0, 50, 1000)
    assert one.recipe.recover.start == "real"
    assert one.regularizers == {"dire": {"variant": "released", "multiplier": 0.1, "r_c": 1.0, "r_e": 0.01}}


def test_reading_a_recipe_does_not_import_torch() -> None:
    code = "import sys, dire_plug.recipe, dire_plug.api.plans; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upstream": {"repository": "https://github.com/else/where"}}, "upstream.repository: sre2l comes from"),
        ({"arms": {"../../escaped": {}}}, "must be made of letters, digits"),
        ({"prepare": {"foo": 1}}, "prepare: SRe2L needs nothing prepared; remove foo"),
    ],
)
def test_what_would_be_ignored_or_leave_its_folder_is_refused(change: dict[str, Any], message: str) -> None:
    adapter = SRe2L()
    raw = merge(read_yaml(adapter.recipes() / "quick.yaml"), change)
    with pytest.raises(DirePlugError, match=re.escape(message)):
        check_recipe(raw, adapter=adapter)


@pytest.mark.parametrize(("arm", "again"), [("baseline", "baseline"), ("control", "baseline"), ("dire", "dire")])
@pytest.mark.parametrize("name", ["quick", "cifar-100", "imagenet-1k"])
def test_the_recipe_that_a_run_keeps_is_the_same_run_again(tmp_path: Path, name: str, arm: str, again: str) -> None:
    adapter = SRe2L()
    raw = read_yaml(adapter.recipes() / f"{name}.yaml")
    first = resolve(raw, arm=arm, ipc=50, preset=None, settings=["evaluate.epochs=3"], adapter=adapter)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(as_file(first), sort_keys=False))
    second = resolve(read_yaml(path), arm=again, ipc=None, preset=None, settings=[], adapter=adapter)
    assert names(second) == names(first)
