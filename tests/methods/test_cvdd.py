"""CV-DD's and SRe2L++'s adapters: networks, committees, the command line; patch and run where it can be reached."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import Cli
from support.small_run import only_run
from support.upstreams import vendor_or_skip, verified

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.cvdd import CVDD
from dire_plug.methods.cvdd_family import LARGE, NAMES, SMALL
from dire_plug.methods.sre2l_pp import SRe2LPlusPlus
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.recipe import check_recipe, read_yaml, resolve
from dire_plug.recipe.loading import merge
from dire_plug.recipe.model import Recipe
from dire_plug.types import LoopInputs, ScriptInputs

Adapters = CVDD | SRe2LPlusPlus
SHORT = ("--ipc", "2", "--set", "recover.flags.iteration=2", "--set", "evaluate.epochs=2", "--set", "dataset.limit=100")


def tree_of(adapter: Adapters, name: str = "quick", **changes: Any) -> dict[str, Any]:
    return merge(read_yaml(adapter.recipes() / f"{name}.yaml"), changes)


def recipe_of(adapter: Adapters, name: str = "quick", *, ipc: int | None = None, **changes: Any) -> Recipe:
    tree = tree_of(adapter, name, **changes)
    return resolve(tree, arm="baseline", ipc=ipc, preset=None, settings=(), adapter=adapter).recipe


def problems_of(recipe: Recipe) -> list[tuple[str, str]]:
    return list(CVDD().problems(recipe))


def inputs_of(adapter: Adapters, recipe: Recipe, folder: Path = Path("/run"), *, size: int) -> LoopInputs:
    classes = adapter.scripts[recipe.recover.script].classes
    return LoopInputs(recipe, classes, size, 0, folder / "inputs", folder / "images")


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    return {flag: "" if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


# Committees


@pytest.mark.parametrize(("ipc", "setting"), [(1, 4), (10, 5), (50, 3)])
def test_the_setting_of_the_committee_goes_with_ipc(ipc: int, setting: int) -> None:
    assert recipe_of(CVDD(), "cifar-100", ipc=ipc).recover.flags["model-setting"] == setting


def test_a_setting_needs_the_networks_that_it_takes() -> None:
    recipe = recipe_of(CVDD())
    flags = {**recipe.recover.flags, "model-setting": 3}
    changed = recipe.model_copy(update={"recover": recipe.recover.model_copy(update={"flags": flags})})
    ((where, says),) = problems_of(changed)
    assert where == "squeeze.others"
    assert says.endswith("takes teacher, resnet50, shufflenet, mobilenet, densenet; add mobilenet, densenet")


def test_more_networks_than_there_are_cannot_be_drawn() -> None:
    recipe = recipe_of(CVDD())
    flags = {**recipe.recover.flags, "selected-size": 4}
    changed = recipe.model_copy(update={"recover": recipe.recover.model_copy(update={"flags": flags})})
    assert problems_of(changed) == [
        ("recover.flags.selected-size", "model-setting 7 has 3 networks to draw from (is 4)")
    ]


def test_a_list_of_committees_ends_with_its_tenth_pass() -> None:
    listed = recipe_of(CVDD(), "cifar-100")
    assert problems_of(listed) == []
    ((where, says),) = problems_of(listed.model_copy(update={"ipc": 11}))
    assert where == "recover.flags.model-setting"
    assert "there are 11 passes; take 3" in says


def test_a_network_that_the_script_does_not_have_is_refused() -> None:
    others = {"wrn": {"architecture": "wrn-16-2", "epochs": 1}, "resnet50": {"architecture": "resnet-18"}}
    with pytest.raises(DirePlugError) as caught:
        check_recipe(tree_of(CVDD(), "cifar-10", squeeze={"others": others}), adapter=CVDD())
    assert "squeeze.others.wrn: the script knows no such network; it has resnet50, shufflenet," in str(caught.value)
    assert "squeeze.others.resnet50.architecture: the script 'cifar-10' takes resnet-50 or" in str(caught.value)


def test_sre2l_pp_has_one_teacher() -> None:
    others = {"resnet50": {"architecture": "resnet-50", "epochs": 1}}
    with pytest.raises(DirePlugError, match=r"squeeze\.others: the script has one teacher; remove resnet50"):
        check_recipe(tree_of(SRe2LPlusPlus(), squeeze={"others": others}), adapter=SRe2LPlusPlus())


# What the script is given


def test_the_command_line_of_a_committee() -> None:
    recipe = recipe_of(CVDD(), "tiny-imagenet")
    call = CVDD().invocation(inputs_of(CVDD(), recipe, size=64))
    assert options(call.arguments) == {
        "--batch-size": "100",
        "--iteration": "4000",
        "--lr": "0.25",
        "--r-bn": "0.01",
        "--first-bn-multiplier": "10.0",
        "--apply-data-augmentation": "",
        "--model-setting": "5",
        "--selected-size": "2",
        "--voter-type": "prior",
        "--weight-temperature": "5",
        "--syn-data-path": "/run",
        "--exp-name": "images",
        "--store-best-images": "",
        "--dataset-name": "tiny_imagenet",
        "--pretrained-model-type": "offline",
        "--model-pool-dir": "/run/inputs/pool",
    }
    assert set(call.shims) == {"device", "torch_load", "network", "empty_modules"}


def test_sre2l_pp_is_setting_0_with_one_network() -> None:
    recipe = recipe_of(SRe2LPlusPlus(), "imagenet-1k")
    given = options(SRe2LPlusPlus().invocation(inputs_of(SRe2LPlusPlus(), recipe, size=224)).arguments)
    assert (given["--model-setting"], given["--selected-size"], given["--voter-type"]) == ("0", "1", "equal")


def test_small_networks_stand_for_upstreams_own_at_the_images_size() -> None:
    call = CVDD().invocation(inputs_of(CVDD(), recipe_of(CVDD()), size=16))
    assert call.shims["crop_size"] == {"from": 32, "to": 16}
    assert call.shims["own_networks"]["replace"] == {
        "ResNet18": "resnet-small-grey",
        "ResNet50": "convnet-small-grey",
        "ShuffleNetV2": "resnet-small-grey",
    }


@pytest.mark.parametrize(("name", "built", "stem"), [("cifar-10", SMALL, "small"), ("imagenette", LARGE, "imagenet")])
def test_each_network_lies_in_the_file_that_the_script_reads(
    name: str, built: dict[str, str], stem: str, tmp_path: Path
) -> None:
    recipe = recipe_of(CVDD(), name)
    size = CVDD.scripts[recipe.recover.script].size
    key = "mobilenet"
    model = build(built[key], outputs=10, stem=stem, size=size)
    network = Network(model, built[key], 10, stem, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    CVDD().write_inputs(inputs_of(CVDD(), recipe, tmp_path, size=size), ScriptInputs({key: network}, None))
    found = torch.load(tmp_path / "inputs" / "pool" / f"{NAMES[key]}.pth", weights_only=True)
    head = found["linear.weight" if stem == "small" else "classifier.1.weight"]
    assert torch.equal(head, list(model.parameters())[-2].detach())


def test_a_recipes_votes_stand_in_the_order_of_its_networks() -> None:
    recipe: Any = recipe_of(CVDD(), "cifar-100")
    assert ["teacher", *recipe.squeeze.others] == list(NAMES)
    assert recipe.evaluate.votes == (64, 60.6, 51.6, 59.4, 56.4)


# Upstream's own code

FURTHER = [
    pytest.param(name, marks=pytest.mark.every_script) for name in ("cifar-100", "tiny", "imagenette", "imagenet")
]


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", ["cifar-10", *FURTHER])
def test_the_patch_of_cv_dd_is_inert_and_reaches_the_loss(script: str, bare_home: Path, tmp_path: Path) -> None:
    verdict = verified(CVDD(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 2 if script == "imagenet" else 5)


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", [pytest.param(one, marks=pytest.mark.every_script) for one in CVDD.scripts])
def test_the_patch_of_sre2l_pp_is_inert_and_reaches_the_loss(script: str, bare_home: Path, tmp_path: Path) -> None:
    verdict = verified(SRe2LPlusPlus(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 2 if script == "imagenet" else 5)


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("adapter", [CVDD(), SRe2LPlusPlus()], ids=lambda one: one.name)
def test_a_tiny_run_with_the_term_ends_with_images_and_an_accuracy(
    adapter: Adapters, cli: Cli, bare_home: Path
) -> None:
    vendor_or_skip(adapter)
    short = [f"squeeze.{key}.epochs=1" for key in ("teacher", "independent")]
    # a pass for each image of a class: upstream's modules are read again in the second
    settings = [text for one in [*short, "recover.plan=keep"] for text in ("--set", one)]
    answer = cli("run", adapter.name, "--dire", *SHORT, *settings)
    assert answer.code == 0, answer.err
    run = only_run(bare_home)
    assert len(list((run / "images").rglob("*.jpg"))) == 20
    assert read_json(run / "metrics.json")["accuracy"]
    assert read_json(run / "losses.json")["mean"]["dire"]
