"""LPLD's adapter: a pass for each class, statistics of classes, and its patch where upstream can be reached."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.cli import Cli
from support.small_run import only_run
from support.upstreams import vendor_or_skip, verified

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.lpld import LPLD
from dire_plug.recipe.model import RecoverSection
from dire_plug.types import LoopInputs, Slot

TINY = ("--set", "dataset.limit=100", "--set", "squeeze.teacher.epochs=1", "--set", "squeeze.independent.epochs=1")
SHORT = ("--ipc", "2", "--set", "evaluate.epochs=2", "--set", "evaluate.test_every=2")


def recover(script: str = "tiny", **flags: Any) -> RecoverSection:
    return RecoverSection(script=script, flags={name.replace("_", "-"): value for name, value in flags.items()})


def inputs_of(script: str, *, architecture: str = "resnet-18") -> LoopInputs:
    squeeze = SimpleNamespace(teacher=SimpleNamespace(architecture=architecture))
    recipe = SimpleNamespace(recover=recover(script), squeeze=squeeze, prepare={}, ipc=2)
    prepared = {"statistics": Path("/made")}
    return LoopInputs(recipe, 10, 64, 0, Path("/run/inputs"), Path("/run/images"), prepared)


def test_a_pass_holds_the_images_of_one_class() -> None:
    plan = LPLD().plan(recover(batch_size=100), classes=3, ipc=4)
    assert (plan.passes, plan.slots_per_pass, plan.ipc) == (3, 1, 4)
    assert (plan.slot(Slot(2, 0)).labels, plan.slot(Slot(2, 0)).images) == ((2, 2, 2, 2), (0, 1, 2, 3))
    with pytest.raises(DirePlugError, match="1 batches in each of 3 passes, so there is no batch 0 of pass 3"):
        plan.slot(Slot(3, 0))


def test_batches_of_imagenet_cut_a_class() -> None:
    plan = LPLD().plan(recover("imagenet", batch_size=2), classes=3, ipc=4)
    assert (plan.passes, plan.slots_per_pass) == (3, 2)
    assert (plan.slot(Slot(1, 1)).labels, plan.slot(Slot(1, 1)).images) == ((1, 1), (2, 3))


@pytest.mark.parametrize(("script", "size", "word"), [("tiny", 2, "hold"), ("imagenet", 3, "divide")])
def test_batches_whose_files_would_be_lost_are_refused(script: str, size: int, word: str) -> None:
    with pytest.raises(DirePlugError, match=rf"must {word} the 4 images of a class, or files are lost \(is {size}\)"):
        LPLD().plan(recover(script, batch_size=size), classes=3, ipc=4)


@pytest.mark.parametrize(
    ("script", "teacher", "passed"),
    [
        ("tiny", ("--arch-path", "/made/resnet18_tiny_0.pth"), ("--ipc-start", "3", "--ipc-end", "4")),
        ("imagenet", ("--arch-checkpoint", "/made/checkpoint.pth"), ("--class-start", "3", "--class-end", "4")),
    ],
)
def test_a_script_gets_the_teacher_with_statistics_and_one_class(
    script: str, teacher: tuple[str, str], passed: tuple[str, ...]
) -> None:
    arguments = LPLD().invocation(inputs_of(script)).arguments
    assert arguments[-2:] == teacher
    assert arguments[arguments.index("--bn-hook-type") + 1] == "class_stats_training"
    assert LPLD().pass_arguments(3, script) == passed


def test_another_teacher_is_built_aware_of_classes_in_the_loop_too() -> None:
    inputs = inputs_of("tiny", architecture="resnet-small-grey")
    (preparation,) = LPLD().preparations(inputs)
    for call in (preparation.invocation, LPLD().invocation(inputs)):
        assert call.shims["class_networks"] == {"replace": "resnet18_class", "architecture": "resnet-small-grey"}
    assert LPLD().invocation(inputs_of("tiny")).shims["class_networks"] == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prepare.statistics.batch_siz=3", "prepare.statistics.batch_siz: unknown key (did you mean 'batch_size'?)"),
        ("recover.plan.per_class=2", "recover.plan: must be 'keep': a batch holds images of one class alone already"),
        ("recover.flags.batch-size=3", "recover.flags.batch-size: must hold the 10 images of a class"),
    ],
)
def test_what_does_not_fit_is_told_before_a_run(cli: Cli, bare_home: Path, setting: str, message: str) -> None:
    answer = cli("run", "lpld", "--set", setting)
    assert answer.code == 2
    assert message in answer.err


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", ["tiny", pytest.param("imagenet", marks=pytest.mark.every_script)])
def test_the_patch_of_lpld_is_inert_and_reaches_the_loss(script: str, bare_home: Path, tmp_path: Path) -> None:
    verdict = verified(LPLD(), script, tmp_path)
    assert (verdict.steps, verdict.files) == ((3, 1) if script == "imagenet" else (2, 2))


@pytest.mark.slow
@pytest.mark.upstream
def test_a_run_takes_statistics_of_each_class_first(cli: Cli, bare_home: Path) -> None:
    vendor_or_skip(LPLD())
    answer = cli("run", "lpld", "--dire", "--set", "recover.flags.iteration=2", *TINY, *SHORT)
    assert answer.code == 0, answer.err
    run = only_run(bare_home)
    assert len(list((run / "images").rglob("*.jpg"))) == 20
    assert read_json(run / "metrics.json")["accuracy"]
    (file,) = bare_home.rglob("resnet18_tiny_0.pth")
    means = torch.load(file, weights_only=True)["model"]["bn1.class_running_mean"]
    assert means.shape == (200, 64)
    assert means[:10].abs().sum(1).min() > 0
    assert means[10:].abs().max() == 0
