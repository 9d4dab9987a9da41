"""The listing of a folder dataset: kept, valid as long as no folder changed, and what it doesn't see."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.directory_calls import count_calls, make_old

from dire_plug.data import Dataset, imagenet, load
from dire_plug.data.loading import DATASETS
from dire_plug.errors import DirePlugError

CLASSES = ("n01", "n02")


@pytest.fixture
def root(tmp_path: Path, bare_home: Path) -> Path:
    """A dataset of two classes whose folders haven't changed for an hour."""
    root = tmp_path / "data" / "imagenet-1k"
    for split, count in (("train", 4), ("val", 2)):
        for name in CLASSES:
            write(root / split / name, count)
    make_old(root)
    return root


def write(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (80, 70), (20 * index, 0, 0)).save(folder / f"{index}.png")


def read(root: Path, *, limit: int | None = None, size: int = 64) -> Dataset:
    return imagenet.read(root, size=size, limit=limit, expected=2)


def test_a_folder_is_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root)
    seen = count_calls(monkeypatch, root)
    second = read(root)
    assert (seen["scandir"], seen["listdir"]) == (0, 0)
    # of each folder, and of no file
    assert seen["stat"] == 2 + 2 * len(CLASSES)
    assert (second.digest, second.classes) == (first.digest, first.classes)
    assert second.train.labels.tolist() == first.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert torch.equal(second.test.images(), first.test.images())


def test_one_listing_serves_all_sizes_and_each_limit_has_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, some = read(root), read(root, limit=4)
    seen = count_calls(monkeypatch, root)
    assert (len(read(root).train), len(read(root, limit=4).train)) == (len(whole.train), len(some.train)) == (8, 4)
    assert read(root, size=80).digest not in (whole.digest, some.digest)
    assert seen["scandir"] == 0


def replace_file(root: Path) -> None:
    other = root.parent / "other.png"
    other.write_bytes(b"another")
    other.rename(root / "train" / "n02" / "1.png")


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda root: (root / "train" / "n01" / "9.png").write_bytes(b"new"),
    "removed": lambda root: (root / "val" / "n02" / "1.png").unlink(),
    "renamed": lambda root: (root / "train" / "n01" / "0.png").rename(root / "train" / "n01" / "5.png"),
    "moved": lambda root: (root / "train" / "n01" / "3.png").rename(root / "train" / "n02" / "4.png"),
    "replaced": replace_file,
    "inner": lambda root: shutil.copytree(root / "val" / "n01", root / "train" / "n01" / "images"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_comes_goes_or_is_replaced_is_seen(root: Path, change: str) -> None:
    before = read(root).digest
    CHANGES[change](root)
    after = read(root).digest
    assert after != before
    shutil.rmtree(root.parents[1] / "home")
    assert read(root).digest == after


def test_an_unsorted_image_and_a_missing_class_are_still_refused(root: Path) -> None:
    read(root)
    (root / "val" / "stray.png").write_bytes(b"")
    with pytest.raises(DirePlugError, match="1 images lie here unsorted"):
        read(root)
    (root / "val" / "stray.png").unlink()
    shutil.rmtree(root / "train" / "n02")
    with pytest.raises(DirePlugError, match="holds 1 class folders, expected 2"):
        read(root)


def test_the_listing_of_a_folder_that_has_just_changed_is_not_kept(root: Path, bare_home: Path) -> None:
    (root / "train" / "n01" / "9.png").write_bytes(b"new")
    read(root)
    assert not list(bare_home.rglob("*.json"))


def test_a_file_rewritten_in_place_is_refused_until_it_is_listed_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(imagenet.SPEC, read=partial(imagenet.read, expected=2))
    monkeypatch.setitem(DATASETS, spec.name, spec)
    before = load(spec.name, root=root.parent, size=64)
    path = root / "train" / "n01" / "2.png"
    path.write_bytes(path.read_bytes() + b"\0")
    unaware = load(spec.name, root=root.parent, size=64)
    assert unaware.digest == before.digest
    unaware.train.images(torch.tensor([1, 3]))
    with pytest.raises(DirePlugError, match=r"2\.png: has \d+ bytes, and had \d+ when .* --rerun data of run"):
        unaware.train.images(torch.tensor([2]))
    found = load(spec.name, root=root.parent, size=64, anew=True)
    assert found.digest != before.digest
    assert found.train.images(torch.tensor([2])).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"times": {"train": 0}}'])
def test_a_damaged_listing_is_made_again(root: Path, bare_home: Path, content: str) -> None:
    before = read(root).digest
    (kept,) = bare_home.rglob("*.json")
    whole = kept.read_text()
    kept.write_text(content)
    assert read(root).digest == before
    assert kept.read_text() == whole


def test_a_store_that_cannot_be_written_costs_time_only(root: Path, bare_home: Path) -> None:
    before = read(root).digest
    shutil.rmtree(bare_home)
    bare_home.write_text("not a folder")
    assert read(root).digest == before
