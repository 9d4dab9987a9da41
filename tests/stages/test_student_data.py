"""What students of each protocol learn from, on 60 tiny images."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.augmentations import undrawn
from support.stub_run import (
    CPU,
    MEAN,
    STD,
    StubAdapter,
    make_run,
    random_set,
    with_adapter,
    with_networks,
    with_section,
)
from torch import Generator, Tensor

from dire_plug.data.augmentation.batch import normalise
from dire_plug.data.augmentation.draws import Augmentation
from dire_plug.data.augmentation.zca import fit, load, save
from dire_plug.data.folders import FolderSplit, list_images, make_folder_split
from dire_plug.errors import DirePlugError
from dire_plug.image_files import decode
from dire_plug.models.checkpoint import load as load_network
from dire_plug.stages import evaluate as stage
from dire_plug.stages.artefacts import Networks, name_pixels, name_students, name_whitening
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.images import ImageSet
from dire_plug.stages.prepare import WHITENING
from dire_plug.stages.squeeze import network_file, squeeze
from dire_plug.stages.student_data import build_student_data, with_rate
from dire_plug.store.runs import Run
from dire_plug.training.protocols import train_student
from dire_plug.types import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "store")
    return with_networks(make_run(tmp_path / "store"))


@pytest.fixture
def networks(run: Run) -> Networks:
    return squeeze(run)


@pytest.fixture
def condensed(run: Run) -> ImageSet:
    return random_set(run, ipc=3, seed=1)


def student_data(run: Run, networks: Networks, condensed: ImageSet) -> Any:
    return build_student_data(
        run, run.recipe.evaluate, load_network(network_file(run, networks.teacher), CPU), condensed
    )


def with_loop(condensed: ImageSet, *, whitened: bool = False) -> tuple[ImageSet, Tensor]:
    """Return the set with tensors as a loop leaves them, unbounded ones among them."""
    loop = 3 * torch.randn(condensed.images.shape, generator=Generator().manual_seed(0))
    return replace(condensed, read_loop=lambda: loop, whitened=whitened), loop


def test_only_protocols_that_ask_all_networks_depend_on_the_others(
    run: Run, networks: Networks, condensed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Networks(networks.teacher, networks.independent)
    asked = watch(monkeypatch)
    several = ("static-labels", "dynamic-labels", "ensemble-labels")
    for protocol in ("delt", *several):
        one = with_section(run, protocol, epochs=2, batch_size=9)
        names = [name_students(one, loop, condensed.source, one.recipe.evaluate) for loop in (networks, alone)]
        assert (names[0] != names[1]) == (protocol in several)
        asked.clear()
        evaluate(one, networks, condensed)
        assert [teachers for teachers, _ in asked] == [2 if protocol in several else 1]


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """Return a list that gets, of each student that is trained, the number of its teachers and its learning rate."""
    seen = list[tuple[int, Any]]()

    def note(student: Any, teachers: Any, *, section: Any, **rest: Any) -> Any:
        seen.append((len(teachers), section.lr))
        return train_student(student, teachers, section=section, **rest)

    monkeypatch.setattr(stage, "train_student", note)
    return seen


def test_delt_normalises_by_imagenets_statistics_unless_told_otherwise(
    run: Run, networks: Networks, condensed: ImageSet
) -> None:
    test = run.dataset.test.images()
    published = student_data(with_section(run, "delt"), networks, condensed)
    consistent = student_data(with_section(run, "delt", statistics="teacher"), networks, condensed)
    assert torch.equal(published.test_images, normalise(test, IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(consistent.test_images, normalise(test, MEAN, STD))


def test_delt_changes_images_by_randaugment_only_where_it_is_asked_to(
    run: Run, networks: Networks, condensed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"operations": 3, "magnitude": 7.0, "std": 0.5}
    seen: list[dict[str, Any]] = []

    def invert(**settings: Any) -> Augmentation:
        seen.append(settings)
        return undrawn(lambda images: 255 - images)

    monkeypatch.setattr("dire_plug.data.augmentation.rand_augment.rand_augment", invert)
    plain = student_data(with_section(run, "delt"), networks, condensed).train_transform
    augmented = student_data(with_section(run, "delt", randaugment=asked), networks, condensed).train_transform
    images = condensed.images
    inverted = plain(255 - images, Generator().manual_seed(0))
    assert torch.equal(augmented(images, Generator().manual_seed(0)), inverted)
    assert seen == [asked]


def test_static_labels_are_those_of_images_that_are_only_normalised(
    run: Run, networks: Networks, condensed: ImageSet
) -> None:
    data = student_data(with_section(run, "static-labels"), networks, condensed)
    assert torch.equal(data.plain_transform(condensed.images), normalise(condensed.images, MEAN, STD))


def test_hard_labels_take_the_tensors_of_the_loop_as_they_are(
    run: Run, networks: Networks, condensed: ImageSet
) -> None:
    images, loop = with_loop(condensed)
    data = student_data(with_section(run, "hard-labels"), networks, images)
    assert torch.equal(data.images, loop)
    assert torch.equal(data.test_images, normalise(run.dataset.test.images(), MEAN, STD))


def test_hard_labels_of_saved_files_are_normalised(run: Run, networks: Networks, condensed: ImageSet) -> None:
    images, _ = with_loop(condensed)
    data = student_data(with_section(run, "hard-labels", source="saved"), networks, images)
    assert torch.equal(data.images, normalise(condensed.images, MEAN, STD))


def test_whitened_images_are_tested_on_a_whitened_test_set(run: Run, networks: Networks, condensed: ImageSet) -> None:
    whitened = with_adapter(with_section(run, "hard-labels", whiten=True), StubAdapter(whitened=True))
    images, loop = with_loop(condensed, whitened=True)
    data = student_data(whitened, networks, images)
    transform = fit(run.dataset.train.images())
    assert torch.equal(data.images, loop)
    expected = transform.apply(run.dataset.test.images().float() / 255)
    assert torch.allclose(data.test_images, expected, atol=1e-5)


def test_pixels_are_whitened_by_what_is_fitted_on_the_training_images(
    run: Run, networks: Networks, condensed: ImageSet
) -> None:
    data = student_data(with_section(run, "hard-labels", whiten=True), networks, condensed)
    expected = fit(run.dataset.train.images()).apply(condensed.images.float() / 255)
    assert torch.allclose(data.images, expected, atol=1e-6)
    assert set(load_file(run.store.path(name_whitening(run)) / WHITENING)) == {"mean", "matrix", "inverse"}


def test_the_stores_own_whitening_is_taken_where_there_is_one(
    run: Run, networks: Networks, condensed: ImageSet
) -> None:
    run.store.ensure(name_whitening(run), lambda folder: save(folder / WHITENING, fit(run.dataset.test.images())))
    data = student_data(with_section(run, "hard-labels", whiten=True), networks, condensed)
    kept = load(run.store.path(name_whitening(run)) / WHITENING, CPU)
    assert torch.allclose(data.images, kept.apply(condensed.images.float() / 255), atol=1e-6)


@pytest.mark.parametrize(
    ("whitened", "whiten", "message"),
    [
        (False, True, "loop are normalised; set evaluate.whiten=false"),
        (True, False, "loop are whitened; set evaluate.whiten=true"),
    ],
)
def test_a_loop_of_another_space_is_refused(
    run: Run, networks: Networks, condensed: ImageSet, whitened: bool, whiten: bool, message: str
) -> None:
    images, _ = with_loop(condensed, whitened=whitened)
    with pytest.raises(DirePlugError, match=message):
        student_data(with_section(run, "hard-labels", whiten=whiten), networks, images)


def rate_of(run: Run, images: ImageSet) -> Any:
    section: Any = with_rate(run.recipe.evaluate, images)
    return section.lr


def test_a_learned_rate_is_that_of_the_synthesis(run: Run, condensed: ImageSet) -> None:
    images = replace(condensed, extras={"learned_lr": 0.025})
    assert rate_of(with_section(run, "hard-labels", lr="learned"), images) == 0.025
    assert rate_of(with_section(run, "hard-labels", lr=0.5), images) == 0.5


def test_a_learned_rate_that_nobody_learned_is_refused(run: Run, condensed: ImageSet) -> None:
    with pytest.raises(DirePlugError, match=r"evaluate\.lr: is 'learned', but .*extras\.json; set evaluate\.lr to a"):
        rate_of(with_section(run, "hard-labels", lr="learned"), condensed)


def test_real_images_have_a_rate_of_their_own_instead_of_a_learned_one(run: Run, condensed: ImageSet) -> None:
    real = replace(condensed, synthesized=False)
    assert rate_of(with_section(run, "hard-labels", lr="learned", lr_without=0.02), real) == 0.02


def test_a_student_learns_at_the_learned_rate(
    run: Run, networks: Networks, condensed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watch(monkeypatch)
    evaluate(
        with_section(run, "hard-labels", epochs=2, lr="learned"),
        networks,
        replace(condensed, extras={"learned_lr": 0.025}),
    )
    assert [lr for _, lr in asked] == [0.025]


def with_test_files(run: Run, folder: Path, *, brightest: int = 250) -> Run:
    """Return the run with a test set of image files, of which every size is too large for the device."""
    for label in range(3):
        place = folder / "test" / str(label)
        place.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (12, 10), (brightest // (label + 1), 20 * number, 5)).save(place / f"{number}.png")
    files = [file for label in range(3) for file in list_images(folder / "test" / str(label), label)]
    return replace(run, data=replace(run.dataset, test=make_folder_split(folder, files, size=8)))


def test_a_large_test_set_is_decoded_once_for_all_students(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dire_plug.stages.student_data.MOST_FLOAT_BYTES", 0)
    run = with_test_files(run, tmp_path)
    expected = run.dataset.test.images()
    plain = student_data(with_section(run, "on-the-fly"), networks, condensed)
    assert torch.equal(plain.test_images, expected)
    assert torch.equal(plain.test_transform(expected), normalise(expected, MEAN, STD))
    decoded = count_decoded(monkeypatch)
    again = student_data(with_section(run, "delt"), networks, condensed)
    assert torch.equal(again.test_images, expected)
    assert decoded == []


@pytest.mark.parametrize("whiten", [False, True])
def test_large_sets_of_hard_labels_stay_pixels_until_a_batch_is_used(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whiten: bool
) -> None:
    run = with_section(with_test_files(run, tmp_path), "hard-labels", whiten=whiten)
    small = student_data(run, networks, condensed)
    monkeypatch.setattr("dire_plug.stages.student_data.MOST_FLOAT_BYTES", 0)
    large = student_data(run, networks, condensed)
    assert (small.images.dtype, small.test_images.dtype) == (torch.float32, torch.float32)
    assert torch.equal(large.images, condensed.images)
    assert torch.equal(large.test_images, run.dataset.test.images())
    # a product of matrices may round otherwise for another number of images
    tolerance = 1e-5 if whiten else 0
    torch.testing.assert_close(large.test_transform(large.test_images), small.test_images, rtol=0, atol=tolerance)
    batch = torch.tensor([5, 0, 7])
    for seed in range(12):
        changed, expected = (
            data.train_transform(data.images[batch], Generator().manual_seed(seed)) for data in (large, small)
        )
        torch.testing.assert_close(changed, expected, rtol=0, atol=10 * tolerance)


def test_students_of_large_sets_of_hard_labels_have_the_bits_of_small_ones(
    run: Run, networks: Networks, condensed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_section(run, "hard-labels", epochs=3, batch_size=4, test_from=0)
    network = load_network(network_file(run, networks.teacher), CPU)
    weights = []
    for most in (1 << 30, 0):
        monkeypatch.setattr("dire_plug.stages.student_data.MOST_FLOAT_BYTES", most)
        student = copy.deepcopy(network.model)
        data, folder = student_data(run, networks, condensed), run.store.root / str(most)
        curve = train_student(student, [], data=data, section=run.recipe.evaluate, seed=1, folder=folder)
        weights.append((curve, [one.tolist() for one in student.state_dict().values()]))
    assert weights[0] == weights[1]


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that gets each file that is decoded."""
    found: list[Path] = []

    def note(path: Path) -> Image.Image:
        found.append(path)
        return decode(path)

    monkeypatch.setattr("dire_plug.data.folders.decode", note)
    return found


def test_other_files_or_another_size_are_other_pixels(run: Run, tmp_path: Path) -> None:
    split = with_test_files(run, tmp_path / "one").dataset.test
    assert isinstance(split, FolderSplit)
    shorter = FolderSplit(split.files.take(torch.arange(11)), split.size)
    again = with_test_files(run, tmp_path / "two").dataset.test
    assert isinstance(again, FolderSplit)
    names = [name_pixels(one).name for one in (split, shorter, replace(split, size=9), again)]
    assert len(set(names)) == 3
    assert names[0] == names[3]
