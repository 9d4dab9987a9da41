"""The protocols with stored labels: a label, a student's steps, a large test set, and whole runs on digits."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.augmentations import undrawn
from support.cli import Cli
from support.small_run import only_run, outcome, write_recipe
from support.tiny_networks import make_network
from torch import Tensor, nn
from torch.optim import AdamW

from dire_plug.files import read_json
from dire_plug.pipeline import Request, run_arm
from dire_plug.recipe.evaluate import CVDDSection, FkdEnsembleSection, FkdSection
from dire_plug.stages import evaluate as evaluate_stage
from dire_plug.stages import student_data
from dire_plug.training import soft_labels as relabel_stage
from dire_plug.training.loop import learning_rate
from dire_plug.training.protocols import equal_norm_mean, fkd, stored_label, train_student, vote
from dire_plug.training.stored_batches import write_epoch
from dire_plug.training.students import Loss, StudentData

CLASSES = 3


def section_of(protocol: str, **keys: Any) -> FkdSection | FkdEnsembleSection:
    if protocol == "fkd":
        return FkdSection(protocol="fkd", students=("x",), **keys)
    return FkdEnsembleSection(protocol="fkd-ensemble", students=("x",), **keys)


def loss_of(section: FkdSection | FkdEnsembleSection) -> Loss:
    return fkd(make_network(0), [], data=_data(), section=section, seed=0).loss


class Scaled(nn.Module):
    """Answers with the mean of each channel times a number."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = torch.tensor(weights)

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * self.weights


# A label.


def test_logits_of_several_networks_get_the_mean_norm_before_their_mean() -> None:
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    models = [Scaled(1, 2, 3), Scaled(10, -20, 5), Scaled(0.1, 0, 0)]
    single = [[[float(value) for value in row] for row in model(images)] for model in models]
    norms = [sum(value * value for row in rows for value in row) ** 0.5 for rows in single]
    mean_norm = sum(norms) / 3
    expected = [[sum(single[k][i][j] / norms[k] * mean_norm for k in range(3)) / 3 for j in range(3)] for i in range(5)]
    torch.testing.assert_close(equal_norm_mean(models, images), torch.tensor(expected))


def test_a_label_of_fkd_is_the_first_teachers_and_has_no_graph() -> None:
    images = torch.randn(5, 3, 4, 4, requires_grad=True)
    models = [Scaled(1, 2, 3), Scaled(10, -20, 5)]
    for protocol in ("fkd", "fkd-ensemble"):
        assert not stored_label(section_of(protocol), models, images).requires_grad
    assert torch.equal(stored_label(section_of("fkd"), models, images), models[0](images))


def test_votes_weigh_the_logits_of_each_network() -> None:
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    models = [Scaled(1, 2, 3), Scaled(10, -20, 5)]
    section = CVDDSection(protocol="cv-dd", students=("x",), votes=(64, 60.6))
    first, second = math.exp(6.4), math.exp(6.06)
    expected = (first * models[0](images) + second * models[1](images)) / (first + second)
    torch.testing.assert_close(stored_label(section, models, images), expected)
    plain = CVDDSection(protocol="cv-dd", students=("x",))
    torch.testing.assert_close(stored_label(plain, models, images), (models[0](images) + models[1](images)) / 2)


def test_each_half_of_a_batch_is_labelled_by_its_own_statistics() -> None:
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()).train()
    section = CVDDSection(protocol="cv-dd", students=("x",))
    halves = [model(half) for half in (images[:2], images[2:])]
    torch.testing.assert_close(stored_label(section, [model], images), torch.cat(halves))
    assert not torch.allclose(torch.cat(halves), model(images))
    assert stored_label(section, [model], images[:1]).shape == (1, 48)


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.0), ("half-cosine", 0.5)])
def test_the_learning_rate_of_cv_dd_falls_to_0_or_half(schedule: Any, last: float) -> None:
    section = CVDDSection(protocol="cv-dd", students=("x",), schedule=schedule, epochs=1000)
    protocol = vote(make_network(0), [], data=_data(), section=section, seed=0)
    assert learning_rate(protocol.training, 999) / section.lr == pytest.approx(last, abs=2e-3)
    assert (protocol.accumulate, protocol.training.decay) == (2, "matrices")


def test_the_losses_are_those_of_the_papers() -> None:
    outputs, targets = torch.randn(2, 6, CLASSES, generator=torch.Generator().manual_seed(0)).double()
    classes = torch.arange(6) % CLASSES
    p, q = (torch.softmax(values / 20, dim=1) for values in (targets, outputs))
    torch.testing.assert_close(loss_of(section_of("fkd"))(outputs, targets, classes), (p * (p / q).log()).sum() / 6)
    own = -torch.log_softmax(outputs, dim=1)[torch.arange(6), classes].mean()
    expected = ((outputs - targets) ** 2).mean() + 0.1 * own
    torch.testing.assert_close(loss_of(section_of("fkd-ensemble"))(outputs, targets, classes), expected)


# A student.


def stored_batches(epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give batches of 6 and, as the last of an epoch, 2 images."""
    generator = torch.Generator().manual_seed(epoch)
    for count in (6, 2):
        images = torch.randn(count, 3, 4, 4, generator=generator)
        yield images, torch.randn(count, CLASSES, generator=generator), torch.arange(count) % CLASSES


def without_dropout(seed: int) -> nn.Module:
    model = make_network(seed)
    return nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.Dropout)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", ["fkd", "fkd-ensemble"])
def test_a_step_sums_the_gradients_of_its_parts_and_decays_matrices_only(protocol: str, tmp_path: Path) -> None:
    section = section_of(protocol, epochs=1, batch_size=6, accumulate=2, lr=0.01, weight_decay=0.3)
    loss, expected = loss_of(section), without_dropout(0)
    matrices = [value for value in expected.parameters() if value.dim() > 1]
    others = [value for value in expected.parameters() if value.dim() <= 1]
    optimiser = AdamW([{"params": matrices, "weight_decay": 0.3}, {"params": others, "weight_decay": 0}], lr=0.01)
    for images, targets, classes in stored_batches(0):
        optimiser.zero_grad()
        for first in range(0, len(images), 3):
            some = slice(first, first + 3)
            # A last batch of 2 is one part, and its gradient is halved none the less, as in upstream's loop.
            part = loss(expected(images[some]), targets[some], classes[some])
            (part / 2).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    student = without_dropout(0)
    train_student(student, [], data=_data(), section=section, seed=0, folder=tmp_path)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value, msg=name)


def _refuse(images: Tensor) -> Tensor:
    raise AssertionError("stored batches are already augmented")


def _data() -> StudentData:
    images, labels = torch.zeros(8, 3, 4, 4), torch.zeros(8)
    return StudentData(images, labels, undrawn(_refuse), torch.randn(4, 3, 4, 4), torch.zeros(4), stored=stored_batches)


def test_the_student_is_tested_every_ten_epochs_and_in_the_end(tmp_path: Path) -> None:
    section = section_of("fkd", epochs=13, batch_size=6)
    curve = train_student(without_dropout(0), [], data=_data(), section=section, seed=0, folder=tmp_path)
    assert [epoch for epoch, _ in curve] == [0, 10, 12]


# Whole runs.


@pytest.fixture(scope="module")
def recipe_fkd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipes") / "fkd.yaml", {"evaluate": {"protocol": "fkd"}})


def run(recipe: Path, **more: Any) -> Any:
    return run_arm(Request("sre2l", recipe=str(recipe), engine="native", **more))


def test_a_run_with_stored_labels_ends_with_an_accuracy_without_them(home: Path, recipe: Path, cli: Cli) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--set", "evaluate.protocol=fkd")
    assert answer.code == 0, answer.err
    assert "relabel: the soft labels of 2 epochs × 20 images take 0.0 MB of disk" in answer.err
    folder = only_run(home)
    metrics = read_json(folder / "metrics.json")
    assert metrics["accuracy"]["protocol"] == "fkd"
    assert metrics["accuracy"]["teacher_mode"] == "eval"
    assert 0 <= metrics["accuracy"]["students"]["resnet-small"]["last"][0] <= 100
    assert metrics["diversity"]["T"]["vendi"] > 0
    assert not list(home.rglob("relabel"))


@pytest.mark.parametrize("arm", ["random", "full"])
def test_arms_of_real_images_learn_stored_labels_too(home: Path, recipe_fkd: Path, arm: str) -> None:
    finished = run(recipe_fkd, arm=arm)
    assert finished.metrics["accuracy"]["students"]["resnet-small"]["last"]
    assert not list(home.rglob("relabel"))


def test_a_run_that_was_killed_while_labelling_ends_as_an_undisturbed_one(
    home: Path, recipe_fkd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = write_epoch

    def killed(path: Path, *arguments: Any, **named: Any) -> None:
        if path.stem == "epoch-0001":
            raise KeyboardInterrupt
        genuine(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(relabel_stage, "write_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            run(recipe_fkd)
    (folder,) = home.rglob("relabel")
    assert [path.name for path in folder.iterdir()] == ["epoch-0000.safetensors"]
    assert not run(recipe_fkd).reused
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "undisturbed"))
    assert outcome(only_run(home)) == outcome(run(recipe_fkd).folder.path)


def test_a_test_set_that_is_too_large_stays_uint8_until_it_is_used(
    home: Path, recipe_fkd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = run(recipe_fkd)
    seen = []

    def watched(*arguments: Any) -> StudentData:
        data = student_data.build_student_data(*arguments)
        seen.append(data.test_images.dtype)
        return data

    monkeypatch.setattr(student_data, "MOST_FLOAT_BYTES", 0)
    monkeypatch.setattr(evaluate_stage, "build_student_data", watched)
    shutil.rmtree(home / "store" / "student")
    large = run(recipe_fkd)
    assert seen == [torch.uint8]
    assert large.metrics["accuracy"] == small.metrics["accuracy"]


@pytest.mark.parametrize(("method", "protocol"), [("sre2l", "fkd"), ("cda", "fkd"), ("g-vbsm", "fkd-ensemble")])
def test_the_recipes_for_imagenet_resolve(cli: Cli, bare_home: Path, method: str, protocol: str) -> None:
    answer = cli("run", method, "--recipe", "imagenet-1k", "--dry-run")
    assert answer.code == 0, answer.err
    rows = [line.split()[:2] for line in answer.out.splitlines() if line.strip().startswith("evaluate.")]
    values = dict(row for row in rows if len(row) == 2)
    keys = ("protocol", "epochs", "batch_size", "accumulate", "cutmix", "lr", "weight_decay", "test_every")
    found = [values[f"evaluate.{key}"] for key in keys]
    assert found == [protocol, "300", "1024", "2", "1.0", "0.001", "0.01", "10"]
