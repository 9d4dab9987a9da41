"""EDC's adapter: statistics of classes, what the script draws its start from, and its patch where upstream is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.cli import Cli
from support.upstreams import verified

from dire_plug.data.dataset import Dataset, make_tensor_dataset
from dire_plug.errors import DirePlugError
from dire_plug.methods.edc import EDC
from dire_plug.methods.gvbsm_inputs import SMALL, teacher_path
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.recipe.model import RecoverSection
from dire_plug.types import LoopInputs, ScriptInputs, SlotPlan


def recover(script: str = "cifar-10", *, start: Any = "own", **flags: Any) -> RecoverSection:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return RecoverSection(script=script, flags=named, start=start)


def inputs_of(folder: Path, *, prepared: bool = False, images: int | None = None, start: Any = "own") -> LoopInputs:
    prepare = {} if images is None else {"statistics": {"images": images}}
    recipe: Any = SimpleNamespace(recover=recover(start=start), ipc=2, prepare=prepare)
    made = {"statistics": folder / "made"} if prepared else {}
    return LoopInputs(recipe, 10, 32, 3, folder / "inputs", folder / "images", made)


@pytest.fixture
def script_inputs() -> ScriptInputs:
    labels = torch.arange(20) // 2
    pixels = torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1, 1).expand(20, 3, 32, 32)
    dataset: Dataset = make_tensor_dataset(
        "toy", train=(pixels, labels), test=(pixels[:10], torch.arange(10)), classes="abcdefghij"
    )
    facts = EDC.scripts["cifar-10"]
    networks = {
        name: Network(build(name, outputs=10, size=32), name, 10, "small", facts.mean, facts.std) for name in SMALL
    }
    return ScriptInputs(networks, dataset)


def test_a_batch_of_as_many_images_as_a_class_has_holds_one_class() -> None:
    plan = EDC().plan(recover(batch_size=3), classes=10, ipc=3)
    assert (plan.passes, plan.slots_per_pass) == (1, 10)
    assert plan.slots[4] == SlotPlan((4, 4, 4), (0, 1, 2))


def test_the_run_that_makes_the_statistics_has_no_step_and_saves_no_image(tmp_path: Path) -> None:
    (made,) = EDC().preparations(inputs_of(tmp_path, images=10))
    arguments = made.invocation.arguments
    assert made.stop_after_steps is None
    assert arguments[arguments.index("--iteration") + 1] == "0"
    assert "--store-best-images" not in arguments
    assert "--store-best-images" in EDC().invocation(inputs_of(tmp_path)).arguments


def test_eight_networks_lie_where_the_script_looks_for_them(tmp_path: Path, script_inputs: ScriptInputs) -> None:
    inputs = inputs_of(tmp_path)
    EDC().write_inputs(inputs, script_inputs)
    names = [inputs.folder / teacher_path("cifar-10", architecture) for architecture in SMALL]
    assert [path.parent.name for path in names][5:] == ["ConvNetD1", "ConvNetD2", "ConvNetW32"]
    assert torch.load(names[5], weights_only=True)["classifier.weight"].shape == (10, 128 * 16**2)
    assert len(load_file(inputs.folder / "training.safetensors")["train.labels"]) == 20


def test_statistics_of_a_class_are_linked_and_others_scaled(tmp_path: Path, script_inputs: ScriptInputs) -> None:
    inputs = inputs_of(tmp_path, prepared=True)
    made = tmp_path / "made"
    for folder, value in (("ConvFeatureHook/Net=conv", 20 / 50_000), ("BNFeatureHook/class_3/Net=bn", 7.0)):
        (made / folder).mkdir(parents=True)
        np.savez(made / folder / "running.npz", running_dd_mean=np.array([value], dtype=np.float32))
    EDC().write_inputs(inputs, script_inputs)
    read = {}
    for folder in ("ConvFeatureHook/Net=conv", "BNFeatureHook/class_3/Net=bn"):
        with np.load(inputs.folder / "statistics" / folder / "running.npz") as found:
            read[folder] = float(found["running_dd_mean"][0])
    assert read == {"ConvFeatureHook/Net=conv": pytest.approx(1.0), "BNFeatureHook/class_3/Net=bn": 7.0}
    assert (inputs.folder / "statistics" / "BNFeatureHook" / "class_3").is_symlink()


@pytest.mark.parametrize(("start", "count"), [("own", 20), ("real", 10)])
def test_the_script_draws_its_own_start_from_all_training_images(
    start: str, count: int, tmp_path: Path, script_inputs: ScriptInputs
) -> None:
    inputs = inputs_of(tmp_path, prepared=True, images=10, start=start)
    EDC().write_inputs(inputs, script_inputs)
    found = load_file(inputs.folder / "training.safetensors")["train.labels"]
    assert len(found) == count
    assert set(found.tolist()) == set(range(10))


def test_a_class_without_an_image_in_the_statistics_is_refused(tmp_path: Path, script_inputs: ScriptInputs) -> None:
    with pytest.raises(DirePlugError, match=r"prepare\.statistics\.images: 7 images hold none of some class"):
        EDC().check_dataset(inputs_of(tmp_path, images=7).recipe, script_inputs.dataset)


def test_a_start_from_noise_is_refused_before_a_run(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "edc", "--set", "recover.start=noise")
    assert answer.code == 2
    assert "recover.start: must be 'own', 'real' or 'rded'" in answer.err


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", ["cifar-10", pytest.param("cifar-100", marks=pytest.mark.every_script)])
def test_the_patch_of_edc_is_inert_and_reaches_the_loss(script: str, bare_home: Path, tmp_path: Path) -> None:
    verdict = verified(EDC(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 4)
