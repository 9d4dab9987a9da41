"""INFER's adapter: its plan and what counts as IPC, the command line, what its script reads, and its start hook."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from PIL import Image
from support.cli import Cli
from support.small_run import only_run
from support.upstreams import vendor_or_skip

from dire_plug.data.augmentation.batch import normalise
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.home import resource
from dire_plug.methods.infer import INFER
from dire_plug.methods.infer_plan import PerturbationPlan, ipc_argument
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.recipe import read_yaml
from dire_plug.recipe.loading import merge
from dire_plug.recipe.model import RecoverSection, RegroupSection
from dire_plug.types import LoopInputs, ScriptInputs, Slot, StartImages, Synthesis
from dire_plug.upstream.verify.verify import verify

NETWORKS = {
    "teacher": "resnet-18",
    "mobilenet": "mobilenet-v2-ufc",
    "efficientnet": "efficientnet-b0-ufc",
    "shufflenet": "shufflenet-g2-ufc",
}


def recover(script: str = "cifar-10", *, per_class: int | None = None, **flags: Any) -> RecoverSection:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    plan: Any = "keep" if per_class is None else RegroupSection(per_class=per_class)
    return RecoverSection(script=script, flags=named, plan=plan, start="real")


def plan(section: RecoverSection, *, ipc: int, classes: int = 10) -> PerturbationPlan:
    return INFER().plan(section, classes=classes, ipc=ipc)


def recipe(**changes: Any) -> Any:
    """Return the part of a recipe that `problems` and `invocation` read."""
    others = {name: SimpleNamespace(architecture=one) for name, one in NETWORKS.items() if name != "teacher"}
    squeeze = SimpleNamespace(teacher=SimpleNamespace(architecture="resnet-18"), others=others)
    dataset = SimpleNamespace(size=None)
    values = {"recover": recover(), "ipc": 10, "prepare": {}, "squeeze": squeeze, "dataset": dataset}
    return SimpleNamespace(**values | changes)


def inputs_of(folder: Path, *, classes: int = 10, **changes: Any) -> LoopInputs:
    return LoopInputs(
        recipe(**changes), classes, 32, seed=0, folder=folder / "inputs", images=folder / "run" / "images"
    )


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    """Read a command line of `--flag value` pairs and bare flags."""
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    return {flag: "" if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


def start_of(count: int) -> torch.Tensor:
    """Return real images [10, count, 3, 32, 32] whose grey level is 10 times the class plus the image."""
    levels = 10 * torch.arange(10).view(10, 1) + torch.arange(count)
    return levels.to(torch.uint8).view(10, count, 1, 1, 1).expand(10, count, 3, 32, 32).contiguous()


# The plan.


@pytest.mark.parametrize(
    ("script", "classes", "ipc", "originals", "files"),
    [
        ("cifar-10", 10, 10, 7, 35),
        ("cifar-10", 10, 50, 35, 175),
        ("cifar-100", 100, 10, 9, 45),
        ("cifar-100", 100, 50, 48, 240),
        ("imagenet", 1000, 10, 9, 36),
        ("imagenet", 1000, 50, 49, 196),
    ],
)
def test_the_files_of_a_class_are_more_than_ipc(
    script: str, classes: int, ipc: int, originals: int, files: int
) -> None:
    found = plan(recover(script, batch_size=1000), ipc=ipc, classes=classes)
    assert (found.originals, found.ipc, found.slots_per_pass) == (originals, files, files)


def test_a_kept_plan_is_an_image_of_every_class_a_batch_in_upstreams_order() -> None:
    found = plan(recover(), ipc=3)
    slots = [found.slot(Slot(0, number)) for number in range(found.slots_per_pass)]
    assert [slot.labels for slot in slots] == [tuple(range(10))] * 10
    assert [slot.images for slot in slots] == [(number,) * 10 for number in range(10)]


def test_a_regrouped_plan_fills_each_block_before_the_next_network_begins() -> None:
    found = plan(recover(batch_size=5, per_class=2), ipc=5)  # three real images a class
    slots = [found.slot(Slot(0, number)) for number in range(found.slots_per_pass)]
    assert len(slots) == 5 * 2 * 2
    assert [slot.images[:2] for slot in slots[:4]] == [(0, 1), (0, 1), (2, 2), (2, 2)]
    assert (slots[1].labels[0], slots[1].labels[-1]) == (5, 9)
    assert slots[4].images[:2] == (3, 4)


def test_every_image_is_held_once_whatever_the_plan() -> None:
    for section in (recover(), recover(batch_size=3, per_class=2)):
        found = plan(section, ipc=5)
        slots = [found.slot(Slot(0, number)) for number in range(found.slots_per_pass)]
        held = [pair for slot in slots for pair in zip(slot.labels, slot.images, strict=True)]
        assert sorted(held) == [(label, image) for label in range(10) for image in range(15)]


def test_a_slot_outside_the_plan_is_refused() -> None:
    with pytest.raises(DirePlugError, match="the plan has 10 batches in one pass, so there is no batch 10 of pass 0"):
        plan(recover(), ipc=3).slot(Slot(0, 10))


@pytest.mark.parametrize("per_class", [1, 2, 3, 7, 50])
def test_upstream_computes_the_plans_passes_from_the_ipc_that_it_is_given(per_class: int) -> None:
    for ipc in (2, 3, 10, 50):
        found = plan(recover(per_class=per_class), ipc=ipc)
        given = ipc_argument(found, ipc)
        assert int(given / (4 / 10 + 1)) == found.rounds
        assert given == ipc or per_class > 1


def test_a_batch_that_its_start_tensor_does_not_match_is_refused() -> None:
    with pytest.raises(
        DirePlugError, match="a batch of 5 classes doesn't match its start tensor, whose rows are all 10"
    ):
        plan(recover(batch_size=5), ipc=10)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(DirePlugError, match="the script 'cifar-100' takes 100 classes, not 10"):
        plan(recover("cifar-100"), ipc=10)


# What a recipe may not say.


def test_a_fitting_recipe_has_no_problem() -> None:
    assert INFER().problems(recipe()) == []


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"ipc": 1}, "ipc", "IPC 1 leaves no real image: 4 networks' perturbations count as 0.4 images a class"),
        ({"recover": recover(batch_size=9)}, "recover.flags.batch-size", "a batch of 9 classes doesn't match"),
        ({"recover": recover().model_copy(update={"start": "noise"})}, "recover.start", "must be 'real'"),
        ({"dataset": SimpleNamespace(size=8)}, "dataset.size", "has 32 pixels, so images need as many (is 8)"),
        ({"prepare": {"statistics": {}}}, "prepare", "INFER needs nothing prepared; remove statistics"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(changes: dict[str, Any], place: str, message: str) -> None:
    ((where, what),) = INFER().problems(recipe(**changes))
    assert where == place
    assert message in what


def test_the_networks_are_upstreams_in_upstreams_order() -> None:
    given = recipe()
    given.squeeze.others = dict(reversed(given.squeeze.others.items()))
    ((where, what),) = INFER().problems(given)
    assert where == "squeeze.others"
    assert what.endswith("(is resnet-18, shufflenet-g2-ufc, efficientnet-b0-ufc, mobilenet-v2-ufc)")


# The command line and what it reads.


def test_the_command_line_has_every_flag_in_upstreams_spelling() -> None:
    call = INFER().invocation(inputs_of(Path("/runs"), recover=recover(lr=0.25, r_bn=1.0)))
    assert options(call.arguments) == {
        "--batch-size": "100",
        "--iteration": "1000",
        "--lr": "0.25",
        "--jitter": "4",
        "--r-bn": "1.0",
        "--first-bn-multiplier": "10.0",
        "--dataset": "cifar10",
        "--ipc": "10",
        "--init_path": "/runs/inputs/start",
        "--store-best-images": "",
        "--syn-data-path": "/runs",
        "--wandb-name": "run",
        "--exp-name": "images",
    }
    links = {"models": "{tree}/models", "pretrained": "/runs/inputs/pretrained"}
    assert call.shims["files"] == {"links": links}
    assert "get_model" not in call.shims


def test_a_regrouped_plan_asks_upstream_for_fewer_passes() -> None:
    call = INFER().invocation(inputs_of(Path("/runs"), recover=recover(per_class=7)))
    assert options(call.arguments)["--ipc"] == "2"


def test_a_small_resnet_is_put_in_the_place_of_torchvisions() -> None:
    given = inputs_of(Path("/runs"))
    given.recipe.squeeze.teacher.architecture = "resnet-small"
    assert INFER().invocation(given).shims["get_model"] == {"replace": "resnet18", "architecture": "resnet-small"}


def test_the_imagenet_script_gets_three_networks_by_a_shim() -> None:
    call = INFER().invocation(inputs_of(Path("/runs"), classes=1000, recover=recover("imagenet")))
    files = call.shims["hub_weights"]["files"]
    assert files == {
        name: f"/runs/inputs/pretrained/{name}.pt" for name in ("resnet18", "mobilenet_v2", "efficientnet_b0")
    }
    assert options(call.arguments)["--jitter"] == "32"


def test_start_tensors_and_checkpoints_lie_where_the_script_reads_them(tmp_path: Path) -> None:
    script = INFER.scripts["cifar-10"]
    networks = {
        key: Network(build(name, outputs=10), name, 10, "small", script.mean, script.std)
        for key, name in NETWORKS.items()
        if key != "teacher"
    }
    start = start_of(3)
    INFER().write_inputs(inputs_of(tmp_path, ipc=3), ScriptInputs(networks, None, start))
    read = sorted(path.relative_to(tmp_path / "inputs").as_posix() for path in (tmp_path / "inputs").rglob("*.p*t*"))
    assert [path for path in read if path.startswith("start/")] == ["start/tensor_0.pt", "start/tensor_1.pt"]
    assert [path for path in read if path.endswith("ckpt.pth")] == [
        f"pretrained/cifar10/{name}_E200/ckpt.pth" for name in ("efficientnet", "mobilenetV2", "shufflenet")
    ]
    tensor = torch.load(tmp_path / "inputs" / "start" / "tensor_1.pt", weights_only=True)
    assert torch.equal(tensor, normalise(start[:, 1], script.mean, script.std))
    state = torch.load(tmp_path / "inputs/pretrained/cifar10/mobilenetV2_E200/ckpt.pth", weights_only=True)
    assert "module.conv1.weight" in state["state_dict"]


def test_the_imagenet_script_reads_files_sorted_as_the_images_are(tmp_path: Path) -> None:
    from dire_plug.methods.infer import write_files

    write_files(tmp_path, start_of(2))
    assert len(list(tmp_path.iterdir())) == 10
    with Image.open(tmp_path / "00003" / "00001.png") as image:
        assert (image.size, image.getpixel((0, 0))) == ((32, 32), (31, 31, 31))


def test_images_of_another_size_are_refused_before_upstream_starts(tmp_path: Path) -> None:
    small = replace(inputs_of(tmp_path), size=8)
    with pytest.raises(DirePlugError, match=r"has 32 pixels, the images have 8; set dataset\.size=32"):
        INFER().write_inputs(small, ScriptInputs({}, None, start_of(7)))


# The start hook.


def synthesis_of(found: PerturbationPlan, images: torch.Tensor | None) -> Synthesis:
    mean, std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
    start = StartImages("real", (3, 32, 32), images, mean=mean, std=std)
    return cast(Synthesis, SimpleNamespace(plan=found, start_images=start))


def test_upstreams_own_start_is_left_alone() -> None:
    synthesis = synthesis_of(plan(recover(), ipc=3), start_of(3))
    assert INFER().initial_images(synthesis, Slot(0, 4), torch.zeros(10, 3, 32, 32), torch.arange(10)) is None


def test_the_images_of_every_block_start_from_the_same_real_ones() -> None:
    found = plan(recover(batch_size=5, per_class=2), ipc=3)  # two real images a class
    synthesis = synthesis_of(found, start_of(3))
    for number in (1, 3, 9):  # classes 5 to 9 of the untouched block, of the first and of the last network
        labels = torch.tensor(found.slot(Slot(0, number)).labels)
        answer = INFER().initial_images(synthesis, Slot(0, number), torch.zeros(10, 3, 32, 32), labels)
        assert answer is not None
        expected = [float(10 * label + image) for label in range(5, 10) for image in (0, 1)]
        torch.testing.assert_close(answer[:, 0, 0, 0], torch.tensor(expected))


def test_a_start_without_images_is_an_error() -> None:
    synthesis = synthesis_of(plan(recover(), ipc=3), None)
    with pytest.raises(DirePlugError, match="perturbs real images, but the synthesis was given none"):
        INFER().initial_images(synthesis, Slot(0, 0), torch.zeros(10, 3, 32, 32), torch.arange(10))


# As a user sees it.


def test_a_batch_that_does_not_match_its_start_ends_before_upstream_starts(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "infer", "--recipe", "quick", "--set", "recover.flags.batch-size=4")
    assert (answer.code, answer.out) == (2, "")
    assert "recover.flags.batch-size: a batch of 4 classes doesn't match its start tensor" in answer.err
    assert not bare_home.exists()


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    ("script", "steps", "files"),
    [
        ("cifar-10", 8, 50),
        pytest.param("cifar-100", 3, 200, marks=pytest.mark.every_script),
        pytest.param("imagenet", 3, 1004, marks=pytest.mark.every_script),
    ],
)
def test_the_patch_of_infer_is_inert_and_reaches_the_loss(
    script: str, steps: int, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    vendor_or_skip(INFER())
    verdict = verify(INFER(), scripts=[script], workdir=tmp_path)[0]
    assert verdict.holds, verdict
    assert (verdict.steps, verdict.files) == (steps, files)


@pytest.mark.slow
@pytest.mark.upstream
def test_a_whole_run_trains_on_what_upstream_saves(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    vendor_or_skip(INFER())
    once = {"epochs": 1}
    changes = {
        "dataset": {"limit": 40},
        "squeeze": {
            "teacher": once,
            "others": {"mobilenet": once, "efficientnet": once, "shufflenet": once},
            "independent": once,
        },
        "recover": {"flags": {"iteration": 2}},
        "evaluate": {"epochs": 1},
        "measure": {"nearest_k": 2},
    }
    raw = merge(read_yaml(resource("recipes") / "infer" / "quick.yaml"), changes)
    del raw["name"]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    answer = cli("run", "infer", "--recipe", path, "--dire", "--device", "cpu")
    assert answer.code == 0, answer.err
    run = only_run(bare_home)
    assert read_json(run / "plan.json")["ipc"] == 10
    assert len(list((run / "images").rglob("*.jpg"))) == 10 * 10
