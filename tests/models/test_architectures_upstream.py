"""Our networks against the methods' own classes: their weights fit strictly, outputs and embeddings are the same.

Upstream's classes are imported in a child process, from a checkout of the pinned commit that is made for the tests.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.upstream_networks import CHILD

from dire_plug.models import build, embed, upstream_keys
from dire_plug.models.checkpoint import write_for_upstream

pytestmark = [pytest.mark.slow, pytest.mark.upstream]
G_VBSM = "https://github.com/shaoshitong/G_VBSM_Dataset_Condensation"
UPSTREAMS = {
    "dwa": ("https://github.com/AngusDujw/Diversity-Driven-Synthesis", "c5b125f26a0a5234b814cf668ea5cee1a69d0c2b"),
    "infer": ("https://github.com/zhangxin-xd/UFC", "83d19f886de8fe821632bea372191d9b4e319d5b"),
    "delt": ("https://github.com/VILA-Lab/DELT", "f2f81cad0e259fbd9409920bd1a62b084986b8e6"),
    "g-vbsm": (G_VBSM, "1ed80b0ed0bdde206ac61f5b0b9e70f8e8a5d30e"),
    "mtt": ("https://github.com/GeorgeCazenavette/mtt-distillation", "50dccea47ba48b9cfb3b9c59375d7da92e4e603b"),
    "cv-dd": ("https://github.com/Jiacheng8/CV-DD", "24097e9c7058954b90eb442daa7cc6ba4b774830"),
    "dm": ("https://github.com/justincui03/dc_benchmark", "2a57711961670859ea4c3102b766d1b16f7dea85"),
}
CIFAR, TINY = "Branch_CIFAR_10/recover", "Branch_Tiny_ImageNet/recover"
FIELDS_CONVNET = "ConvNet(3, 10, 128, {}, 'relu', '{}', 'avgpooling', ({}, {}))"


@dataclass(frozen=True)
class Case:
    """One network of ours at one size, and how a method's code builds its own."""

    method: str
    architecture: str
    size: int
    folder: str
    module: str
    call: str

    def __str__(self) -> str:
        return f"{self.method}-{self.architecture}-{self.size}"


def field(method: str, folder: str, *, module: str = "networks", norm: str = "instancenorm", size: int = 32) -> Case:
    depth = 3 if size == 32 or method == "g-vbsm" else 4
    suffix = "-bn" if norm == "batchnorm" else ""
    call = FIELDS_CONVNET.format(depth, norm, size, size)
    return Case(method, f"convnet-{depth}{suffix}", size, folder, module, call)


def of_g_vbsm(architecture: str, name: str) -> list[Case]:
    call = f"model_dict['{name}'](num_classes=10)"
    return [Case("g-vbsm", architecture, size, folder, "models", call) for size, folder in ((32, CIFAR), (64, TINY))]


def of_cv_dd(architecture: str, module: str, call: str) -> list[Case]:
    return [Case("cv-dd", architecture, size, "models", module, call) for size in (32, 64)]


CASES = [
    *of_g_vbsm("resnet-18", "ResNet18"),
    *of_g_vbsm("mobilenet-v2-gvbsm", "MobileNetV2"),
    *of_g_vbsm("wrn-16-2", "WRN_16_2"),
    *of_g_vbsm("shufflenet-v2-x0.5", "ShuffleNetV2_0_5"),
    field("g-vbsm", CIFAR),
    field("g-vbsm", TINY, size=64),
    field("mtt", "."),
    field("mtt", ".", size=64),
    field("dm", "methods/dc"),
    field("infer", "models", module="convnet", norm="batchnorm"),
    Case("infer", "mobilenet-v2-ufc", 32, "models", "mobilenetv2", "MobileNetV2_cifar10(10)"),
    Case("infer", "efficientnet-b0-ufc", 32, "models", "efficientnet", "EfficientNetB0_cifar10()"),
    Case("infer", "shufflenet-g2-ufc", 32, "models", "shufflenet", "ShuffleNetG2_cifar10()"),
    Case("dwa", "mobilenet-v2-ufc", 32, "models", "mobilenetv2", "MobileNetV2(10)"),
    Case("dwa", "vgg-16-bn-dwa", 32, "models", "vgg", "VGG('VGG16', 10)"),
    *of_cv_dd("resnet-18", "resnet", "ResNet18(10)"),
    *of_cv_dd("resnet-50", "resnet", "ResNet50(10)"),
    *of_cv_dd("mobilenet-v2-ufc", "mobilenetv2", "MobileNetV2(10)"),
    *of_cv_dd("shufflenet-v2-x0.5-cvdd", "shufflenetv2", "ShuffleNetV2(0.5, 10)"),
    *of_cv_dd("densenet-121-cvdd", "densenet", "DenseNet121(10)"),
    Case("delt", "convnet-3-bn", 32, "recover", "models", "ConvNet(10, net_depth=3, im_size=(32, 32))"),
    Case("delt", "convnet-4-bn", 64, "recover", "models", "ConvNet(10, net_depth=4, im_size=(64, 64))"),
]


def make(case: Case) -> torch.nn.Module:
    """Build our network; its statistics are far from those of a fresh one, so that a swapped pair shows."""
    torch.manual_seed(0)
    model = build(case.architecture, outputs=10, size=case.size).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


def make_images(case: Case) -> torch.Tensor:
    return torch.randn(3, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))


def check_out(method: str, folder: Path) -> Path:
    """Return a checkout of what the cases of a method import; skip where the repository cannot be reached."""
    repository, commit = UPSTREAMS[method]
    clone = ["git", "clone", "--quiet", "--no-checkout", "--filter=blob:none", repository, str(folder)]
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    cloned = subprocess.run(clone, capture_output=True, text=True, env=environment, timeout=300, check=False)
    if cloned.returncode:
        pytest.skip(f"{repository}: {cloned.stderr.strip().splitlines()[-1]}")
    paths = sorted({case.folder for case in CASES if case.method == method} - {"."}) or ["networks.py"]
    subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", commit, "--", *paths], env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], dict[str, Any]]:
    """Return what upstream's class answers to a case; one child process asks all the cases of a method."""
    asked: dict[str, Path] = {}

    def ask(method: str) -> Path:
        work = tmp_path_factory.mktemp(method)
        tree = check_out(method, work / "tree")
        cases = []
        for case in (case for case in CASES if case.method == method):
            keys = upstream_keys(case.architecture, method)
            write_for_upstream(make(case), work / f"{case}.pth", "bare", keys=keys)
            torch.save(make_images(case), work / f"{case}.images")
            paths = {"weights": work / f"{case}.pth", "images": work / f"{case}.images", "result": work / f"{case}.out"}
            named = {name: str(path) for name, path in paths.items()}
            place = {"tree": str(tree), "folder": str(tree / case.folder), "module": case.module}
            cases.append({"call": case.call, **place, **named})
        command = [sys.executable, "-B", "-c", CHILD]
        child = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, cwd=work, check=False)
        assert child.returncode == 0, child.stderr
        return work

    def answer(case: Case) -> dict[str, Any]:
        if case.method not in asked:
            asked[case.method] = ask(case.method)
        found: dict[str, Any] = torch.load(asked[case.method] / f"{case}.out", weights_only=True)
        return found

    return answer


@pytest.mark.parametrize("case", CASES, ids=str)
def test_upstreams_class_with_our_weights_answers_as_ours_does(
    answers: Callable[[Case], dict[str, Any]], case: Case
) -> None:
    theirs = answers(case)
    model, images = make(case).double(), make_images(case).double()
    torch.testing.assert_close(embed(model, images), theirs["embeddings"], rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs["outputs"], rtol=1e-9, atol=1e-9)
    assert theirs["outputs"].std() > 1e-3


@pytest.mark.parametrize("case", [case for case in CASES if case.method in ("mtt", "dm")], ids=str)
def test_the_parameters_of_an_expert_come_in_our_order(answers: Callable[[Case], dict[str, Any]], case: Case) -> None:
    rename = upstream_keys(case.architecture, case.method)
    assert [rename(name) for name, _ in make(case).named_parameters()] == answers(case)["order"]
