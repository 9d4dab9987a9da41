"""Datasets: loading, layouts, limits, damage."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.dataset_files import idx_bytes

from dire_plug.data import cifar, class_count, default_root, fashion_mnist, load, names
from dire_plug.data.dataset import TensorSplit, make_tensor_dataset
from dire_plug.data.subsample import first_of_each_class, resize
from dire_plug.errors import DirePlugError


def test_digits_split_as_documented() -> None:
    digits = load("digits")
    assert (len(digits.train), len(digits.test), digits.size) == (1437, 360, 8)
    assert torch.bincount(digits.test.labels).tolist() == [36] * 10
    assert digits.classes == tuple("0123456789")


def test_the_number_of_classes_is_known_without_the_images() -> None:
    assert [class_count(name) for name in names()] == [10, 10, 10, 100, 200, 10, 10, 100, 1000]
    with pytest.raises(DirePlugError, match="did you mean 'digits'"):
        class_count("digit")


def test_digits_are_the_grey_levels_of_scikit_learn_in_three_channels() -> None:
    from sklearn.datasets import load_digits

    found = load("digits")
    images = torch.cat([found.train.images(), found.test.images()])
    assert images.dtype == torch.uint8
    assert images.shape == (1797, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])
    expected = np.rint(load_digits().images * 255 / 16)
    assert sorted(map(bytes, images[:, 0].flatten(1).numpy())) == sorted(
        map(bytes, expected.astype(np.uint8).reshape(1797, -1))
    )


def test_a_changed_pixel_or_label_changes_the_digest() -> None:
    pixels, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    changed = pixels.clone()
    changed[2, 0, 1, 1] = 1
    digests = {
        make_tensor_dataset("x", train=train, test=(pixels, labels), classes=("a", "b")).digest
        for train in ((pixels, labels), (changed, labels), (pixels, labels.flip(0)))
    }
    assert len(digests) == 3


def test_images_of_a_split_are_given_out_as_copies() -> None:
    split = TensorSplit(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    split.images().fill_(9)
    split.images(torch.tensor([1])).fill_(9)
    assert split.images().sum() == 0


def test_a_limit_keeps_the_first_images_of_each_class_in_order() -> None:
    labels = torch.tensor([1, 0, 1, 1, 0, 2, 2, 0, 2])
    assert first_of_each_class(labels, limit=6, classes=3).tolist() == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize(("limit", "words"), [(25, "20 or 30"), (5, "use 10")])
def test_a_limit_that_cannot_be_shared_names_the_next_ones(limit: int, words: str) -> None:
    with pytest.raises(DirePlugError, match=words):
        load("digits", limit=limit)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(DirePlugError, match="did you mean 'cifar-100'"):
        load("cifar_100")


def test_resizing_agrees_with_pillow_within_one_grey_level() -> None:
    pixels = torch.randint(0, 256, (3, 3, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = resize(pixels, 16)
    for image, reduced in zip(pixels, small, strict=True):
        shrunk = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(shrunk, dtype=int) - reduced.permute(1, 2, 0).numpy()).max() <= 1


def test_the_data_folder_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIRE_PLUG_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("DIRE_PLUG_DATA")
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    assert default_root() == tmp_path / "home" / "data"


def test_a_data_folder_of_the_environment_that_does_not_exist_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIRE_PLUG_DATA", str(tmp_path / "typo"))
    with pytest.raises(DirePlugError, match=rf"DIRE_PLUG_DATA: Directory '{tmp_path / 'typo'}' does not exist\."):
        load("fashion-mnist")
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short", idx_bytes(torch.zeros(10, dtype=torch.uint8))[:-1]),
        ("other", b"GIF89a"),
        ("empty", b""),
        ("cut.gz", gzip.compress(idx_bytes(torch.zeros(10, dtype=torch.uint8)))[:-12]),
        ("unpacked.gz", idx_bytes(torch.zeros(10, dtype=torch.uint8))),
    ],
)
def test_a_damaged_file_of_fashion_mnist_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    for published in fashion_mnist.SHA256:
        path = tmp_path / "fashion-mnist" / f"{published}{Path(name).suffix}"
        path.write_bytes(content)
    with pytest.raises(DirePlugError, match=r"train-images-idx3-ubyte.*: .*download it again"):
        load("fashion-mnist", root=tmp_path, offline=True)


def test_another_set_in_the_place_of_fashion_mnist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    for name in fashion_mnist.SHA256:
        shape = (4, 28, 28) if "images" in name else (4,)
        content = idx_bytes(torch.zeros(shape, dtype=torch.uint8))
        (tmp_path / "fashion-mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DirePlugError, match=r"train-images-idx3-ubyte\.gz: sha256"):
        load("fashion-mnist", root=tmp_path, offline=True)


@pytest.mark.parametrize("inner", ["fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_either_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str) -> None:
    digests = {}
    (tmp_path / inner).mkdir(parents=True)
    for index, name in enumerate(fashion_mnist.SHA256):
        values = torch.arange(20) % 10 if "labels" in name else torch.full((20, 28, 28), index)
        content = idx_bytes(values)
        digests[name] = hashlib.sha256(content).hexdigest()
        # One file unpacked, the others not.
        path = tmp_path / inner / (name if index == 1 else f"{name}.gz")
        path.write_bytes(content if index == 1 else gzip.compress(content))
    monkeypatch.setattr(fashion_mnist, "SHA256", digests)
    found = load("fashion-mnist", root=tmp_path, limit=10, size=14, offline=True)
    assert found.train.images().shape == (10, 3, 14, 14)
    assert (found.train.images() == 0).all()
    assert (found.test.images() == 2).all()
    assert found.test.labels.tolist() == list(range(10)) * 2


def test_a_missing_set_names_layout_places_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DirePlugError) as caught:
        load("fashion-mnist", root=tmp_path, offline=True)
    message = str(caught.value)
    assert f"{tmp_path / 'fashion-mnist'}: no such folder" in message
    assert f"{raw}: lacks train-images-idx3-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte\n" in message
    assert str(tmp_path / "debian") in message
    assert "dataset-fashion-mnist" in message
    assert "torchvision" in message


def test_offline_never_downloads_and_a_failed_download_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def refuse(root: str, **_: object) -> None:
        calls.append(Path(root))
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    with pytest.raises(DirePlugError, match="cifar-10-batches-py"):
        load("cifar-10", root=tmp_path, offline=True)
    assert calls == []
    with pytest.raises(DirePlugError, match="Fetching it failed: no network"):
        load("cifar-10", root=tmp_path)
    assert calls == [tmp_path]


@pytest.mark.slow
@pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist isn't installed"
)
def test_fashion_mnist_of_debian_is_read_whole(tmp_path: Path) -> None:
    found = load("fashion-mnist", root=tmp_path, limit=6000, size=16, offline=True)
    assert torch.bincount(found.train.labels).tolist() == [600] * 10
    assert torch.bincount(found.test.labels).tolist() == [1000] * 10
    assert found.train.images(torch.tensor([0])).shape == (1, 3, 16, 16)
    assert found.classes[found.train.labels[0]] == "Ankle boot"


def write_cifar_10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import calculate_md5

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.arange(20 * 3072, dtype=np.int64).reshape(20, 3072).astype(np.uint8)
    for name, rows in (("data_batch_1", slice(0, 20)), ("test_batch", slice(0, 10))):
        content = {"data": pixels[rows], "labels": [row % 10 for row in range(20)][rows]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {label}" for label in range(10)]}))
    md5 = {path.name: calculate_md5(str(path)) for path in folder.iterdir()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


@pytest.mark.parametrize("inner", ["", "cifar-10"])
def test_cifar_is_read_from_either_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str) -> None:
    write_cifar_10(tmp_path / inner, monkeypatch)
    found = load("cifar-10", root=tmp_path, limit=10, offline=True)
    assert (len(found.train), len(found.test), found.size) == (10, 10, 32)
    assert found.classes[3] == "class 3"
    # A row of the file holds the red plane, then green, then blue, each row by row.
    assert found.train.images()[0, 1, 0, :3].tolist() == [1024 % 256, 1025 % 256, 1026 % 256]


def test_a_changed_cifar_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar_10(tmp_path, monkeypatch)
    with (tmp_path / "cifar-10-batches-py" / "test_batch").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DirePlugError, match="not the published CIFAR-10"):
        cifar.CIFAR_10.read(tmp_path, size=None, limit=None)
