"""Training that can be killed, its schedules, the on-the-fly protocol, and the lookup of protocols."""

import copy
import io
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from support.augmentations import undrawn
from support.tiny_networks import CLASSES, make_network
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from dire_plug.data.augmentation.draws import Augmentation, Shape
from dire_plug.errors import DirePlugError
from dire_plug.recipe.evaluate import PROTOCOLS, Evaluate, EvaluateSection, check_protocol
from dire_plug.training import loop as training
from dire_plug.training import students
from dire_plug.training.loop import Curve, Training, learning_rate, shuffled, train
from dire_plug.training.protocols import SET_UP, divergence, train_student
from dire_plug.training.students import StudentData, accuracy, find_best, in_batches, is_tested, knows_best


class KilledError(Exception):
    """Stands for a killed process."""


def kill_after(epochs: int) -> Callable[..., None]:
    def progress(done: int, **values: float) -> None:
        if done == epochs:
            raise KilledError

    return progress


def draw_flips(shape: Shape, generator: Generator) -> Tensor:
    return torch.rand(shape[0], generator=generator) < 0.5


def flip_view(images: Tensor, flips: Tensor) -> Tensor:
    pixels = images.float() / 255 - 0.5
    return torch.where(flips[:, None, None, None], pixels.flip(3), pixels)


@pytest.fixture
def data() -> StudentData:
    generator = Generator().manual_seed(0)
    labels = torch.arange(14) % CLASSES
    images = torch.randint(0, 100, (14, 3, 4, 4), generator=generator) + 60 * labels[:, None, None, None]
    return StudentData(images.to(torch.uint8), labels, Augmentation(draw_flips, flip_view), images / 255 - 0.5, labels)


def section_of(protocol: str, **keys: Any) -> EvaluateSection:
    """Return the section of a recipe that names no more than `keys`."""
    section: EvaluateSection = TypeAdapter[Any](Evaluate).validate_python(
        {"protocol": protocol, "students": ["x"], **keys}
    )
    return section


def run(
    data: StudentData, folder: Path, *, seed: int = 1, progress: Callable[..., None] | None = None, **keys: Any
) -> tuple[nn.Module, Curve]:
    section = section_of("on-the-fly", **{"epochs": 6, "batch_size": 4, "lr": 0.01, "teacher_mode": "train", **keys})
    student = make_network(seed)
    result = train_student(
        student, [make_network(99)], data=data, section=section, seed=seed, folder=folder, progress=progress
    )
    return student, result


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_killed_student_goes_on_to_the_same_bits(
    data: StudentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    undisturbed, expected = run(data, tmp_path / "a")
    with pytest.raises(KilledError):
        run(data, tmp_path / "b", progress=kill_after(3))
    torch.manual_seed(12345)  # another process has another global state
    calls: list[int] = []
    resumed, result = run(data, tmp_path / "b", progress=lambda done, **values: calls.append(done))
    assert calls == [4, 5, 6]
    assert result == expected
    assert same(resumed, undisturbed)


def test_a_killed_sgd_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    settings = Training(epochs=5, lr=0.1, weight_decay=5e-4, seed=0, warmup_epochs=2)

    def fit(folder: Path, progress: Callable[..., None] | None = None) -> nn.Module:
        model = nn.Linear(4, 2)
        nn.init.constant_(model.weight, 0.1)
        nn.init.zeros_(model.bias)

        def epoch(number: int, optimiser: Optimizer, generator: Generator) -> tuple[Tensor, None]:
            loss = F.cross_entropy(model(torch.randn(8, 4, generator=generator)), torch.arange(8) % 2)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            return loss.detach(), None

        train(model, epoch, settings, folder=folder, progress=progress)
        return model

    undisturbed = fit(tmp_path / "a")
    with pytest.raises(KilledError):
        fit(tmp_path / "b", kill_after(4))
    assert same(fit(tmp_path / "b"), undisturbed)


def test_a_checkpoint_of_other_settings_is_not_used(
    data: StudentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    run(data, tmp_path / "a", temperature=4)
    fresh, _ = run(data, tmp_path / "b", lr=0.02)
    after_other, _ = run(data, tmp_path / "a", lr=0.02)
    assert same(after_other, fresh)


def test_a_truncated_checkpoint_is_refused_by_name(
    data: StudentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    run(data, tmp_path)
    path = tmp_path / "training.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DirePlugError, match=r"training\.pt: the checkpoint cannot be read"):
        run(data, tmp_path)


def checkpoints_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, epochs: int, epoch_takes: float, saving_takes: float
) -> list[int]:
    """Return after how many epochs a training by a clock of the test's own wrote its checkpoints."""
    written: list[int] = []
    now = 0.0

    def write(path: Path, content: bytes) -> None:
        nonlocal now
        now += saving_takes
        written.append(torch.load(io.BytesIO(content), weights_only=True)["epochs"])

    def run_epoch(*_: object) -> tuple[Tensor, None]:
        nonlocal now
        now += epoch_takes
        return torch.zeros(()), None

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(training, "write_atomically", write)
    train(nn.Linear(1, 1), run_epoch, Training(epochs=epochs, lr=0.1, weight_decay=0, seed=0), folder=folder)
    return written


def test_checkpoints_are_a_minute_apart_and_none_is_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints_of(tmp_path, monkeypatch, epochs=8, epoch_takes=30, saving_takes=1) == [2, 4, 6]


def test_a_training_shorter_than_a_minute_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints_of(tmp_path, monkeypatch, epochs=50, epoch_takes=1, saving_takes=1) == []


def test_checkpoints_that_take_long_are_rarer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 6 s of saving are 2 % of 300 s
    assert checkpoints_of(tmp_path, monkeypatch, epochs=30, epoch_takes=60, saving_takes=6) == [1, 6, 11, 16, 21, 26]


def test_a_training_leaves_the_global_random_state_alone(data: StudentData, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(data, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_only_generators_that_are_put_back_are_seeded(
    data: StudentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    run(data, tmp_path)
    assert seeds == []


@pytest.mark.parametrize(("device", "index"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_generator_of_a_gpu_is_seeded_and_put_back(
    monkeypatch: pytest.MonkeyPatch, device: str, index: int
) -> None:
    generators = tuple(Generator().manual_seed(seed) for seed in (10, 11))

    def of(one: torch.device) -> Generator:
        return generators[1 if one.index is None else one.index]

    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda one: of(one).get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, one: of(one).set_state(state))
    with training.seeded(5, torch.device(device)):
        inside = [generator.initial_seed() for generator in generators]
    assert inside == [5 if place == index else 10 + place for place in range(2)]
    assert [generator.initial_seed() for generator in generators] == [10, 11]


def test_a_checkpoint_is_read_onto_the_cpu_where_adamw_counts_its_steps(
    data: StudentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    run(data, tmp_path)
    load, places = torch.load, []

    def note(path: Path, **options: Any) -> Any:
        places.append(options["map_location"])
        return load(path, **options)

    monkeypatch.setattr(torch, "load", note)
    run(data, tmp_path)
    assert places == ["cpu"]


def test_the_seed_decides_the_student(data: StudentData, tmp_path: Path) -> None:
    first, _ = run(data, tmp_path / "a", seed=1)
    again, _ = run(data, tmp_path / "b", seed=1)
    other, _ = run(data, tmp_path / "c", seed=2)
    assert same(first, again)
    assert not same(first, other)


def test_a_diverged_training_says_so(tmp_path: Path) -> None:
    settings = Training(epochs=2, lr=0.5, weight_decay=0, seed=0)
    with pytest.raises(DirePlugError, match=r"epoch 0: the loss is nan.*lower its lr \(0\.5\)"):
        train(nn.Linear(1, 1), lambda *_: (torch.tensor(float("nan")), None), settings, folder=tmp_path)


def test_a_warm_up_that_leaves_no_epoch_is_refused(tmp_path: Path) -> None:
    settings = Training(epochs=2, lr=0.5, weight_decay=0, seed=0, warmup_epochs=2)
    with pytest.raises(DirePlugError, match="warmup_epochs: 2 leaves nothing of 2 epochs"):
        train(nn.Linear(1, 1), lambda *_: (torch.zeros(()), None), settings, folder=tmp_path)


# torch 2.6 warns of what its own SequentialLR calls
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_the_schedule_is_torchs_warm_up_and_cosine() -> None:
    settings = Training(epochs=12, lr=0.2, weight_decay=0, seed=0, warmup_epochs=3)
    optimiser = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.2)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.01, total_iters=3),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=9),
        ],
        milestones=[3],
    )
    for epoch in range(12):
        assert learning_rate(settings, epoch) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("half-cosine", [1.0, (1 + math.cos(math.pi / 8)) / 2, (1 + math.cos(math.pi / 4)) / 2, 0.691341716]),
        ("step", [1.0, 1.0, 1.0, 0.1]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_other_schedules_end_where_their_names_say(schedule: Any, expected: list[float]) -> None:
    settings = Training(epochs=4, lr=1.0, weight_decay=0, seed=0, schedule=schedule, step_at=3)
    assert [learning_rate(settings, epoch) for epoch in range(4)] == pytest.approx(expected)


def test_norms_and_biases_can_be_spared_from_decay(tmp_path: Path) -> None:
    settings = Training(epochs=1, lr=1.0, weight_decay=0.5, seed=0, optimiser="adamw", decay="matrices")
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = copy.deepcopy(model.state_dict())

    def still(number: int, optimiser: Optimizer, generator: Generator) -> tuple[Tensor, None]:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        return torch.zeros(()), None

    train(model, still, settings, folder=tmp_path)
    after = model.state_dict()
    assert torch.allclose(after["0.weight"], before["0.weight"] / 2)
    assert all(torch.equal(after[name], before[name]) for name in ("0.bias", "1.weight", "1.bias"))


@pytest.mark.parametrize(("forgets", "moved"), [(True, 1.0 + 1.5 + 0.1), (False, 1.0 + 1.5 + 0.1 * 1.75)])
def test_the_momentum_can_be_lost_where_the_learning_rate_falls(tmp_path: Path, forgets: bool, moved: float) -> None:
    settings = Training(
        epochs=3, lr=1.0, weight_decay=0, seed=0, momentum=0.5, schedule="step", step_at=2, forget_momentum=forgets
    )
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)

    def push(number: int, optimiser: Optimizer, generator: Generator) -> tuple[Tensor, None]:
        model.weight.grad = torch.full_like(model.weight, -1.0)
        optimiser.step()
        return torch.zeros(()), None

    train(model, push, settings, folder=tmp_path)
    assert model.weight.item() == pytest.approx(moved)


def test_an_epoch_sees_every_image_once_and_drops_no_batch() -> None:
    batches = list(shuffled(10, 4, Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10))


def test_students_are_tested_from_an_epoch_on_and_after_the_last() -> None:
    section = section_of("on-the-fly", epochs=10, test_from=3, test_every=4)
    assert [epoch for epoch in range(10) if is_tested(epoch, section)] == [3, 7, 9]


def test_the_authors_test_every_epoch_from_201_on_with_adamw() -> None:
    section: Any = section_of("on-the-fly", test_from=201, test_every=1)
    tested = [epoch for epoch in range(section.epochs) if is_tested(epoch, section)]
    assert (tested[0], tested[-1], len(tested)) == (201, 399, 199)
    assert (section.lr, section.weight_decay, section.batch_size, section.temperature) == (1e-3, 0.01, 128, 30)


def test_by_default_every_tenth_epoch_and_the_last_are_tested() -> None:
    section = section_of("on-the-fly", epochs=25)
    assert [epoch for epoch in range(25) if is_tested(epoch, section)] == [0, 10, 20, 24]


@pytest.mark.parametrize(
    ("keys", "known"),
    [
        ({"epochs": 400, "test_from": 201, "test_every": 1}, True),
        ({"epochs": 400}, False),
        ({"epochs": 12, "test_from": 10, "test_every": 10}, True),
        ({"epochs": 13, "test_from": 10, "test_every": 10}, False),
        ({"epochs": 5, "test_from": 4, "test_every": 1}, False),
        ({"epochs": 5, "test_from": 9, "test_every": 1}, False),
    ],
)
def test_the_best_is_known_where_several_epochs_and_no_fewer_are_tested(keys: dict[str, int], known: bool) -> None:
    assert knows_best(section_of("on-the-fly", **keys)) is known


def test_a_curve_has_every_test_and_the_first_of_the_best_ones_is_found(
    data: StudentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([10.0, 30.0, 30.0, 20.0])
    monkeypatch.setattr(students, "accuracy", lambda *_: next(answers))
    _, curve = run(data, tmp_path, epochs=4, test_every=1)
    assert curve == [(0, 10.0), (1, 30.0), (2, 30.0), (3, 20.0)]
    assert find_best(curve) == (1, 30.0)


def test_a_teacher_in_train_mode_is_not_shared_between_students(data: StudentData, tmp_path: Path) -> None:
    teacher = make_network(99)
    before = copy.deepcopy(teacher)
    for number in (1, 2):
        section = section_of("on-the-fly", epochs=2, batch_size=4, teacher_mode="train")
        train_student(
            make_network(number), [teacher], data=data, section=section, seed=number, folder=tmp_path / str(number)
        )
    assert same(teacher, before)


def test_the_mode_of_the_teacher_changes_the_labels(data: StudentData, tmp_path: Path) -> None:
    published, _ = run(data, tmp_path / "a", teacher_mode="train")
    fixed, _ = run(data, tmp_path / "b", teacher_mode="eval")
    assert not same(published, fixed)


def test_the_loss_is_the_mean_divergence_without_the_squared_temperature() -> None:
    inputs = torch.randn(5, 4, dtype=torch.float64, generator=Generator().manual_seed(0))
    student, teacher = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    p, q = (torch.softmax(network(inputs) / 7, dim=1).detach() for network in (teacher, student))
    expected = sum(float(p[i, c] * (p[i, c] / q[i, c]).log()) for i in range(5) for c in range(3)) / 5
    assert divergence(student(inputs), teacher(inputs), 7).item() == pytest.approx(expected, rel=1e-12)


def test_one_batch_is_one_step_of_adamw_on_what_both_networks_see(data: StudentData, tmp_path: Path) -> None:
    teacher = make_network(99).eval()
    student = nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES))
    expected = copy.deepcopy(student)
    optimiser = torch.optim.AdamW(expected.parameters(), lr=1e-3, weight_decay=0.01)
    inputs = data.images.float() / 255
    divergence(expected(inputs), teacher(inputs).detach(), 30).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    section = section_of("on-the-fly", epochs=1, batch_size=14)
    plain = undrawn(lambda images: images.float() / 255)
    whole = StudentData(data.images, data.labels, plain, data.test_images, data.test_labels)
    train_student(student, [teacher], data=whole, section=section, seed=0, folder=tmp_path)
    torch.testing.assert_close(student[1].weight, expected[1].weight, rtol=1e-5, atol=1e-7)


def test_an_answer_outside_of_the_classes_is_wrong() -> None:
    model = nn.Identity()
    logits = torch.tensor([[1.0, 0, 0, 9], [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert accuracy(model, in_batches(logits, labels, device=torch.device("cpu"), batch=3)) == 50.0
    assert model.training


def test_testing_is_done_in_eval_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    accuracy(model, [(torch.randn(8, 2), torch.zeros(8, dtype=torch.int64))])
    assert torch.equal(model.state_dict()["0.running_mean"], torch.zeros(2))


def test_every_section_of_a_recipe_has_a_protocol() -> None:
    sections = typing.get_args(typing.get_args(Evaluate)[0])
    tags = [tag for section in sections for tag in typing.get_args(section.model_fields["protocol"].annotation)]
    assert tags == list(PROTOCOLS)
    assert sorted(SET_UP) == sorted(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_takes_its_numbers_from_its_section(data: StudentData, name: str) -> None:
    section = section_of(name, epochs=7, lr=0.3, weight_decay=0.2)
    training = SET_UP[name](make_network(0), [make_network(1)], data=data, section=section, seed=5).training
    assert (training.epochs, training.lr, training.weight_decay, training.seed) == (7, 0.3, 0.2, 5)


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(DirePlugError, match=r"no protocol is named 'onthefly' \(did you mean 'on-the-fly'\?\)"):
        check_protocol("onthefly")
