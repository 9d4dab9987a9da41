"""CDA's adapter: plans, flags, the command line of its scripts, and its patch and a run where it can be reached."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.cli import Cli
from support.small_run import only_run
from support.upstreams import vendor_or_skip, verified

from dire_plug.files import read_json
from dire_plug.methods.cda import CDA
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.recipe.model import RecoverSection, RegroupSection
from dire_plug.types import LoopInputs, ScriptInputs, Slot

TINY = ("--set", "dataset.limit=100", "--set", "squeeze.teacher.epochs=1", "--set", "squeeze.independent.epochs=1")
SHORT = ("--ipc", "2", "--set", "evaluate.epochs=2", "--set", "evaluate.test_every=2")


def recover(script: str = "tiny", *, per_class: int | None = None, **flags: Any) -> RecoverSection:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    if per_class is None:
        return RecoverSection(script=script, flags=named)
    return RecoverSection(script=script, flags=named, plan=RegroupSection(per_class=per_class))


def inputs_of(section: RecoverSection, *, size: int = 64, architecture: str = "resnet-18") -> LoopInputs:
    squeeze = SimpleNamespace(teacher=SimpleNamespace(architecture=architecture))
    recipe = SimpleNamespace(recover=section, squeeze=squeeze, ipc=2)
    return LoopInputs(recipe, 10, size, 0, Path("/run/inputs"), Path("/run/images"))


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    return {flag: "" if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


def test_a_kept_plan_has_upstreams_own_batches() -> None:
    assert CDA().plan(recover(batch_size=150), classes=200, ipc=2).chunks == ((0, 150), (150, 200))


def test_cifar_100_has_the_batches_of_the_tiny_script() -> None:
    plan = CDA().plan(recover("cifar-100", batch_size=100, per_class=10), classes=100, ipc=50)
    assert (plan.chunks, plan.passes) == (((0, 50), (50, 100)), 5)
    assert len(plan.slot(Slot(0, 1)).labels) == 500


def test_the_command_line_has_every_flag_in_upstreams_spelling() -> None:
    call = CDA().invocation(inputs_of(recover(lr=0.4, milestone=1.0)))
    assert options(call.arguments) == {
        "--batch-size": "100",
        "--iteration": "1000",
        "--lr": "0.4",
        "--jitter": "4",
        "--r-bn": "0.05",
        "--first-bn-multiplier": "10.0",
        "--easy2hard-mode": "cosine",
        "--milestone": "1.0",
        "--syn-data-path": "/run",
        "--exp-name": "images",
        "--store-best-images": "",
        "--arch-path": "/run/inputs/teacher.pt",
    }
    assert set(call.shims) == {"device", "torch_load", "network"}


def test_images_of_another_size_are_cropped_to_it() -> None:
    call = CDA().invocation(inputs_of(recover("cifar-100"), size=32))
    assert call.script == "CDA/recover_cda_tiny.py"
    assert call.shims["crop_size"] == {"from": 64, "to": 32}


def test_the_imagenet_script_gets_its_teacher_by_a_shim() -> None:
    call = CDA().invocation(inputs_of(recover("imagenet"), size=224))
    assert "--arch-path" not in call.arguments
    assert call.shims["hub_weights"] == {"teacher": "/run/inputs/teacher.pt", "untrained": True}


@pytest.mark.parametrize(("flag", "value"), [("milestone", 1.5), ("easy2hard-mode", "cosin"), ("batch-size", 201)])
def test_a_flag_out_of_its_bounds_is_refused(flag: str, value: object) -> None:
    with pytest.raises(ValidationError, match=flag):
        CDA().flags_model("tiny").model_validate({flag: value})


def test_the_teacher_is_written_as_the_script_reads_it(tmp_path: Path) -> None:
    model = build("resnet-small", outputs=200)
    network = Network(model, "resnet-small", 200, "small", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    inputs = LoopInputs(inputs_of(recover()).recipe, 10, 8, 0, tmp_path, tmp_path / "images")
    CDA().write_inputs(inputs, ScriptInputs({"teacher": network}, None))
    found = torch.load(tmp_path / "teacher.pt", weights_only=True)["model"]
    assert torch.equal(found["conv1.weight"], model.state_dict()["conv1.weight"])


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    "script", ["tiny", *(pytest.param(name, marks=pytest.mark.every_script) for name in ("cifar-100", "imagenet"))]
)
def test_the_patch_of_cda_is_inert_and_reaches_the_loss(script: str, bare_home: Path, tmp_path: Path) -> None:
    verdict = verified(CDA(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 2 if script == "imagenet" else 10)


@pytest.mark.slow
@pytest.mark.upstream
def test_a_tiny_run_with_the_term_ends_with_images_and_an_accuracy(cli: Cli, bare_home: Path) -> None:
    vendor_or_skip(CDA())
    answer = cli("run", "cda", "--dire", "--set", "recover.flags.iteration=2", *TINY, *SHORT)
    assert answer.code == 0, answer.err
    run = only_run(bare_home)
    assert len(list((run / "images").rglob("*.jpg"))) == 20
    assert read_json(run / "metrics.json")["accuracy"]
