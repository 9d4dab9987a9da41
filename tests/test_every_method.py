"""What every method must do, its adapter, recipes, patches and page: a new one is tested by being installed."""

import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli
from support.paths import ROOT

from dire_plug import plugins
from dire_plug.api.patch_file import read_patch
from dire_plug.data import class_count
from dire_plug.errors import DirePlugError
from dire_plug.models.architectures import architectures
from dire_plug.pipeline import Request, plan_run
from dire_plug.recipe import (
    Recipe,
    arm_names,
    as_file,
    check_recipe,
    counted,
    header,
    read_yaml,
    recipe_names,
    resolve,
    without_terms,
)
from dire_plug.recipe.loading import flatten, merge
from dire_plug.recipe.model import RecoverSection
from dire_plug.results.arms import plan_steps, with_ladder
from dire_plug.types import Adapter, LoopInputs, Plan, Slot
from dire_plug.upstream.source.patching import check_rules
from dire_plug.upstream.source.vendor import patch_files

METHODS = list(plugins.known("methods"))
SCRIPTS = [(method, script) for method in METHODS for script in plugins.load_adapter(method).scripts]
RECIPES = [(method, name) for method in METHODS for name in recipe_names(plugins.load_adapter(method).recipes())]
INSTALLED = {name: cache(load) for name, load in plugins.regularizer_models().items()}
SECTIONS = ("dataset", "ipc", "squeeze", "prepare", "recover", "evaluate", "arms", "presets")

every_method = pytest.mark.parametrize("method", METHODS)
every_script = pytest.mark.parametrize(("method", "script"), SCRIPTS)
every_recipe = pytest.mark.parametrize(("method", "name"), RECIPES)


@pytest.fixture
def adapter(method: str) -> Adapter:
    return plugins.load_adapter(method)


def read_recipe(adapter: Adapter, name: str) -> dict[str, Any]:
    return read_yaml(adapter.recipes() / f"{name}.yaml")


def resolved_arms(adapter: Adapter, name: str) -> Iterator[Recipe]:
    """Yield a shipped recipe as each arm makes it, at each IPC and, at the recipe's own, with each preset."""
    tree = read_recipe(adapter, name)
    choices = [(None, None), *((int(ipc), None) for ipc in tree.get("by_ipc", {}))]
    choices += [(None, preset) for preset in tree.get("presets", {})]
    for arm in arm_names(tree):
        for ipc, preset in choices:
            found = resolve(tree, arm=arm, ipc=ipc, preset=preset, settings=(), adapter=adapter, catalogue=INSTALLED)
            yield found.recipe


def baseline(adapter: Adapter, name: str) -> Recipe:
    return resolve(
        read_recipe(adapter, name), arm="baseline", ipc=None, preset=None, settings=(), adapter=adapter
    ).recipe


def inputs_of(adapter: Adapter, recipe: Recipe) -> LoopInputs:
    """Return what the adapter is told of a run, with a folder for each preparation."""
    script = adapter.scripts[recipe.recover.script]
    inputs = LoopInputs(recipe, script.classes, script.size, 0, Path("/run/inputs"), Path("/run/images"))
    return replace(inputs, prepared={one.name: Path("/made", one.name) for one in adapter.preparations(inputs)})


def read_options(arguments: tuple[str, ...]) -> dict[str, str]:
    """Return flag → value of a command line, of several with spaces; a switch has "", and no flag stands twice."""
    found = dict[str, list[str]]()
    for argument in arguments:
        if argument.startswith("--"):
            assert argument not in found, "a flag is given twice"
            found[argument] = []
        else:
            found[list(found)[-1]].append(argument)
    return {flag: " ".join(values) for flag, values in found.items()}


def assert_each_image_once(plan: Plan, *, classes: int) -> None:
    slots = [Slot(first, second) for first in range(plan.passes) for second in range(plan.slots_per_pass)]
    held = [pair for slot in slots for pair in zip(plan.slot(slot).labels, plan.slot(slot).images, strict=True)]
    assert sorted(held) == [(label, image) for label in range(classes) for image in range(plan.ipc)]


# The adapter


@every_method
def test_a_method_has_every_member_of_an_adapter(adapter: Adapter, method: str) -> None:
    members = {name for name in (*Adapter.__annotations__, *vars(Adapter)) if name[0] != "_"}
    assert [name for name in sorted(members) if not hasattr(adapter, name)] == []
    assert adapter.name == method
    assert adapter.scripts


@every_method
def test_a_method_answers_hooks_by_their_specifications(adapter: Adapter, method: str) -> None:
    hooks = plugins.build_manager({method: adapter}).hook
    for hook in (hooks.plan_labels, hooks.image_index, hooks.initial_images):
        assert [one.plugin_name for one in hook.get_hookimpls()] == [method]


def test_loading_the_adapters_imports_no_torch() -> None:
    code = (
        "import sys\nfrom dire_plug import plugins\n"
        "for name in plugins.known('methods'):\n"
        "    plugins.load_adapter(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@every_method
def test_an_image_lies_in_a_file_of_its_own(adapter: Adapter) -> None:
    paths = [adapter.image_path(label, image) for label in (0, 1, 10, 999) for image in (0, 1, 10, 200)]
    assert len(set(paths)) == len(paths)
    assert {Path(path).suffix for path in paths} < {".jpg", ".png"}
    assert not any(Path(path).is_absolute() or ".." in path for path in paths)


@every_script
def test_a_dataset_of_more_classes_than_the_script_is_refused(adapter: Adapter, script: str) -> None:
    if (adapter.name, script) == ("sre2l", "cifar"):
        pytest.skip("its native loop takes any number; the script's own limit is told before a run")
    classes = adapter.scripts[script].classes + 1
    with pytest.raises(DirePlugError, match=rf"'{script}'.*\b{classes}\b"):
        adapter.plan(RecoverSection(script=script, flags={}), classes=classes, ipc=10)


@every_script
def test_a_flag_is_a_recipes_or_the_tools_and_has_a_default(adapter: Adapter, script: str) -> None:
    flags = adapter.flags_model(script)().model_dump(by_alias=True)
    assert flags
    assert flags.keys().isdisjoint(adapter.reserved_flags)


@every_method
def test_a_flag_that_the_tool_sets_is_refused_with_the_reason(adapter: Adapter) -> None:
    assert adapter.reserved_flags
    for flag, reason in adapter.reserved_flags.items():
        tree = merge(read_recipe(adapter, "quick"), {"recover": {"flags": {flag: 1}}})
        with pytest.raises(DirePlugError, match=re.escape(f"recover.flags.{flag}: can't be set in a recipe: {reason}")):
            check_recipe(tree, adapter=adapter)


@every_script
def test_the_case_of_verify_is_one_that_the_script_can_run(adapter: Adapter, script: str) -> None:
    case = adapter.verify_case(script)
    assert case.recover["script"] == script
    assert set(case.teachers.values()) <= set(architectures())
    section, classes = RecoverSection.model_validate(case.recover), case.classes or adapter.scripts[script].classes
    assert_each_image_once(adapter.plan(section, classes=classes, ipc=case.ipc), classes=classes)
    assert adapter.steps(section) > 0
    answered = {**case.recover["flags"], **case.answered.get("flags", {})}
    assert adapter.flags_model(script).model_validate(answered)


# The patches


@every_method
def test_a_methods_patches_keep_the_rule(adapter: Adapter) -> None:
    patches = [read_patch(path) for path in patch_files(adapter)]
    for patch in patches:
        check_rules(patch)
    assert {patch.commit for patch in patches} == {adapter.upstream.commit}
    patched = {file.path for patch in patches for file in patch.files}
    assert {script.path for script in adapter.scripts.values()} <= patched


@every_method
def test_every_path_of_upstream_is_pinned_as_the_patches_say(adapter: Adapter) -> None:
    upstream = adapter.upstream
    assert set(upstream.pins) == set(upstream.paths)
    assert all(re.fullmatch("[0-9a-f]{40}", pin) for pin in (*upstream.pins.values(), upstream.commit))
    first = {file.path: file.before for path in reversed(patch_files(adapter)) for file in read_patch(path).files}
    alone = first.keys() & upstream.pins.keys()
    assert alone
    assert {path: first[path] for path in alone} == {path: upstream.pins[path] for path in alone}


# The recipes


@every_recipe
def test_a_recipe_fits_together_in_every_arm_preset_and_ipc(adapter: Adapter, name: str) -> None:
    check_recipe(read_recipe(adapter, name), adapter=adapter, catalogue=INSTALLED)
    planned = set()
    for one in resolved_arms(adapter, name):
        classes = class_count(one.dataset.name)
        assert list(adapter.problems(one, classes=classes)) == []
        if (key := (one.recover.model_dump_json(), one.ipc)) not in planned:
            planned.add(key)
            assert_each_image_once(adapter.plan(one.recover, classes=classes, ipc=one.ipc), classes=classes)
            assert adapter.steps(one.recover) > 0


@every_method
def test_the_quick_recipe_can_be_made_like_every_other_methods(adapter: Adapter) -> None:
    # the settings of docs/comparing-methods.md
    tree, settings = read_recipe(adapter, "quick"), ("dataset.size=32", "dataset.limit=500")
    for arm in ("baseline", "control", "dire"):
        found = resolve(tree, arm=arm, ipc=10, preset=None, settings=settings, adapter=adapter, catalogue=INSTALLED)
        dataset = found.recipe.dataset
        assert (dataset.name, dataset.size, dataset.limit, found.recipe.ipc) == ("digits", 32, 500, 10)


@every_recipe
def test_the_ladder_of_a_recipe_leads_from_baseline_to_dire(adapter: Adapter, method: str, name: str) -> None:
    request = Request(method, recipe=name)
    arms = with_ladder(request, ())
    assert (arms[0], *arms[-2:]) == ("baseline", "control", "dire")
    planned = {arm: plan_run(replace(request, arm=arm), dry=True) for arm in arms}
    steps = plan_steps(planned)
    assert [(step.before, step.arm) for step in steps] == list(itertools.pairwise(arms))
    assert steps[-1].change == "the term"
    assert steps[-1].keys == {}
    changed = [key for step in steps for key in step.keys if key != "recover.plan.per_class"]
    assert len(set(changed)) == len(changed)
    values = {arm: flatten(without_terms(run.recipe.model_dump(mode="json"))) for arm, run in planned.items()}
    different = {key for key in values["dire"] if values["baseline"].get(key) != values["dire"][key]}
    assert different == {key for step in steps for key in step.keys} & set(values["dire"])
    # a rung changes something, and the whole of it at once
    assert all(step.keys for step in steps[:-1]) or arms == ["baseline", "control", "dire"]


@every_recipe
def test_the_flags_of_a_recipe_reach_the_command_line(adapter: Adapter, name: str) -> None:
    recipe = baseline(adapter, name)
    call = adapter.invocation(inputs_of(adapter, recipe))
    given = read_options((*call.arguments, *adapter.pass_arguments(0, recipe.recover.script)))
    flags = adapter.flags_model(recipe.recover.script).model_validate(recipe.recover.flags)
    for flag, value in flags.model_dump(by_alias=True).items():
        if value is None:  # the script's own default, or the adapter's
            continue
        said = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        assert given.get(f"--{flag}") == (None if value is False else "" if value is True else said)
    assert call.script == adapter.scripts[recipe.recover.script].path


@every_recipe
def test_each_pass_of_a_plan_has_arguments_of_its_own(adapter: Adapter, name: str) -> None:
    recipe = baseline(adapter, name)
    plan = adapter.plan(recipe.recover, classes=class_count(recipe.dataset.name), ipc=recipe.ipc)
    arguments = {tuple(adapter.pass_arguments(number, recipe.recover.script)) for number in range(plan.passes)}
    assert len(arguments) == plan.passes


@every_recipe
def test_every_value_of_a_recipe_has_a_source(adapter: Adapter, name: str) -> None:
    tree = read_recipe(adapter, name)
    keys = flatten({key: tree[key] for key in SECTIONS if key in tree})
    assert len(keys) > 10
    assert [key for key in keys if not any(f"{key}.".startswith(f"{source}.") for source in tree["sources"])] == []


@every_recipe
def test_a_recipe_says_how_to_run_it_and_what_to_expect(adapter: Adapter, name: str) -> None:
    said, tree = header(adapter.recipes() / f"{name}.yaml"), read_recipe(adapter, name)
    assert f"dire-plug compare {adapter.name}" + ("" if name == "quick" else f" --recipe {name}") in said
    assert "Expected" in said
    printed = tree.get("paper", {}).get("figures", {})
    assert not printed or list(printed) == list(tree["by_ipc"])
    for figures in printed.values():
        assert [figure for figure in figures.values() if figure not in said] == []


@every_recipe
@pytest.mark.parametrize(("arm", "again"), [("baseline", "baseline"), ("control", "baseline"), ("dire", "dire")])
def test_the_recipe_that_a_run_keeps_counts_alike(adapter: Adapter, name: str, arm: str, again: str) -> None:
    tree = read_recipe(adapter, name)
    first = resolve(tree, arm=arm, ipc=None, preset=None, settings=["evaluate.epochs=6"], adapter=adapter)
    second = resolve(as_file(first), arm=again, ipc=None, preset=None, settings=[], adapter=adapter)
    one, other = (
        counted(found.recipe.model_dump(mode="json"), arm="baseline", regularizers=found.regularizers)
        for found in (first, second)
    )
    assert one == other


@every_method
@pytest.mark.parametrize("said", [("--set", "ipc=0"), ("--ipc", "0")], ids=["setting", "option"])
def test_no_image_per_class_is_refused_before_anything_is_made(
    method: str, said: tuple[str, str], cli: Cli, bare_home: Path
) -> None:
    answer = cli("run", method, *said)
    assert (answer.code, answer.out) == (2, "")
    assert "ipc" in answer.err.lower()
    assert not bare_home.exists()


# What is written of it


@every_method
def test_a_method_has_a_page_that_names_what_it_has(adapter: Adapter, method: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    assert inspect.getdoc(type(adapter))
    named = {adapter.upstream.commit, *adapter.scripts, *recipe_names(adapter.recipes())}
    assert [word for word in sorted(named) if f"`{word}`" not in text] == []


@every_method
def test_the_page_of_scripts_has_every_flag_of_a_method(adapter: Adapter, method: str) -> None:
    text = (ROOT / "docs" / "reference" / "scripts.md").read_text()
    section = text.split(f"\n## {adapter.title}\n")[1].split("\n## ")[0]
    named = {flag for script in adapter.scripts for flag in adapter.flags_model(script)().model_dump(by_alias=True)}
    assert [word for word in sorted(named) if f"| `{word}` |" not in section] == []


@every_method
def test_the_readme_lists_every_method_with_its_recipes(adapter: Adapter, method: str) -> None:
    (row,) = re.findall(rf"^\| \[.*\]\(docs/methods/{method}\.md\).*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert adapter.upstream.commit[:12] in row or "the same" in row
