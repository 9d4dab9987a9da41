"""Labels stored with what was drawn for each batch: the same bits again, whole or not at all, and gone in the end."""

import shutil
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.augmentations import mix
from support.stub_run import (
    CPU,
    MEAN,
    STD,
    image_set,
    killing,
    make_run,
    random_set,
    with_networks,
    with_section,
    with_seed,
    with_store,
)
from torch import Generator, Tensor

from dire_plug.errors import DirePlugError
from dire_plug.models.checkpoint import load
from dire_plug.stages.artefacts import Networks, name_labels, name_student
from dire_plug.stages.evaluate import STUDENT, evaluate
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import network_file, squeeze
from dire_plug.stages.student_data import build_student_data
from dire_plug.store.runs import Run
from dire_plug.training import loop as training
from dire_plug.training import soft_labels as relabel_stage
from dire_plug.training import students
from dire_plug.training.protocols import stored_label
from dire_plug.training.soft_labels import relabel
from dire_plug.training.stored_batches import (
    StoredTransform,
    TransformParams,
    count_stored,
    draw_stored,
    epoch_bytes,
    epoch_file,
    is_stored,
    read_epoch,
    write_epoch,
)
from dire_plug.training.transforms import mixing, train_transform

EPOCHS, BATCH, OUTPUTS = 3, 4, 4
Shown = namedtuple("Shown", "augmentation mixup cutmix")
SHOWN = [Shown("none", 0, 0), Shown("crop", 0.8, 0), Shown("crop_flip", 0, 1), Shown("resized_crop_flip", 0, 1)]
"""How images are shown, with each way to crop and each way to mix."""


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "store")
    return with_protocol(with_networks(make_run(tmp_path / "store")), "fkd")


@pytest.fixture
def networks(run: Run) -> Networks:
    return squeeze(run)


@pytest.fixture
def condensed(run: Run) -> ImageSet:
    return random_set(run, ipc=3, seed=1)


def with_protocol(run: Run, protocol: str, **keys: Any) -> Run:
    return with_section(run, protocol, **{"epochs": EPOCHS, "batch_size": BATCH, **keys})


def label(run: Run, networks: Networks, condensed: ImageSet, folder: Path) -> students.Stored:
    """Run the stage."""
    section: Any = run.recipe.evaluate
    loaded = [load(network_file(run, one), CPU) for one in networks.in_loop.values()]
    data = build_student_data(run, section, loaded[0], condensed)
    return relabel(run, section, loaded, data=data, folder=folder, name="set")


def files_in(folder: Path) -> list[Path]:
    return [epoch_file(folder, epoch) for epoch in range(EPOCHS)]


def labels_of(run: Run, networks: Networks, condensed: ImageSet) -> Path:
    """Return the folder in which the labels of a set lie while its students learn."""
    return run.store.work(name_labels(run, networks, condensed.source, run.recipe.evaluate))


def transform_of(shown: Shown) -> StoredTransform:
    return StoredTransform(shown.augmentation, 2, shown.mixup, shown.cutmix, MEAN, STD)


def draw_all(images: Tensor, shown: Shown, generator: Generator) -> list[TransformParams]:
    batches = training.shuffled(len(images), BATCH, generator)
    return [transform_of(shown).draw(images.shape, indices, generator=generator) for indices in batches]


def same(first: TransformParams, second: TransformParams) -> bool:
    tensors = ("indices", "boxes", "flips", "partners")
    equal = [torch.equal(getattr(first, name), getattr(second, name)) for name in tensors]
    return all(equal) and (first.share, first.cut) == (second.share, second.cut)


# What is drawn, and the batch that it makes.


@pytest.mark.parametrize("shown", SHOWN)
def test_a_rebuilt_batch_is_that_of_the_other_protocols_bit_for_bit(shown: Shown) -> None:
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=Generator().manual_seed(0)).to(torch.uint8)
    indices = torch.tensor([7, 1, 0, 4, 2])
    network = SimpleNamespace(mean=MEAN, std=STD)
    transform = train_transform(network, augmentation=shown.augmentation, padding=2)  # type: ignore[arg-type]
    by = mixing(mixup_alpha=shown.mixup, cutmix_alpha=shown.cutmix)
    for seed in range(5):
        generator, other = Generator().manual_seed(seed), Generator().manual_seed(seed)
        expected, partners, share = mix(by, transform(images[indices], generator), generator)
        drawn = transform_of(shown).draw(images.shape, indices, generator=other)
        assert torch.equal(transform_of(shown).apply(images[indices], drawn), expected)
        assert torch.equal(drawn.partners, partners)
        assert drawn.share == share


@pytest.mark.parametrize("shown", SHOWN)
def test_what_is_stored_comes_back_to_the_last_bit(shown: Shown, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=Generator().manual_seed(0)).to(torch.uint8)
    drawn = draw_all(images, shown, Generator().manual_seed(1))
    logits = [torch.randn(len(one.indices), OUTPUTS) for one in drawn]
    write_epoch(tmp_path / "epoch", list(zip(drawn, logits, strict=True)))
    found = list(read_epoch(tmp_path / "epoch", batch_size=BATCH))
    assert [len(one.indices) for one, _ in found] == [4, 4, 1]
    assert all(same(first, second) for first, (second, _) in zip(drawn, found, strict=True))
    assert torch.equal(torch.cat([values for _, values in found]), torch.cat(logits).half())
    for first, (second, _) in zip(drawn, found, strict=True):
        again = transform_of(shown).apply(images[second.indices], second)
        assert torch.equal(again, transform_of(shown).apply(images[first.indices], first))


def test_an_epoch_takes_the_bytes_that_are_announced(tmp_path: Path) -> None:
    drawn = draw_all(torch.zeros(9, 3, 8, 8, dtype=torch.uint8), SHOWN[3], Generator().manual_seed(1))
    path = tmp_path / "epoch"
    write_epoch(path, [(one, torch.zeros(len(one.indices), 100)) for one in drawn])
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == header + epoch_bytes(9, 3, 100)


# The stage.


@pytest.mark.parametrize("protocol", ["fkd", "fkd-ensemble"])
def test_a_stored_label_is_what_the_networks_say_of_the_batch_that_is_seen(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path, protocol: str
) -> None:
    run = with_protocol(run, protocol)
    stored = label(run, networks, condensed, tmp_path / "labels")
    models = [load(network_file(run, one), CPU).model for one in networks.in_loop.values()]
    section: Any = run.recipe.evaluate
    for epoch in range(EPOCHS):
        for inputs, targets, _ in stored(epoch):
            assert torch.equal(targets, stored_label(section, models, inputs).half().float())


def test_each_epoch_holds_every_image_once_in_an_order_of_its_own(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path
) -> None:
    stored = label(with_protocol(run, "fkd", augmentation="none", cutmix=0), networks, condensed, tmp_path / "labels")
    orders = []
    for epoch in range(EPOCHS):
        batches = list(stored(epoch))
        assert [len(inputs) for inputs, _, _ in batches] == [4, 4, 1]
        drawn = [one for one, _ in read_epoch(files_in(tmp_path / "labels")[epoch], batch_size=BATCH)]
        order = torch.cat([one.indices for one in drawn])
        assert order.sort().values.tolist() == list(range(9))
        assert torch.equal(torch.cat([classes for _, _, classes in batches]), condensed.labels[order])
        orders.append(order.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_another_seed_of_the_run_draws_others(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path
) -> None:
    other = with_seed(run, 4)
    label(run, networks, condensed, tmp_path / "3")
    label(other, networks, condensed, tmp_path / "4")
    assert files_in(tmp_path / "3")[0].read_bytes() != files_in(tmp_path / "4")[0].read_bytes()
    assert labels_of(run, networks, condensed) != labels_of(other, networks, condensed)


def test_a_teacher_in_train_mode_labels_by_its_batch(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path
) -> None:
    targets = {}
    for mode in ("eval", "train"):
        stored = label(with_protocol(run, "fkd", teacher_mode=mode), networks, condensed, tmp_path / mode)
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
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    run = with_protocol(run, "fkd", teacher_mode=mode)
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    with monkeypatch.context() as patch:
        patch.setattr(relabel_stage, "write_epoch", killed_write(1))
        with pytest.raises(KeyboardInterrupt):
            label(run, networks, condensed, killed)
    assert [path.is_file() for path in files_in(killed)] == [True, False, False]
    made = files_in(killed)[0].stat().st_mtime_ns
    label(run, networks, condensed, killed)
    assert files_in(killed)[0].stat().st_mtime_ns == made
    label(run, networks, condensed, undisturbed)
    assert [path.read_bytes() for path in files_in(killed)] == [path.read_bytes() for path in files_in(undisturbed)]


def test_damaged_labels_are_made_again(run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path) -> None:
    label(run, networks, condensed, tmp_path)
    whole = files_in(tmp_path)[1].read_bytes()
    files_in(tmp_path)[1].write_bytes(whole[:-5])
    assert [is_stored(path) for path in files_in(tmp_path)] == [True, False, True]
    label(run, networks, condensed, tmp_path)
    assert files_in(tmp_path)[1].read_bytes() == whole


def test_a_damaged_file_is_told_with_what_to_do(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path
) -> None:
    stored = label(run, networks, condensed, tmp_path)
    files_in(tmp_path)[2].write_bytes(b"not labels")
    with pytest.raises(DirePlugError, match=r"epoch-0002\.safetensors: the soft labels cannot be read .*remove the fi"):
        list(stored(2))


def test_what_the_labels_take_is_said_before_they_are_made(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(run, networks, condensed, tmp_path)
    assert (
        "relabel: the soft labels of 3 epochs × 9 images take 0.0 MB of disk until the students are finished; "
        "making them takes less than a minute" in capsys.readouterr().err
    )
    label(run, networks, condensed, tmp_path)
    assert "soft labels" not in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_refused_before_anything_is_labelled(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = EPOCHS * epoch_bytes(9, 3, OUTPUTS)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(needed - 1))
    with pytest.raises(DirePlugError, match=r"the soft labels of 3 epochs × 9 images take .* set DIRE_PLUG_SCRATCH to"):
        label(run, networks, condensed, tmp_path)
    assert not any(path.exists() for path in files_in(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(needed))
    label(run, networks, condensed, tmp_path)
    assert all(path.exists() for path in files_in(tmp_path))


@pytest.mark.parametrize(
    ("minutes", "words"), [(0.2, "less than a minute"), (42, "about 42 min"), (125, "about 2 h 5 min")]
)
def test_long_work_is_told_in_hours(
    run: Run,
    networks: Networks,
    condensed: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    minutes: float,
    words: str,
) -> None:
    clock = iter([0.0, minutes * 60 / EPOCHS])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    label(run, networks, condensed, tmp_path)
    assert f"takes {words}" in capsys.readouterr().err


# Labels that are pruned.


@pytest.mark.parametrize(
    ("kept", "counts"),
    [(1, [79] * 300), (1 - 0.975, [79] * 7 + [39]), (0.1, [79] * 30), (1e-9, [1])],
    ids=["all", "a fortieth", "a tenth", "at least one"],
)
def test_the_first_batches_of_all_are_stored(kept: float, counts: list[int]) -> None:
    assert count_stored(10_000, batch_size=128, epochs=300, kept=kept) == counts


def test_an_epoch_draws_from_all_stored_batches_but_the_short_ones() -> None:
    counts = count_stored(9, batch_size=BATCH, epochs=4, kept=0.7)
    assert counts == [3, 3, 2]
    generator = Generator().manual_seed(0)
    drawn = [draw_stored(counts, images=9, batch_size=BATCH, generator=generator) for _ in range(60)]
    assert {len(one) for one in drawn} == {3}
    seen = Counter(pair for one in drawn for pair in one)
    assert seen.keys() == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)}
    # the batch before a short one comes in its place too
    assert seen[0, 1] + seen[1, 1] > seen[0, 0] + seen[1, 0]
    whole = {pair for _ in range(60) for pair in draw_stored([2], images=8, batch_size=BATCH, generator=generator)}
    assert whole == {(0, 0), (0, 1)}


def test_pruned_labels_are_a_part_of_all_and_every_epoch_learns_others(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path
) -> None:
    label(run, networks, condensed, tmp_path / "all")
    stored = label(with_protocol(run, "fkd", labels_kept=0.5), networks, condensed, tmp_path / "half")
    assert [path.is_file() for path in files_in(tmp_path / "half")] == [True, True, False]
    whole, half = files_in(tmp_path / "all"), files_in(tmp_path / "half")
    assert whole[0].read_bytes() == half[0].read_bytes()
    (first, logits), *others = read_epoch(half[1], batch_size=BATCH)
    ((also, expected),) = read_epoch(whole[1], batch_size=BATCH, only=[0])
    assert others == []
    assert same(first, also)
    assert torch.equal(logits, expected)
    known = [logits for path in half[:2] for _, logits in read_epoch(path, batch_size=BATCH)]
    epochs = [[targets for _, targets, _ in stored(epoch)] for epoch in range(EPOCHS)]
    assert {len(one) for one in epochs} == {3}
    assert all(any(torch.equal(one, other.float()) for other in known) for each in epochs for one in each)
    assert len({tuple(float(one.sum()) for one in each) for each in epochs}) > 1


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


def test_all_students_read_the_same_labels_which_are_gone_in_the_end(
    run: Run, networks: Networks, condensed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    two = with_protocol(run, "fkd", per_synthesis=2, epochs=2)
    result = evaluate(two, networks, condensed)
    epochs = ["epoch-0000", "epoch-0001"]
    assert seen == [f"write {name}" for name in epochs] + 2 * [f"read {name}" for name in epochs]
    assert len(result["students"]["convnet-small"]["last"]) == 2
    assert not list(run.store.root.rglob("*/relabel"))
    seen.clear()
    assert evaluate(two, networks, condensed) == result
    assert seen == []


def test_kept_labels_serve_students_that_come_later(
    run: Run, networks: Networks, condensed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    keeping = replace(run, request=replace(run.request, keep_labels=True))
    evaluate(keeping, networks, condensed)
    assert len(list(run.store.root.glob("labels/*/relabel/epoch-*.safetensors"))) == EPOCHS
    seen.clear()
    evaluate(with_protocol(keeping, "fkd", per_synthesis=2), networks, condensed)
    assert seen == [f"read epoch-{epoch:04d}" for epoch in range(EPOCHS)]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's scratch."""
    (folder := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(folder))
    return folder


def places(monkeypatch: pytest.MonkeyPatch, *, fail: bool = False) -> set[Path]:
    """Return a set to which each folder is added in which labels are written; let the second epoch fail."""
    seen: set[Path] = set()

    def write(path: Path, *arguments: Any, **named: Any) -> None:
        if fail and "0001" in path.name:
            raise KeyboardInterrupt
        seen.add(path.parents[1])
        write_epoch(path, *arguments, **named)

    monkeypatch.setattr(relabel_stage, "write_epoch", write)
    return seen


def test_labels_lie_in_the_scratch_and_nothing_is_left_there(
    run: Run, networks: Networks, condensed: ImageSet, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("DIRE_PLUG_SCRATCH")
        beside = with_store(run, tmp_path / "beside")
        shutil.copytree(run.store.root, beside.store.root)
        expected = evaluate(beside, networks, condensed)
    seen = places(monkeypatch)
    assert evaluate(run, networks, condensed) == expected
    assert [one.is_relative_to(scratch) for one in seen] == [True]
    assert not [path for path in scratch.rglob("*") if path.name.startswith("labels")]
    assert not list(run.store.root.rglob("*/relabel"))


def test_labels_in_the_scratch_are_gone_after_an_error(
    run: Run, networks: Networks, condensed: ImageSet, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = places(monkeypatch, fail=True)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, networks, condensed)
    assert [(one.is_relative_to(scratch), one.exists()) for one in seen] == [(True, False)]


def test_labels_that_are_kept_or_were_begun_lie_in_the_store(
    run: Run, networks: Networks, condensed: ImageSet, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("DIRE_PLUG_SCRATCH")
        patch.setattr(relabel_stage, "write_epoch", killed_write(1))
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, networks, condensed)
    seen = places(monkeypatch)
    evaluate(run, networks, condensed)
    other = image_set(condensed.images.flip(2), condensed.labels)
    evaluate(replace(run, request=replace(run.request, keep_labels=True)), networks, other)
    assert [one.parent.name for one in seen] == 2 * ["work"]


def test_a_scratch_without_room_is_passed_over(
    run: Run, networks: Networks, condensed: ImageSet, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0 if path == scratch else 1 << 40))
    seen = places(monkeypatch)
    evaluate(run, networks, condensed)
    assert [one.parent for one in seen] == [run.store.root / "work"]


def test_other_images_have_labels_of_their_own(run: Run, networks: Networks, condensed: ImageSet) -> None:
    flipped = image_set(condensed.images.flip(2), condensed.labels)
    folders = []
    for images in (condensed, flipped):
        folders.append(labels_of(run, networks, images))
        label(run, networks, images, folders[-1])
    assert folders[0] != folders[1]
    assert files_in(folders[0])[0].read_bytes() != files_in(folders[1])[0].read_bytes()


@pytest.mark.parametrize("protocol", ["fkd", "fkd-ensemble"])
def test_a_killed_student_goes_on_to_the_same_result(
    run: Run,
    networks: Networks,
    condensed: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    run = with_protocol(run, protocol)
    undisturbed = with_store(run, tmp_path / "undisturbed")
    shutil.copytree(run.store.root, undisturbed.store.root)
    expected = evaluate(undisturbed, networks, condensed)
    seen = watched(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0.0)
        patch.setattr(students, "train", killing(2))
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, networks, condensed)
    seen.clear()
    assert evaluate(run, networks, condensed) == expected
    assert seen == ["read epoch-0002"]
    assert student_file(run, networks, condensed) == student_file(undisturbed, networks, condensed)


def student_file(run: Run, networks: Networks, condensed: ImageSet) -> bytes:
    section = run.recipe.evaluate
    student = name_student(run, networks, condensed.source, section, architecture="convnet-small", k=0)
    return (run.store.path(student) / STUDENT).read_bytes()


def test_only_the_ensembles_labels_depend_on_the_other_networks(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path
) -> None:
    alone = Networks(networks.teacher, networks.independent)
    changes = {}
    for protocol in ("fkd", "fkd-ensemble"):
        found = []
        for loop in (networks, alone):
            one = with_protocol(run, protocol)
            names = name_labels(one, loop, condensed.source, one.recipe.evaluate).name
            label(one, loop, condensed, folder := tmp_path / f"{protocol}-{len(loop.in_loop)}")
            found.append((names, [path.read_bytes() for path in files_in(folder)]))
        changes[protocol] = [before != after for before, after in zip(*found, strict=True)]
    assert changes == {"fkd": [False, False], "fkd-ensemble": [True, True]}
