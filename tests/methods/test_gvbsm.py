"""G-VBSM's adapter: orders, flags, the command lines of its scripts, what it writes for the script, and its hooks."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from support.cli import Cli
from support.upstreams import vendor_or_skip, verified
from torch.utils.data import DataLoader, Subset
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from dire_plug.api.plans import ListedPlan, class_by_class, cut_plan
from dire_plug.data.dataset import Dataset, make_tensor_dataset
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.home import resource
from dire_plug.methods.gvbsm import GVBSM
from dire_plug.methods.gvbsm_inputs import TEACHERS, teacher_path
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.recipe import check_recipe, read_yaml
from dire_plug.recipe.loading import merge
from dire_plug.recipe.model import RecoverSection, RegroupSection
from dire_plug.types import LoopInputs, ScriptInputs, Slot, SlotPlan, StartImages, Synthesis
from dire_plug.upstream.shims import image_folder as image_folder_shim


@dataclass
class StubSynthesis:
    """The part of a synthesis that the adapter's hooks read."""

    plan: ListedPlan
    classes: int = 3
    ipc: int = 2
    seed: int = 0
    start_images: StartImages = field(default_factory=lambda: StartImages("noise"))


def stub(plan: ListedPlan) -> Synthesis:
    return cast(Synthesis, StubSynthesis(plan))


def recover(script: str = "cifar-10", *, per_class: int | None = None, **flags: Any) -> RecoverSection:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    plan: Any = "keep" if per_class is None else RegroupSection(per_class=per_class)
    return RecoverSection(script=script, flags=named, plan=plan)


def recipe_of(section: RecoverSection, *, ipc: int = 10, prepare: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(recover=section, ipc=ipc, prepare=prepare or {})


def inputs_of(section: RecoverSection, folder: Path = Path("/run"), **values: Any) -> LoopInputs:
    script = GVBSM.scripts[section.script]
    prepared = values.pop("prepared", {})
    return LoopInputs(
        recipe_of(section, **values), script.classes, script.size, 3, folder / "inputs", folder / "images", prepared
    )


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    """Read a command line of `--flag value` pairs and bare flags."""
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    return {flag: "" if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


TWO_BY_THREE = cut_plan(class_by_class(3, 2), classes=3, batch_size=4)


# Plans


def test_the_cifar_scripts_hold_all_images_of_a_class_side_by_side() -> None:
    plan = GVBSM().plan(recover(batch_size=4), classes=10, ipc=3)
    assert plan.slots[0] == SlotPlan((0, 0, 0, 1), (0, 1, 2, 0))
    assert (plan.passes, plan.slots_per_pass, len(plan.slots[-1].labels)) == (1, 8, 2)


def test_the_tiny_script_holds_the_tenth_part_of_a_class_side_by_side() -> None:
    plan = GVBSM().plan(recover("tiny"), classes=200, ipc=20)
    assert plan.slots[0].labels[:5] == (0, 0, 1, 1, 2)
    assert plan.slots[-1].images[-4:] == (18, 19, 18, 19)


def test_another_number_of_images_of_a_class_may_be_side_by_side() -> None:
    plan = GVBSM().plan(recover("tiny", per_class=10), classes=200, ipc=20)
    assert plan.slots[0].labels[:20] == (0,) * 10 + (1,) * 10
    assert (plan.slots[20].labels[0], plan.slots[20].images[:2]) == (0, (10, 11))


def test_the_tiny_script_wants_a_multiple_of_ten_images_a_class() -> None:
    with pytest.raises(DirePlugError, match=r"IPC must be a multiple of 10: 10 or 20 \(is 15\)"):
        GVBSM().plan(recover("tiny"), classes=200, ipc=15)


def test_a_dataset_of_other_classes_than_the_scripts_is_refused() -> None:
    with pytest.raises(DirePlugError, match="'cifar-100' makes images of 100 classes, not of 10"):
        GVBSM().plan(recover("cifar-100"), classes=10, ipc=1)


def test_a_batch_that_the_imagenet_script_cannot_reshape_is_refused() -> None:
    with pytest.raises(DirePlugError, match="reshapes its images by --batch-size 990"):
        GVBSM().plan(recover("imagenet", batch_size=990), classes=1000, ipc=1)
    assert GVBSM().plan(recover("imagenet", batch_size=80), classes=1000, ipc=1).slots_per_pass == 13


# Hooks


def test_upstreams_own_order_is_left_alone() -> None:
    order = torch.arange(6).view(2, 3).t().reshape(-1)  # as the script makes it
    assert GVBSM().plan_order(stub(TWO_BY_THREE), Slot(0, -1), order) is None


def test_another_order_names_images_by_their_place_in_upstreams_list() -> None:
    plan = cut_plan([(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)], classes=3, batch_size=4)
    answer = GVBSM().plan_order(stub(plan), Slot(0, -1), torch.tensor([0, 3, 1, 4, 2, 5]))
    assert answer is not None
    assert answer.tolist() == [0, 1, 2, 3, 4, 5]


def test_labels_are_never_replaced() -> None:
    GVBSM().plan_labels(stub(TWO_BY_THREE), Slot(0, 1), torch.tensor([2, 2]))
    with pytest.raises(DirePlugError, match="labels aren't the plan's"):
        GVBSM().plan_labels(stub(TWO_BY_THREE), Slot(0, 1), torch.tensor([1, 2]))


# Recipes


def quick(**changes: Any) -> dict[str, Any]:
    return merge(read_yaml(GVBSM().recipes() / "quick.yaml"), changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"squeeze": {"teacher": {"architecture": "wrn-16-2"}}},
            "squeeze.others: the script 'cifar-10' builds resnet-18",
        ),
        (
            {"squeeze": {"others": {"convnet": {"head": "averaged"}}}},
            "squeeze.others.convnet.head: the script's ConvNet",
        ),
        ({"prepare": {"statistics": {"image": 5}}}, r"prepare.statistics.image: unknown key \(did you mean 'images'"),
        ({"prepare": {"statistics": {"images": 0}}}, "prepare.statistics.images: must be at least 1"),
        ({"dataset": {"size": 16}}, "dataset.size: the script 'cifar-10' hard-codes 32 pixels"),
        ({"recover": {"flags": {"average_grad_ratio": 0.5}}}, "above 0 the script crashes as published"),
        ({"recover": {"flags": {"ipc-number": 5}}}, "set `ipc`"),
        ({"recover": {"embedder": {}}}, "recover.embedder: the teachers are in the loop already"),
    ],
)
def test_what_does_not_fit_together_in_a_recipe_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DirePlugError, match=message):
        check_recipe(quick(**changes), adapter=GVBSM())


def test_tiny_at_ipc_15_is_refused_before_anything_runs(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path))
    answer = cli("run", "g-vbsm", "--recipe", "tiny-imagenet", "--ipc", 15)
    assert answer.code == 2
    assert (
        "splits the images of a class into 10 groups, so IPC must be a multiple of 10: 10 or 20 (is 15)" in answer.err
    )
    assert not (tmp_path / "runs").exists()


# Command lines


def test_the_command_line_has_every_flag_in_upstreams_spelling() -> None:
    call = GVBSM().invocation(inputs_of(recover(lr=0.05, r_loss=0.01, nuc_norm=1.0)))
    assert options(call.arguments) == {
        "--batch-size": "100",
        "--iteration": "1000",
        "--training-momentum": "0.8",
        "--drop-rate": "0.4",
        "--lr": "0.05",
        "--jitter": "32",
        "--r-loss": "0.01",
        "--first-multiplier": "10.0",
        "--nuc-norm": "1.0",
        "--tau": "4.0",
        "--ipc-number": "10",
        "--store-best-images": "",
        "--gpu-id": "0",
        "--syn-data-path": "/run",
        "--exp-name": "images",
        "--pre-train-path": "/run/inputs",
        "--statistic-path": "/run/inputs/statistics",
    }
    assert call.shims["clock"] == {"seed": 3}
    assert {"one_process", "loader"} <= set(call.shims)


def test_the_imagenet_script_gets_four_networks_by_a_shim() -> None:
    call = GVBSM().invocation(inputs_of(recover("imagenet")))
    assert "--pre-train-path" not in call.arguments
    assert {"--tv-l2", "--l2-scale"} <= set(call.arguments)
    assert call.shims["hub_weights"]["files"] == {
        name: f"/run/inputs/{name}.pth"
        for name in ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")
    }


def test_statistics_are_made_by_one_step_of_the_script_whatever_the_seed() -> None:
    (made,) = GVBSM().preparations(inputs_of(recover("tiny", lr=0.3), prepare={"statistics": {"images": 50}}))
    given = options(made.invocation.arguments)
    assert (made.name, made.stop_after_steps, made.key) == ("statistics", 1, {"images": 50})
    assert (given["--statistic-path"], given["--ipc-number"]) == ("/run/images", "10")
    assert made.invocation.shims["clock"] == {"seed": 0}
    assert made.invocation.shims["image_folder"] == {"file": "/run/inputs/training.safetensors"}
    (of_cifar,) = GVBSM().preparations(inputs_of(recover()))
    assert of_cifar.invocation.shims["cifar"] == {"file": "/run/inputs/training.safetensors"}


# What is laid out


@pytest.fixture
def dataset() -> Dataset:
    pixels = torch.arange(8, dtype=torch.uint8).reshape(8, 1, 1, 1).expand(8, 3, 32, 32)
    labels = torch.arange(8) % 4
    return make_tensor_dataset("toy", train=(pixels, labels), test=(pixels[:4], labels[:4]), classes="abcd")


def teachers(script: str = "cifar-10") -> dict[str, Network]:
    facts = GVBSM.scripts[script]
    return {
        name: Network(build(name, outputs=10, stem="small", size=32), name, 10, "small", facts.mean, facts.std)
        for name in TEACHERS[script]
    }


def test_teachers_lie_where_the_script_looks_for_them_with_its_own_keys(tmp_path: Path, dataset: Dataset) -> None:
    inputs = inputs_of(recover(), tmp_path)
    GVBSM().write_inputs(inputs, ScriptInputs(teachers(), dataset))
    path = inputs.folder / "CIFAR-10" / "WRN_16_2" / "squeeze_WRN_16_2.pth"
    assert path == inputs.folder / teacher_path("cifar-10", "wrn-16-2")
    assert "block1.layer.0.conv1.weight" in torch.load(path, weights_only=True)
    found = load_file(inputs.folder / "training.safetensors")
    assert found["train.labels"].tolist() == [0, 1, 2, 3] * 2


def test_statistics_may_be_taken_from_fewer_images(tmp_path: Path, dataset: Dataset) -> None:
    inputs = inputs_of(recover(), tmp_path, prepare={"statistics": {"images": 4}})
    GVBSM().write_inputs(inputs, ScriptInputs(teachers(), dataset))
    assert load_file(inputs.folder / "training.safetensors")["train.images"][:, 0, 0, 0].tolist() == [0, 2, 4, 6]


def test_statistics_become_means_over_as_many_images_as_there_were(tmp_path: Path, dataset: Dataset) -> None:
    made = tmp_path / "made" / "ConvFeatureHook" / "ResNet=conv1"
    made.mkdir(parents=True)
    np.savez(made / "running.npz", running_dd_mean=np.array([8 / 50_000, 16 / 50_000], dtype=np.float32))
    inputs = inputs_of(recover(), tmp_path, prepared={"statistics": tmp_path / "made"})
    GVBSM().write_inputs(inputs, ScriptInputs(teachers(), dataset))
    with np.load(inputs.folder / "statistics" / "ConvFeatureHook" / "ResNet=conv1" / "running.npz") as found:
        np.testing.assert_allclose(found["running_dd_mean"], [1.0, 2.0], rtol=1e-6)
        assert found["running_dd_mean"].dtype == np.float32
    assert not (inputs.folder / "training.safetensors").exists()


def test_images_of_another_size_than_the_scripts_are_refused(dataset: Dataset) -> None:
    inputs = LoopInputs(recipe_of(recover()), 10, 8, 0, Path("/run/inputs"), Path("/run/images"))
    with pytest.raises(DirePlugError, match=r"hard-codes 32 pixels, but the images have 8; set dataset\.size=32"):
        GVBSM().write_inputs(inputs, ScriptInputs({}, dataset))


def test_images_lie_where_the_scripts_save_them() -> None:
    assert GVBSM().image_path(7, 42) == "new007/class007_id042.png"
    assert [name for name, script in GVBSM.scripts.items() if script.suffix == ".jpg"] == ["imagenet"]


# The shim that serves images


@pytest.fixture
def image_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "ImageFolder", torchvision.datasets.ImageFolder)


@pytest.mark.usefixtures("image_folder")
def test_an_image_folder_is_served_from_one_file(tmp_path: Path) -> None:
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    save_file({"train.images": pixels, "train.labels": torch.tensor([1, 0])}, tmp_path / "training.safetensors")
    image_folder_shim.install(device="cpu", file=str(tmp_path / "training.safetensors"))
    served = torchvision.datasets.ImageFolder(root="/nowhere/train", transform=np.asarray)
    assert [label for _, label in served] == [1, 0]
    assert torch.equal(torch.from_numpy(served[1][0].copy()).permute(2, 0, 1), pixels[1])


@pytest.mark.usefixtures("image_folder")
def test_an_image_folder_is_served_from_files_where_they_are(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.png")
    metadata = {"paths": json.dumps([str(tmp_path / "grey.png")])}
    save_file({"train.labels": torch.tensor([5])}, tmp_path / "training.safetensors", metadata=metadata)
    image_folder_shim.install(device="cpu", file=str(tmp_path / "training.safetensors"))
    ((image, label),) = torchvision.datasets.ImageFolder("/nowhere")
    assert (image.mode, image.getpixel((0, 0)), label) == ("RGB", (7, 7, 7), 5)


@pytest.mark.usefixtures("image_folder")
def test_a_script_may_choose_images_of_a_folder_by_itself(tmp_path: Path) -> None:
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    save_file({"train.images": pixels, "train.labels": torch.tensor([1, 0])}, tmp_path / "training.safetensors")
    image_folder_shim.install(device="cpu", file=str(tmp_path / "training.safetensors"), classes=2)
    served: Any = torchvision.datasets.ImageFolder("/nowhere")
    (path,) = [path for path, label in served.imgs if label == 0]
    assert torch.equal(torch.from_numpy(np.array(served.loader(path))).permute(2, 0, 1), pixels[1])


@pytest.mark.usefixtures("image_folder")
def test_a_batch_that_threads_decode_is_that_of_one_image_after_another(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 20, 30, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.jpg")
    metadata = {"paths": json.dumps([str(tmp_path / f"{number}.jpg") for number in range(9)])}
    save_file({"train.labels": torch.arange(9)}, tmp_path / "training.safetensors", metadata=metadata)
    image_folder_shim.install(device="cpu", file=str(tmp_path / "training.safetensors"))
    drawn = [transforms.RandomResizedCrop(8), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    served = torchvision.datasets.ImageFolder("/nowhere", transforms.Compose(drawn))
    read = []
    for dataset in (served, Subset(served, range(9)), OneByOne(served)):
        torch.manual_seed(0)
        images, labels = zip(*DataLoader(dataset, batch_size=4, shuffle=True), strict=True)
        read.append((torch.cat(images), torch.cat(labels), torch.get_rng_state()))
    for one in read[:2]:
        assert all(torch.equal(value, expected) for value, expected in zip(one, read[2], strict=True))


class OneByOne(TorchDataset[Any]):
    """A dataset that gives its items one at a time only."""

    def __init__(self, items: TorchDataset[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.usefixtures("image_folder")
def test_images_and_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_file({"train.labels": torch.tensor([5])}, tmp_path / "training.safetensors", metadata={"paths": "[]"})
    image_folder_shim.install(device="cpu", file=str(tmp_path / "training.safetensors"))
    with pytest.raises(DirePlugError, match="holds 0 images for 1 labels"):
        torchvision.datasets.ImageFolder("/nowhere")


# Upstream's own code


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    "script",
    ["cifar-10", *(pytest.param(name, marks=pytest.mark.every_script) for name in ("cifar-100", "tiny", "imagenet"))],
)
def test_the_patch_of_g_vbsm_is_inert_and_reaches_the_loss(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    verdict = verified(GVBSM(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 2 if script == "imagenet" else 4)


@pytest.mark.slow
@pytest.mark.upstream
def test_a_tiny_run_with_the_term_goes_through_another_order(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    vendor_or_skip(GVBSM())
    network = {"epochs": 1}
    others = {key: network for key in ("convnet", "mobilenet", "wrn", "shufflenet")}
    changes = {
        "dataset": {"limit": 20},
        "ipc": 2,
        "squeeze": {"teacher": network, "others": others, "independent": network},
        "recover": {"flags": {"iteration": 5, "batch-size": 10}},
        "evaluate": {"epochs": 1},
        "measure": {"nearest_k": 1},
        "arms": {"dire": {"overrides": {"recover": {"plan": {"per_class": 1}}}}},
    }
    raw = merge(read_yaml(resource("recipes") / "g-vbsm" / "quick.yaml"), changes)
    raw.pop("name", None)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    answer = cli("run", "g-vbsm", "--recipe", file, "--dire")
    assert answer.code == 0, answer.err
    (run,) = (path.parent for path in (tmp_path / "home").glob("runs/*/*/*/status.json"))
    assert read_json(run / "plan.json")["slots"][1] == {"labels": list(range(10)), "images": [1] * 10}
    saved = load_file(run / "images.safetensors")
    assert saved["numbers"].tolist() == [0, 1] * 10
    with Image.open(run / "images" / "new009" / "class009_id001.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    last = (saved["images"][-1] * 255).to(torch.uint8)
    assert (pixels.int() - last.int()).abs().max() <= 1
