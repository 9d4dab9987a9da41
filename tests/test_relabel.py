"""Labels stored with what was drawn for each batch: the same bits again, whole or not at all, and gone in the end."""

from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dire_plug.stages.job import Job
from dire_plug.stages.select import select_random
from pydantic import TypeAdapter
from test_stages import MEAN, NETWORK, STD, change, killing, make_job
from torch import Generator, Tensor

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.models.checkpoint import load
from dire_plug.protocols import students, training
from dire_plug.protocols.published import stored_label
from dire_plug.recipe.evaluate import Evaluate
from dire_plug.recipe.model import SqueezeSection
from dire_plug.stages import relabel as relabel_stage
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.lessons import prepare_lesson
from dire_plug.stages.relabel import relabel
from dire_plug.stages.squeeze import Teachers, squeeze
from dire_plug.stages.stored_batches import (
    Drawn,
    Geometry,
    draw,
    epoch_bytes,
    epoch_file,
    is_stored,
    read_epoch,
    rebuild,
    write_epoch,
)
from dire_plug.stages.views import mixing, training_view

CPU = torch.device("cpu")
EPOCHS, BATCH, OUTPUTS = 3, 4, 4
Shown = namedtuple("Shown", "augmentation mixup cutmix")
SHOWN = [Shown("none", 0, 0), Shown("crop", 0.8, 0), Shown("crop_flip", 0, 1), Shown("resized_crop_flip", 0, 1)]
"""How images are shown, with each way to crop and each way to mix."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def job(shared: Path, tmp_path: Path) -> Job:
    squeezed = {"outputs": OUTPUTS, "teacher": NETWORK, "independent": NETWORK, "others": {"second": NETWORK}}
    whole = change(make_job(shared, tmp_path / "run"), squeeze=SqueezeSection.model_validate(squeezed))
    return with_protocol(whole, "fkd")


@pytest.fixture
def networks(job: Job) -> Teachers:
    return squeeze(job)


@pytest.fixture
def condensed(job: Job) -> tuple[Tensor, Tensor]:
    return select_random(job.dataset, ipc=3, seed=1)


def with_protocol(job: Job, protocol: str, **keys: Any) -> Job:
    values = {"students": ["convnet-small"], "epochs": EPOCHS, "batch_size": BATCH, "protocol": protocol, **keys}
    return change(job, evaluate=TypeAdapter[Any](Evaluate).validate_python(values))


def label(job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], made_from: str = "x") -> students.Stored:
    """Run the stage."""
    loaded = [load(path, CPU) for path in networks.in_loop.values()]
    data = prepare_lesson(job, loaded[0], *condensed)
    return relabel(job, loaded, data=data, section=job.recipe.evaluate, made_from=made_from)  # type: ignore[arg-type]


def files_of(job: Job) -> list[Path]:
    return [epoch_file(job.folder, epoch) for epoch in range(EPOCHS)]


def geometry(shown: Shown) -> Geometry:
    return Geometry(shown.augmentation, 2, shown.mixup, shown.cutmix, MEAN, STD)


def draw_all(images: Tensor, shown: Shown, generator: Generator) -> list[Drawn]:
    batches = training.shuffled(len(images), BATCH, generator)
    return [draw(images, indices, geometry=geometry(shown), generator=generator) for indices in batches]


def same(first: Drawn, second: Drawn) -> bool:
    tensors = ("indices", "boxes", "flips", "partners")
    equal = [torch.equal(getattr(first, name), getattr(second, name)) for name in tensors]
    return all(equal) and (first.share, first.cut) == (second.share, second.cut)


# What is drawn, and the batch that it makes.


@pytest.mark.parametrize("shown", SHOWN)
def test_a_rebuilt_batch_is_that_of_the_other_protocols_bit_for_bit(shown: Shown) -> None:
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=Generator().manual_seed(0)).to(torch.uint8)
    indices = torch.tensor([7, 1, 0, 4, 2])
    network = namedtuple("network", "mean std")(MEAN, STD)
    view = training_view(network, augmentation=shown.augmentation, padding=2)  # type: ignore[arg-type]
    mix = mixing(mixup_alpha=shown.mixup, cutmix_alpha=shown.cutmix)
    for seed in range(5):
        generator, other = Generator().manual_seed(seed), Generator().manual_seed(seed)
        expected, partners, share = mix(view(images[indices], generator), generator)
        drawn = draw(images, indices, geometry=geometry(shown), generator=other)
        assert torch.equal(rebuild(images, drawn, geometry=geometry(shown), device=CPU), expected)
        assert torch.equal(drawn.partners, partners)
        assert drawn.share == share


@pytest.mark.parametrize("shown", SHOWN)
def test_what_is_stored_comes_back_to_the_last_bit(shown: Shown, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=Generator().manual_seed(0)).to(torch.uint8)
    drawn = draw_all(images, shown, Generator().manual_seed(1))
    logits = [torch.randn(len(one.indices), OUTPUTS) for one in drawn]
    write_epoch(tmp_path / "epoch", list(zip(drawn, logits, strict=True)), made_from="x")
    found = list(read_epoch(tmp_path / "epoch", batch_size=BATCH))
    assert [len(one.indices) for one, _ in found] == [4, 4, 1]
    assert all(same(first, second) for first, (second, _) in zip(drawn, found, strict=True))
    assert torch.equal(torch.cat([values for _, values in found]), torch.cat(logits).half())
    for first, (second, _) in zip(drawn, found, strict=True):
        again = rebuild(images, second, geometry=geometry(shown), device=CPU)
        assert torch.equal(again, rebuild(images, first, geometry=geometry(shown), device=CPU))


def test_an_epoch_takes_the_bytes_that_are_announced(tmp_path: Path) -> None:
    drawn = draw_all(torch.zeros(9, 3, 8, 8, dtype=torch.uint8), SHOWN[3], Generator().manual_seed(1))
    path = tmp_path / "epoch"
    write_epoch(path, [(one, torch.zeros(len(one.indices), 100)) for one in drawn], made_from="x")
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == header + epoch_bytes(9, 3, 100)


# The stage.


@pytest.mark.parametrize("protocol", ["fkd", "fkd-ensemble"])
def test_a_stored_label_is_what_the_networks_say_of_the_batch_that_the_student_sees(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], protocol: str
) -> None:
    job = with_protocol(job, protocol)
    stored = label(job, networks, condensed)
    models = [load(path, CPU).model for path in networks.in_loop.values()]
    section: Any = job.recipe.evaluate
    for epoch in range(EPOCHS):
        for inputs, targets, _ in stored(epoch):
            assert torch.equal(targets, stored_label(section, models, inputs).half().float())


def test_each_epoch_holds_every_image_once_with_its_class_in_an_order_of_its_own(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    stored = label(with_protocol(job, "fkd", augmentation="none", cutmix=0), networks, condensed)
    orders = []
    for epoch in range(EPOCHS):
        batches = list(stored(epoch))
        assert [len(inputs) for inputs, _, _ in batches] == [4, 4, 1]
        drawn = [one for one, _ in read_epoch(files_of(job)[epoch], batch_size=BATCH)]
        order = torch.cat([one.indices for one in drawn])
        assert order.sort().values.tolist() == list(range(9))
        assert torch.equal(torch.cat([classes for _, _, classes in batches]), condensed[1][order])
        orders.append(order.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_another_seed_of_the_run_draws_others(job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]) -> None:
    label(job, networks, condensed)
    first = files_of(job)[0].read_bytes()
    label(replace(job, seed=4), networks, condensed, "y")
    assert files_of(job)[0].read_bytes() != first


def test_a_teacher_in_train_mode_labels_by_its_batch(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    targets = {}
    for mode in ("eval", "train"):
        stored = label(with_protocol(job, "fkd", teacher_mode=mode), networks, condensed, mode)
        targets[mode] = torch.cat([logits for _, logits, _ in stored(0)])
    assert not torch.allclose(targets["eval"], targets["train"], atol=0.01)


def killed_write(after: int) -> Callable[..., None]:
    """Return a `write_epoch` that is killed instead of writing one more."""
    left = [None] * after

    def write(*arguments: Any, **named: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        write_epoch(*arguments, **named)

    return write


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_killed_labelling_goes_on_to_the_same_labels(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    job = with_protocol(job, "fkd", teacher_mode=mode)
    with monkeypatch.context() as patch:
        patch.setattr(relabel_stage, "write_epoch", killed_write(1))
        with pytest.raises(KeyboardInterrupt):
            label(job, networks, condensed)
    assert [path.is_file() for path in files_of(job)] == [True, False, False]
    made = files_of(job)[0].stat().st_mtime_ns
    label(job, networks, condensed)
    assert files_of(job)[0].stat().st_mtime_ns == made
    undisturbed = replace(job, folder=job.folder.with_name("undisturbed"))
    label(undisturbed, networks, condensed)
    assert [path.read_bytes() for path in files_of(job)] == [path.read_bytes() for path in files_of(undisturbed)]


def test_labels_of_something_else_and_damaged_ones_are_made_anew(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    label(job, networks, condensed, "other")
    assert not is_stored(files_of(job)[0], "x")
    label(job, networks, condensed)
    whole = files_of(job)[1].read_bytes()
    files_of(job)[1].write_bytes(whole[:-5])
    label(job, networks, condensed)
    assert files_of(job)[1].read_bytes() == whole
    assert all(is_stored(path, "x") for path in files_of(job))


def test_a_damaged_file_is_told_with_what_to_do(job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]) -> None:
    stored = label(job, networks, condensed)
    files_of(job)[2].write_bytes(b"not labels")
    with pytest.raises(DirePlugError, match=r"epoch-0002\.safetensors: the soft labels cannot be read .*remove the fi"):
        list(stored(2))


def test_what_the_labels_take_is_said_before_they_are_made(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    label(job, networks, condensed)
    assert (
        "relabel: the soft labels of 3 epochs × 9 images take 0.0 MB of disk until the students are finished; "
        "to make them takes less than a minute" in capsys.readouterr().err
    )
    label(job, networks, condensed)
    assert "soft labels" not in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_refused_before_anything_is_labelled(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = EPOCHS * epoch_bytes(9, 3, OUTPUTS)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(relabel_stage.shutil, "disk_usage", lambda path: usage(needed - 1))
    with pytest.raises(DirePlugError, match=r"relabel: the soft labels of 3 epochs × 9 images take .* with --out, or"):
        label(job, networks, condensed)
    assert not any(path.exists() for path in files_of(job))
    monkeypatch.setattr(relabel_stage.shutil, "disk_usage", lambda path: usage(needed))
    label(job, networks, condensed)
    assert all(path.exists() for path in files_of(job))


@pytest.mark.parametrize(
    ("minutes", "words"), [(0.2, "less than a minute"), (42, "about 42 min"), (125, "about 2 h 5 min")]
)
def test_long_work_is_told_in_hours(
    job: Job,
    networks: Teachers,
    condensed: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    minutes: float,
    words: str,
) -> None:
    clock = iter([0.0, minutes * 60 / EPOCHS])
    monkeypatch.setattr(relabel_stage.time, "perf_counter", lambda: next(clock))
    label(job, networks, condensed)
    assert f"takes {words}" in capsys.readouterr().err


# Students of one synthesis.


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each file of labels is added that is written or read."""
    seen: list[str] = []

    def write(path: Path, *arguments: Any, **named: Any) -> None:
        seen.append(f"write {path.stem}")
        write_epoch(path, *arguments, **named)

    def read(path: Path, **named: Any) -> Iterator[Any]:
        seen.append(f"read {path.stem}")
        return read_epoch(path, **named)

    monkeypatch.setattr(relabel_stage, "write_epoch", write)
    monkeypatch.setattr(relabel_stage, "read_epoch", read)
    return seen


def test_all_students_read_the_same_labels_which_are_gone_when_the_last_is_finished(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    two = with_protocol(job, "fkd", per_synthesis=2, epochs=2)
    result = evaluate(two, networks, *condensed)
    epochs = ["epoch-0000", "epoch-0001"]
    assert seen == [f"write {name}" for name in epochs] + 2 * [f"read {name}" for name in epochs]
    assert len(result["students"]["convnet-small"]["last"]) == 2
    assert not (job.folder / "relabel").exists()
    seen.clear()
    assert evaluate(two, networks, *condensed) == result
    assert seen == []


def test_other_images_are_labelled_anew(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(students, "train", killing(1))
        with pytest.raises(KeyboardInterrupt):
            evaluate(job, networks, *condensed)
    before = files_of(job)[0].read_bytes()
    flipped = condensed[0].flip(2)
    with monkeypatch.context() as patch:
        patch.setattr(students, "train", killing(1))
        with pytest.raises(KeyboardInterrupt):
            evaluate(job, networks, flipped, condensed[1])
    assert files_of(job)[0].read_bytes() != before


@pytest.mark.parametrize("protocol", ["fkd", "fkd-ensemble"])
def test_a_killed_student_goes_on_to_the_same_result(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    job = with_protocol(job, protocol)
    undisturbed = replace(job, folder=job.folder.with_name("undisturbed"))
    expected = evaluate(undisturbed, networks, *condensed)
    seen = watched(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0.0)
        patch.setattr(students, "train", killing(2))
        with pytest.raises(KeyboardInterrupt):
            evaluate(job, networks, *condensed)
    seen.clear()
    assert evaluate(job, networks, *condensed) == expected
    assert seen == ["read epoch-0002"]
    names = [folder / "evaluate" / "convnet-small-0.json" for folder in (job.folder, undisturbed.folder)]
    assert read_json(names[0]) == read_json(names[1])


def test_only_the_ensembles_labels_depend_on_the_other_networks(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    alone = Teachers(networks.teacher, networks.independent, {})
    changes = {}
    for protocol in ("fkd", "fkd-ensemble"):
        curves = []
        for teachers in (networks, alone):
            evaluate(with_protocol(job, protocol), teachers, *condensed)
            curves.append((job.folder / "evaluate" / "convnet-small-0.json").read_text())
        changes[protocol] = curves[0] != curves[1]
    assert changes == {"fkd": False, "fkd-ensemble": True}
