"""DWA's adapter: plans, start images, the command line of its scripts, and its bad case."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from support.cli import Cli
from support.small_run import only_run
from support.upstreams import vendor_or_skip, verified
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from dire_plug.api.plans import ChunkedPlan, build_plan
from dire_plug.data.augmentation.batch import normalise
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.dwa import DWA, write_folders, write_tensors
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.recipe.model import RecoverSection, RegroupSection
from dire_plug.types import LoopInputs, Script, ScriptInputs, Slot, StartImages, Synthesis

TINY = ("--set", "dataset.limit=100", "--set", "squeeze.teacher.epochs=1", "--set", "squeeze.independent.epochs=1")
SHORT = ("--ipc", "2", "--set", "evaluate.epochs=2", "--set", "evaluate.test_every=2")
SMALL = Script("script.py", 4, 8, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "small", "model")
KEPT = build_plan(classes=4, ipc=3, slots_per_pass=2, chunk_size=2)
GROUPED = build_plan(classes=4, ipc=3, slots_per_pass=1, per_class=2)


def recover(script: str = "cifar-10", *, per_class: int | None = None, **flags: Any) -> RecoverSection:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    plan: Any = "keep" if per_class is None else RegroupSection(per_class=per_class)
    return RecoverSection(script=script, flags=named, plan=plan, start="real")


def inputs_of(section: RecoverSection, *, size: int = 32, folder: Path = Path("/run")) -> LoopInputs:
    squeeze = SimpleNamespace(teacher=SimpleNamespace(architecture="resnet-18"))
    recipe = SimpleNamespace(recover=section, squeeze=squeeze, ipc=2)
    return LoopInputs(recipe, 10, size, 0, folder / "inputs", folder / "images")


def drawn(ipc: int = 3) -> Tensor:
    """Return start images of four classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, ipc, 3, 8, 8), dtype=torch.uint8, generator=generator)


def asked(plan: ChunkedPlan, slot: Slot, images: Tensor, start: Tensor) -> Tensor | None:
    """Return the answer of the start hook."""
    known = StartImages("real", (3, 8, 8), start, SMALL.mean, SMALL.std)
    synthesis = cast(Synthesis, SimpleNamespace(plan=plan, start_images=known, classes=4, ipc=3, seed=0))
    return DWA().initial_images(synthesis, slot, images, torch.tensor(plan.slot(slot).labels))


@pytest.mark.parametrize(("batch_size", "chunks"), [(100, ((0, 10),)), (50, ((0, 5), (5, 10)))])
def test_the_cifar_script_counts_to_a_hundred_with_cifar_10_too(
    batch_size: int, chunks: tuple[tuple[int, int], ...]
) -> None:
    assert DWA().plan(recover(batch_size=batch_size), classes=10, ipc=1).chunks == chunks


def test_the_other_scripts_count_to_their_classes() -> None:
    assert DWA().plan(recover("tiny", batch_size=150), classes=200, ipc=1).chunks == ((0, 150), (150, 200))


def test_the_command_line_has_every_flag_in_upstreams_spelling() -> None:
    call = DWA().invocation(inputs_of(recover(rho=0.015, steps=12, r_var=11)))
    text = " ".join(call.arguments)
    for part in ("--rho 0.015", "--steps 12", "--r-var 11", "--dataset cifar10", "--init-path /run/inputs/start"):
        assert part in text
    assert "--store-best-images" in call.arguments


def test_the_teacher_is_linked_to_where_the_script_reads_it() -> None:
    shims = DWA().invocation(inputs_of(recover("cifar-100"))).shims
    assert shims["files"] == {"links": {"pretrain/save/cifar100/resnet18_E200/ckpt.pth": "/run/inputs/teacher.pt"}}
    assert "sorted_listing" not in shims


def test_scripts_that_list_folders_get_them_sorted() -> None:
    shims = DWA().invocation(inputs_of(recover("imagenet"), size=224)).shims
    assert shims["sorted_listing"] == {}
    assert shims["hub_weights"] == {"teacher": "/run/inputs/teacher.pt", "untrained": True}


def test_a_pass_of_cifar_has_a_tensor_of_one_image_of_each_class(tmp_path: Path) -> None:
    start = drawn()
    write_tensors(tmp_path, start, plan=KEPT, script=SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tensor_0.pt", "tensor_1.pt", "tensor_2.pt"]
    found = torch.load(tmp_path / "tensor_1.pt", weights_only=True)
    assert torch.equal(found, normalise(start[:, 1], SMALL.mean, SMALL.std))


def test_the_file_of_a_pass_is_the_image_of_that_number(tmp_path: Path) -> None:
    start = drawn()
    write_folders(tmp_path, start, plan=KEPT, script=SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000", "00001", "00002", "00003"]
    files = sorted((tmp_path / "00002").iterdir())
    assert torch.equal(transforms.pil_to_tensor(Image.open(files[1])), start[2, 1])


def test_under_another_plan_one_file_stands_for_all(tmp_path: Path) -> None:
    (folder := tmp_path / "start").mkdir()
    write_folders(folder, drawn(), plan=GROUPED, script=SMALL)
    assert sorted(path.name for path in folder.iterdir()) == ["00000", "00001", "00002", "00003"]
    assert len(list((folder / "00003").iterdir())) == GROUPED.passes


def test_start_images_that_the_script_has_read_are_left_alone() -> None:
    start = drawn()
    read = normalise(start[2:, 1], SMALL.mean, SMALL.std)
    assert asked(KEPT, Slot(1, 1), read, start) is None


def test_other_start_images_than_the_plans_are_replaced() -> None:
    start = drawn()
    answer = asked(KEPT, Slot(1, 1), normalise(start[2:, 0], SMALL.mean, SMALL.std), start)
    assert answer is not None
    assert torch.equal(answer, normalise(start[2:, 1], SMALL.mean, SMALL.std))


def test_a_regrouped_batch_gathers_its_start_images() -> None:
    start = drawn()
    answer = asked(GROUPED, Slot(0, 0), torch.zeros(4, 3, 8, 8), start)
    assert answer is not None
    assert torch.equal(answer, normalise(start[:, :2].reshape(8, 3, 8, 8), SMALL.mean, SMALL.std))


def test_laying_out_without_start_images_is_refused(tmp_path: Path) -> None:
    network = Network(build("resnet-small", outputs=10), "resnet-small", 10, "small", SMALL.mean, SMALL.std)
    with pytest.raises(DirePlugError, match=r"recover\.start: DWA's scripts need real images"):
        DWA().write_inputs(inputs_of(recover(), folder=tmp_path), ScriptInputs({"teacher": network}, None))


def test_a_start_of_noise_is_refused_before_anything_is_made(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "dwa", "--set", "recover.start=noise")
    assert (answer.code, answer.out) == (2, "")
    assert "recover.start: must be 'real' or 'rded': DWA's scripts have no other start than real images" in answer.err
    assert not bare_home.exists()


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    "script",
    [
        "cifar-10",
        *(pytest.param(name, marks=pytest.mark.every_script) for name in ("cifar-100", "tiny", "imagenet")),
    ],
)
def test_the_patch_of_dwa_is_inert_and_reaches_the_loss(script: str, bare_home: Path, tmp_path: Path) -> None:
    verdict = verified(DWA(), script, tmp_path)
    expected = {"cifar-10": (2, 10), "cifar-100": (2, 100), "tiny": (3, 2), "imagenet": (3, 2)}
    assert (verdict.steps, verdict.files) == expected[script]


@pytest.mark.slow
@pytest.mark.upstream
def test_a_tiny_run_with_the_term_ends_with_images_and_an_accuracy(cli: Cli, bare_home: Path) -> None:
    vendor_or_skip(DWA())
    answer = cli("run", "dwa", "--dire", "--set", "recover.flags.iteration=2", *TINY, *SHORT)
    assert answer.code == 0, answer.err
    run = only_run(bare_home)
    assert len(list((run / "images").rglob("*.jpg"))) == 20
    assert read_json(run / "metrics.json")["accuracy"]
