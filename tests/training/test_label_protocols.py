"""The protocols whose labels are teachers' logits: INFER's, G-VBSM's, DELT's, and SRe2L's and DWA's for Tiny-ImageNet.

Each is compared with one step, or a few, written out here.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from support.augmentations import undrawn
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dire_plug.data.augmentation.draws import NO_CUT, Augmentation, Mixed
from dire_plug.recipe.evaluate import Evaluate, EvaluateSection
from dire_plug.seeding import derive
from dire_plug.training.loop import initialised
from dire_plug.training.protocols import SET_UP, train_student
from dire_plug.training.students import StudentData

COUNT, CLASSES = 6, 3


def section_of(protocol: str, **keys: Any) -> EvaluateSection:
    """Return the section of a recipe that names no more than `keys`; one epoch, all images in a batch."""
    section: EvaluateSection = TypeAdapter[Any](Evaluate).validate_python(
        {"protocol": protocol, "students": ["x"], "epochs": 1, "batch_size": COUNT, **keys}
    )
    return section


def make_network(seed: int, *, norm: bool = False) -> nn.Sequential:
    def make() -> nn.Sequential:
        middle = nn.BatchNorm2d(4) if norm else nn.Identity()
        return nn.Sequential(nn.Conv2d(3, 4, 3), middle, nn.Flatten(), nn.Linear(16, CLASSES))

    return initialised(make, seed)


def swap() -> Augmentation:
    """Mix each image with the one at the other end of the batch, 3 : 1."""
    return Augmentation(
        lambda shape, _: Mixed(torch.arange(shape[0]).flip(0), 0.75, NO_CUT),
        lambda images, drawn: 0.75 * images + 0.25 * images[drawn.partners],
    )


def mirror(images: Tensor) -> Tensor:
    return images.flip(3)


@pytest.fixture
def data() -> StudentData:
    images = torch.rand(COUNT, 3, 4, 4, generator=Generator().manual_seed(0))
    labels = torch.arange(COUNT) % CLASSES
    return StudentData(
        images, labels, undrawn(mirror), images, labels, mix=swap(), plain_transform=lambda batch: batch + 1
    )


@pytest.fixture
def teachers() -> list[nn.Module]:
    return [make_network(11).eval(), make_network(12).eval(), make_network(13).eval()]


def shuffled_once(seed: int = 0) -> Tensor:
    """Return the order of the first epoch."""
    return torch.randperm(COUNT, generator=Generator().manual_seed(derive(seed, "epoch", 0)))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def step(student: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def kl(outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
    p, q = F.softmax(targets / temperature, 1), F.softmax(outputs / temperature, 1)
    return (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize("protocol", ["static-labels", "dynamic-labels"])
def test_infers_labels_are_mean_logits_of_plain_or_of_mixed_images(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path, protocol: str
) -> None:
    student = make_network(1)
    expected = copy.deepcopy(student)
    section = section_of(protocol, lr=0.01, temperature=5)
    train_student(student, teachers, data=data, section=section, seed=0, folder=tmp_path)
    images = data.images[shuffled_once()]
    inputs = 0.75 * images.flip(3) + 0.25 * images.flip(3).flip(0)
    with torch.no_grad():
        if protocol == "static-labels":
            plain = sum((teacher(images + 1) for teacher in teachers), torch.zeros(())) / 3
            targets = 0.75 * plain + 0.25 * plain.flip(0)
        else:
            targets = sum((teacher(inputs) for teacher in teachers), torch.zeros(())) / 3
    optimiser = torch.optim.AdamW(expected.parameters(), lr=0.01, weight_decay=0.01)
    step(expected, optimiser, kl(expected(inputs), targets, 5))
    assert same_weights(student, expected)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gvbsm_regresses_on_mean_logits_and_learns_the_unmixed_class(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path, accumulate: int
) -> None:
    student = make_network(1)
    expected = copy.deepcopy(student)
    section = section_of("ensemble-labels", optimiser="sgd", lr=0.1, weight_decay=0.2, gamma=0.5, accumulate=accumulate)
    train_student(student, teachers, data=data, section=section, seed=0, folder=tmp_path)
    order = shuffled_once()
    images, labels = data.images[order].flip(3), data.labels[order]
    inputs = 0.75 * images + 0.25 * images.flip(0)
    with torch.no_grad():
        targets = (sum((teacher(inputs) for teacher in teachers), torch.zeros(())) / 3).half().float()
    outputs = expected(inputs)
    loss = ((outputs - targets) ** 2).mean() + 0.5 * F.cross_entropy(outputs, labels)
    matrices = [p for p in expected.parameters() if p.dim() > 1]
    vectors = [p for p in expected.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}]
    step(expected, torch.optim.SGD(groups, lr=0.1, momentum=0.9), loss)
    assert same_weights(student, expected)


def test_the_parts_of_an_accumulated_batch_pass_batch_norm_alone(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path
) -> None:
    counts = []
    for parts in (1, 3):
        student = make_network(1, norm=True)
        section = section_of("ensemble-labels", accumulate=parts)
        train_student(student, teachers, data=data, section=section, seed=0, folder=tmp_path / str(parts))
        counts.append(int(student[1].num_batches_tracked))  # type: ignore[arg-type]
    assert counts == [1, 3]


def test_gvbsms_labels_are_rounded_to_half_precision_by_choice(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path
) -> None:
    students = []
    for half in (True, False):
        students.append(make_network(1))
        section = section_of("ensemble-labels", epochs=2, optimiser="sgd", lr=0.1, half_labels=half)
        train_student(students[-1], teachers, data=data, section=section, seed=0, folder=tmp_path / str(half))
    pairs = zip(*(student.parameters() for student in students), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(*(s.parameters() for s in students), strict=True))


def test_delt_learns_the_first_teachers_soft_labels_of_the_mixed_batch(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path
) -> None:
    student = make_network(1).double()  # AdamW's first step magnifies the rounding of small gradients
    teachers = [teacher.double() for teacher in teachers]
    data = replace(data, images=data.images.double(), test_transform=torch.Tensor.double)
    expected = copy.deepcopy(student)
    section = section_of("delt", lr=0.01, weight_decay=0.1, temperature=4)
    train_student(student, teachers, data=data, section=section, seed=0, folder=tmp_path)
    images = data.images[shuffled_once()].flip(3)
    inputs = 0.75 * images + 0.25 * images.flip(0)
    matrices = [p for p in expected.parameters() if p.dim() > 1]
    vectors = [p for p in expected.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    step(expected, torch.optim.AdamW(groups, lr=0.01), kl(expected(inputs), teachers[0](inputs).detach(), 4))
    assert same_weights(student, expected)


@pytest.mark.parametrize(("second", "passes"), [(True, 4), (False, 2)])
def test_delts_second_forward_moves_batch_norm_twice_a_step(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path, second: bool, passes: int
) -> None:
    student = make_network(1, norm=True)
    section = section_of("delt", epochs=2, second_forward=second)
    train_student(student, teachers, data=data, section=section, seed=0, folder=tmp_path)
    assert int(student[1].num_batches_tracked) == passes  # type: ignore[arg-type]


def test_delts_learning_rate_ends_near_a_half(data: StudentData, teachers: list[nn.Module]) -> None:
    training = SET_UP["delt"](make_network(1), teachers, data=data, section=section_of("delt"), seed=0).training
    assert (training.schedule, training.decay, training.optimiser) == ("half-cosine", "matrices", "adamw")


def test_tinys_loss_has_the_square_of_the_temperature(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path
) -> None:
    student = make_network(1)
    expected = copy.deepcopy(student)
    section = section_of("sre2l-tiny", lr=0.01, temperature=4, warmup_epochs=0)
    train_student(student, teachers, data=data, section=section, seed=0, folder=tmp_path)
    images = data.images[shuffled_once()].flip(3)
    inputs = 0.75 * images + 0.25 * images.flip(0)
    loss = 16 * kl(expected(inputs), teachers[0](inputs).detach(), 4)
    step(expected, torch.optim.SGD(expected.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4), loss)
    assert same_weights(student, expected)


def test_tiny_is_sgd_with_five_epochs_of_warm_up(data: StudentData, teachers: list[nn.Module]) -> None:
    training = SET_UP["sre2l-tiny"](
        make_network(1), teachers, data=data, section=section_of("sre2l-tiny", epochs=6), seed=0
    ).training
    assert (training.optimiser, training.lr, training.warmup_epochs, training.decay) == ("sgd", 0.2, 5, "all")


def test_on_the_fly_can_spare_norms_and_biases_from_decay(
    data: StudentData, teachers: list[nn.Module], tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"mixup": 0, "temperature": 2, "lr": 0.01, "weight_decay": 10.0}
    for decay, on_vectors in (("matrices", 0.0), ("all", 10.0)):
        student = make_network(1, norm=True)
        expected = copy.deepcopy(student)
        section = section_of("on-the-fly", decay=decay, **keys)
        train_student(student, teachers, data=data, section=section, seed=0, folder=tmp_path / decay)
        images = data.images[shuffled_once()].flip(3)
        inputs = 0.75 * images + 0.25 * images.flip(0)
        matrices = [one for one in expected.parameters() if one.dim() > 1]
        vectors = [one for one in expected.parameters() if one.dim() == 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": on_vectors}]
        optimiser = torch.optim.AdamW(groups, lr=0.01, weight_decay=10.0)
        step(expected, optimiser, kl(expected.train()(inputs), teachers[0](inputs).detach(), 2))
        # the bias before a norm has no gradient but rounding, of which AdamW takes the sign
        for network in (student, expected):
            del network[0].bias
        assert same_weights(student, expected)


@pytest.mark.parametrize(
    ("protocol", "keys"),
    [
        ("on-the-fly", {}),
        ("static-labels", {}),
        ("dynamic-labels", {}),
        ("ensemble-labels", {}),
        ("delt", {}),
        ("sre2l-tiny", {"warmup_epochs": 0}),
        ("dwa-tiny", {"warmup_epochs": 0}),
    ],
)
def test_teachers_label_in_eval_mode_and_stay_as_they_are(
    data: StudentData, tmp_path: Path, protocol: str, keys: dict[str, Any]
) -> None:
    teachers = [make_network(5, norm=True).train()]
    before = copy.deepcopy(teachers[0].state_dict())
    train_student(make_network(1), teachers, data=data, section=section_of(protocol, **keys), seed=0, folder=tmp_path)
    after = teachers[0].state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert teachers[0].training
