"""The protocol of MTT and DM: the class is the label, the rate falls once, one test at the end."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.augmentations import undrawn
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dire_plug.recipe.evaluate import HardLabelsSection
from dire_plug.training.loop import learning_rate
from dire_plug.training.protocols import first_epoch_at_a_tenth, hard_labels, train_student
from dire_plug.training.students import StudentData, is_tested


def section_of(**keys: Any) -> HardLabelsSection:
    return HardLabelsSection(protocol="hard-labels", students=("x",), **keys)


@pytest.fixture
def data() -> StudentData:
    images = torch.rand(6, 3, 2, 2, generator=Generator().manual_seed(0))
    labels = torch.arange(6) % 3
    return StudentData(images, labels, undrawn(lambda batch: batch), images, labels)


def make_student() -> nn.Module:
    head = nn.Linear(12, 3)
    nn.init.constant_(head.weight, 0.1)
    nn.init.zeros_(head.bias)
    return nn.Sequential(nn.Flatten(), head)


def test_a_step_is_sgds_on_the_cross_entropy_with_decay_on_everything(data: StudentData, tmp_path: Path) -> None:
    student = make_student()
    expected = copy.deepcopy(student)
    train_student(student, [], data=data, section=section_of(epochs=3, lr=0.1), seed=0, folder=tmp_path)
    optimiser = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(expected(data.images), data.labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    pairs = zip(student.parameters(), expected.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)


def test_the_rate_falls_after_epoch_501_of_1001() -> None:
    assert first_epoch_at_a_tenth(1001) == 502
    assert first_epoch_at_a_tenth(301) == 152


def test_the_protocol_asks_for_the_step_and_a_new_optimiser(data: StudentData) -> None:
    training = hard_labels(make_student(), [], data=data, section=section_of(), seed=0).training
    rates = [learning_rate(training, epoch) for epoch in (0, 501, 502, 1000)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert (training.optimiser, training.forget_momentum, training.decay) == ("sgd", True, "all")


def test_the_student_is_tested_once_at_the_end(data: StudentData, tmp_path: Path) -> None:
    assert [epoch for epoch in range(1001) if is_tested(epoch, section_of())] == [1000]
    curve = train_student(make_student(), [], data=data, section=section_of(epochs=8), seed=0, folder=tmp_path)
    assert [epoch for epoch, _ in curve] == [7]


def test_the_view_is_asked_for_every_batch(data: StudentData, tmp_path: Path) -> None:
    seen: list[int] = []

    def view(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images

    watched = StudentData(data.images, data.labels, undrawn(view), data.images, data.labels)
    train_student(make_student(), [], data=watched, section=section_of(epochs=2, batch_size=4), seed=0, folder=tmp_path)
    assert seen == [4, 2, 4, 2]
