"""What every dataset must do, on a few images in its own layout: a new one is tested by being registered."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.dataset_files import TRAIN_PER_CLASS, WRITERS, grey
from torch import Tensor

from dire_plug.data import Dataset, class_count, find_all, load, names, normalisation_of
from dire_plug.data.dataset import STATISTICS, Split
from dire_plug.data.loading import DATASETS
from dire_plug.errors import DirePlugError

REAL = "digits"
"""The one whose images are its own here; all others are uniformly grey."""


@pytest.fixture(scope="module", params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def root(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        WRITERS[name](folder, patch)
        yield folder


@pytest.fixture(scope="module")
def dataset(name: str, root: Path) -> Dataset:
    return load(name, root=root, offline=True)


def some(split: Split, count: int = 30) -> Tensor:
    """Return places in a split, in no order."""
    return torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count]


def test_it_has_its_classes_and_an_image_of_each(name: str, dataset: Dataset) -> None:
    assert dataset.name == name
    assert len(set(dataset.classes)) == len(dataset.classes) == class_count(name) == DATASETS[name].classes
    for split in (dataset.train, dataset.test):
        assert split.labels.dtype == torch.int64
        assert torch.unique(split.labels).tolist() == list(range(class_count(name)))
    assert dataset.judged == "test"


def test_images_are_bytes_in_three_channels_of_its_size(dataset: Dataset) -> None:
    for split in (dataset.train, dataset.test):
        chosen = some(split)
        images = split.images(chosen)
        assert images.dtype == torch.uint8
        assert images.shape == (len(chosen), 3, dataset.size, dataset.size)
        assert images.is_contiguous()


def test_images_are_given_out_as_copies_in_the_order_asked_for(dataset: Dataset) -> None:
    chosen = some(dataset.train, 5)
    images = dataset.train.images(chosen)
    backwards = dataset.train.images(chosen.flip(0))
    assert torch.equal(backwards.flip(0), images)
    backwards.fill_(7)
    assert torch.equal(dataset.train.images(chosen), images)


def test_an_image_has_the_label_of_its_file(name: str, dataset: Dataset) -> None:
    for split, count in ((dataset.train, TRAIN_PER_CLASS), (dataset.test, 1)):
        if name == REAL:  # of digits: a zero's centre is empty, a one's isn't
            centres = split.images()[:, 0, 3:5, 3:5].float().mean(dim=(1, 2))
            assert centres[split.labels == 0].mean() < 64 < 128 < centres[split.labels == 1].mean()
            continue
        for label in (0, 1, class_count(name) - 1):
            of_class = (split.labels == label).nonzero().flatten()
            levels = split.images(of_class)[:, 0, 0, 0].tolist()
            assert levels == [int(grey(torch.tensor(label), index)) for index in range(count)]


def test_its_digest_is_that_of_what_is_loaded(name: str, root: Path, dataset: Dataset) -> None:
    least, _ = DATASETS[name].sizes
    assert load(name, root=root, offline=True).digest == dataset.digest
    others = {
        load(name, root=root, size=least, offline=True).digest if least != dataset.size else "",
        load(name, root=root, limit=class_count(name), offline=True).digest,
    }
    assert dataset.digest not in others
    assert len(dataset.digest) == 64
    assert len(others) == 2


def test_a_limit_keeps_the_first_images_of_each_class(name: str, root: Path, dataset: Dataset) -> None:
    few = load(name, root=root, limit=class_count(name), offline=True)
    assert few.train.labels.sort().values.tolist() == list(range(class_count(name)))
    assert len(few.test) == len(dataset.test)
    first = {int(label): place for place, label in reversed(list(enumerate(dataset.train.labels)))}
    for place in some(few.train, 5).tolist():
        same = dataset.train.images(torch.tensor([first[int(few.train.labels[place])]]))
        assert torch.equal(few.train.images(torch.tensor([place])), same)


def test_a_limit_that_no_class_can_share_is_refused(name: str, root: Path) -> None:
    for limit in (class_count(name) + 1, class_count(name) * 10**6):
        with pytest.raises(DirePlugError, match=rf"limit:? {limit} "):
            load(name, root=root, limit=limit, offline=True)


def test_it_is_resized_to_what_it_offers_and_no_further(name: str, root: Path, dataset: Dataset) -> None:
    least, greatest = DATASETS[name].sizes
    small = load(name, root=root, size=least, offline=True)
    assert small.size == least <= dataset.size <= greatest
    assert small.test.images(some(small.test, 2)).shape == (2, 3, least, least)
    for size in (least - 1, greatest + 1):
        with pytest.raises(DirePlugError, match=f"{name}: size {size} is not offered"):
            load(name, root=root, size=size, offline=True)


def test_its_normalisation_is_published_or_that_of_its_pixels(name: str, dataset: Dataset) -> None:
    mean, std = normalisation_of(dataset)
    if name in STATISTICS:
        assert (mean, std) == STATISTICS[name]
    else:
        pixels = dataset.train.images().double() / 255
        assert mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=6e-5)
        assert std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist(), abs=6e-5)
    assert all(0 < value < 1 for value in (*mean, *std))


def test_it_is_told_whether_it_is_here(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_found(folder: Path) -> bool:
        (place,) = (place for spec, place in find_all(folder) if spec.name == name)
        return place is not None

    assert is_found(root)
    if name == REAL:
        return
    monkeypatch.setattr("dire_plug.data.fashion_mnist.DEBIAN", tmp_path / "debian")
    assert not is_found(tmp_path)
    with pytest.raises(DirePlugError) as caught:
        load(name, root=tmp_path, offline=True)
    for part in (f"{name} was not found", DATASETS[name].layout, DATASETS[name].how, str(tmp_path)):
        assert part in str(caught.value)


def test_every_dataset_has_files_here() -> None:
    assert set(WRITERS) == set(names())
