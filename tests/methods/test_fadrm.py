"""FADRM's adapter: stages, real images by their places, and its patch where upstream can be reached."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.cli import Cli
from support.small_run import only_run
from support.upstreams import vendor_or_skip, verified

from dire_plug.api.plans import class_by_class, cut_plan
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.fadrm import FADRM
from dire_plug.recipe import read_yaml, resolve
from dire_plug.recipe.loading import merge
from dire_plug.recipe.model import Recipe, RecoverSection
from dire_plug.types import LoopInputs, ScriptInputs, Slot

SHORT = (
    *("--set", "recover.flags.optimization-budgets=[1,1,1,1]", "--set", "squeeze.teacher.epochs=1"),
    *("--set", "squeeze.others.resnet50.epochs=1", "--set", "squeeze.independent.epochs=1"),
    *("--set", "dataset.limit=200", "--set", "evaluate.epochs=2", "--set", "evaluate.test_every=2"),
)


def section(batch_size: int, *, per_class: int = 1, script: str = "cifar-100") -> RecoverSection:
    plan: Any = "keep" if per_class == 1 else {"per_class": per_class}
    return RecoverSection(script=script, flags={"batch-size": batch_size}, plan=plan)


def recipe_of(name: str = "quick", *, arm: str = "baseline", ipc: int | None = None, **changes: Any) -> Recipe:
    tree = merge(read_yaml(FADRM().recipes() / f"{name}.yaml"), changes)
    return resolve(tree, arm=arm, ipc=ipc, preset=None, settings=(), adapter=FADRM()).recipe


# The plan


def test_a_pass_may_end_with_a_smaller_batch() -> None:
    plan = cut_plan(class_by_class(3, 4), classes=3, batch_size=4, pass_size=6)
    assert (plan.passes, plan.slots_per_pass, plan.ipc) == (2, 2, 4)
    assert [len(slot.labels) for slot in plan.slots] == [4, 2, 4, 2]
    assert plan.slot(Slot(1, 0)).labels == (1, 1, 2, 2)


def test_a_regrouped_batch_is_as_long_as_upstreams() -> None:
    kept, regrouped = (FADRM().plan(section(100, per_class=one), classes=100, ipc=20) for one in (1, 10))
    assert (regrouped.passes, regrouped.slots_per_pass) == (kept.passes, kept.slots_per_pass) == (20, 1)
    assert kept.slot(Slot(3, 0)).images == (3,) * 100
    assert Counter(regrouped.slot(Slot(3, 0)).labels) == dict.fromkeys(range(30, 40), 10)
    assert set(regrouped.slot(Slot(13, 0)).images) == set(range(10, 20))


def test_passes_of_a_smaller_ipc_are_those_of_a_larger_one() -> None:
    small, large = (FADRM().plan(section(50, per_class=10), classes=100, ipc=ipc) for ipc in (10, 50))
    assert large.slots[: len(small.slots)] == small.slots


def test_fewer_classes_fill_whole_passes_or_are_refused() -> None:
    plan = FADRM().plan(section(50, per_class=5), classes=10, ipc=20)
    assert (plan.passes, plan.slots_per_pass, plan.ipc) == (2, 2, 20)
    with pytest.raises(DirePlugError, match=r"with 10 classes IPC must be a multiple of 10 \(is 15\)"):
        FADRM().plan(section(50), classes=10, ipc=15)


# What the script is given


def test_each_place_of_a_pass_has_the_real_image_of_the_plan(tmp_path: Path) -> None:
    adapter, recipe = FADRM(), recipe_of(arm="dire", ipc=20)
    # the pixels of an image say which it is
    start = torch.arange(200, dtype=torch.uint8).view(10, 20, 1, 1, 1).expand(10, 20, 3, 16, 16)
    inputs = LoopInputs(recipe, 10, 16, 0, tmp_path / "inputs", tmp_path / "images")
    adapter.write_inputs(inputs, ScriptInputs({}, None, start))
    plan = adapter.plan(recipe.recover, classes=10, ipc=20)
    for number, place in ((0, 7), (1, 99)):
        held = plan.slot(Slot(number, place // 50))
        file = f"patches/medium/{place:05d}/class{place:05d}_id{number:05d}.jpg"
        with Image.open(inputs.folder / file) as image:
            assert image.getpixel((3, 5)) == (20 * held.labels[place % 50] + held.images[place % 50],) * 3


def test_the_networks_take_turns_in_the_recipes_order() -> None:
    recipe = recipe_of("cifar-100")
    arguments = FADRM().invocation(LoopInputs(recipe, 100, 32, 0, Path("/run/inputs"), Path("/run/images"))).arguments
    first = arguments.index("--teacher-model-list") + 1
    assert arguments[first : first + 4] == ("ResNet18", "Densenet121", "ShuffleNetV2", "MobileNetV2")
    sizes = arguments.index("--input-size-lis") + 1
    assert arguments[sizes : sizes + 5] == ("32", "32", "32", "32", "--optimization-budgets")


@pytest.mark.parametrize(("size", "sizes"), [(16, "14 16 14 16"), (32, "28 32 28 32")])
def test_stages_without_sizes_have_the_ratio_of_imagenets(size: int, sizes: str) -> None:
    inputs = LoopInputs(recipe_of(), 10, size, 0, Path("/run/inputs"), Path("/run/images"))
    arguments = " ".join(FADRM().invocation(inputs).arguments)
    assert arguments.count("--input-size-lis") == 1
    assert arguments.endswith(f"--input-size-lis {sizes}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "recover.flags.input-size-lis=[16,14,16,14]",
            "input-size-lis: must end with its largest, the images' size 16",
        ),
        ("recover.flags.input-size-lis=[]", "input-size-lis: must end with its largest, the images' size 16 (is [])"),
        ("recover.flags.input-size-lis=[16,16]", "optimization-budgets: must be 2 numbers above 0, one for each stage"),
        ("recover.flags.optimization-budgets=[5,0,5,5]", "optimization-budgets: must be numbers above 0"),
        ("recover.flags.optimization-budgets=[]", "optimization-budgets: must be numbers above 0"),
        ("recover.start=noise", "recover.start: must be 'real' or 'rded': FADRM's scripts have no other start"),
        ("dataset.size=48", "dataset.size: must be at most the script's own, 32 (is 48)"),
        ("recover.plan.per_class=20", "recover.plan.per_class: must be at most the 10 images of a batch (is 20)"),
        ("ipc=15", "ipc: a pass makes 100 images, so with 10 classes IPC must be a multiple of 10 (is 15)"),
    ],
)
def test_what_does_not_fit_is_told_before_a_run(cli: Cli, bare_home: Path, setting: str, message: str) -> None:
    more = ("--set", "ipc=20") if "per_class" in setting else ()
    answer = cli("run", "fadrm", "--set", setting, *more)
    assert answer.code == 2
    assert message in answer.err


# Upstream's own code


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    "script",
    ["cifar-100", *(pytest.param(name, marks=pytest.mark.every_script) for name in ("tiny", "imagenette", "imagenet"))],
)
def test_the_patch_of_fadrm_is_inert_and_reaches_the_loss(script: str, bare_home: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="FADRM's code imports OpenCV: pip install 'dire-plug[upstreams]'")
    verdict = verified(FADRM(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 2 if script.startswith("imagenet") else 5)


@pytest.mark.slow
@pytest.mark.upstream
def test_a_tiny_run_through_all_stages_ends_with_images_and_an_accuracy(cli: Cli, bare_home: Path) -> None:
    pytest.importorskip("cv2", reason="FADRM's code imports OpenCV: pip install 'dire-plug[upstreams]'")
    vendor_or_skip(FADRM())
    answer = cli("run", "fadrm", "--dire", *SHORT)
    assert answer.code == 0, answer.err
    run = only_run(bare_home)
    assert len(list((run / "images").rglob("*.png"))) == 100
    assert read_json(run / "metrics.json")["accuracy"]
    assert read_json(run / "losses.json")["mean"]["dire"]
