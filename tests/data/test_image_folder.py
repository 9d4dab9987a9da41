"""A folder of a user's own images: its layouts, its draw, its identity, and what is wrong with it."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.own_images import SHAPES, write_photos

from dire_plug.data import Dataset, DatasetSource, class_count, contents, load, normalisation_of, stand_in
from dire_plug.data.dataset import TensorSplit
from dire_plug.data.folders import FolderSplit
from dire_plug.errors import DirePlugError

SIZE = 16


@pytest.fixture
def photos(tmp_path: Path, bare_home: Path) -> Path:
    return write_photos(tmp_path / "photos", count=10)


def read(folder: Path, *, size: int | None = SIZE, limit: int | None = None, **more: float) -> Dataset:
    source = DatasetSource("folder", str(folder), **more)  # type: ignore[arg-type]
    return load(source, root=folder.parent, size=size, limit=limit)


def message(folder: Path, *, size: int | None = SIZE) -> str:
    with pytest.raises(DirePlugError) as caught:
        read(folder, size=size)
    return str(caught.value)


def settle(root: Path) -> None:
    """Let all files look as if they had been written an hour ago."""
    for path in root.rglob("*"):
        os.utime(path, (path.stat().st_atime - 3600, path.stat().st_mtime - 3600))


# Layouts and splits.


def test_test_images_are_drawn_of_each_class_by_a_seed(photos: Path) -> None:
    found, again, other = read(photos), read(photos), read(photos, split_seed=1)
    assert (found.name, found.classes, found.size) == ("folder photos", SHAPES, SIZE)
    assert class_count(DatasetSource("folder", str(photos))) == 3
    assert found.train.labels.bincount().tolist() == [8, 8, 8]
    assert found.test.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(found.test.images(), again.test.images())
    assert not torch.equal(found.test.images(), other.test.images())
    assert len({found.digest, again.digest, other.digest}) == 2
    assert len(read(photos, test_fraction=0.5).test) == 15
    with pytest.raises(DirePlugError, match=r"circle: of its 10 images 10 would be drawn to test, .*test_fraction"):
        read(photos, test_fraction=0.99)


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("inner", ["", "images"])
def test_folders_of_train_and_test_images_are_taken_as_they_are(
    tmp_path: Path, bare_home: Path, test: str, inner: str
) -> None:
    for split, first, count in (("train", 0, 4), (test, 4, 2)):
        write_photos(tmp_path / "x", count=count, first=first)
        for name in SHAPES:
            place = tmp_path / "own" / split / name / inner
            place.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "x" / name).rename(place)
    found = read(tmp_path / "own")
    assert found.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DirePlugError, match=rf"split_seed are for a folder without test images, and .*/{test} holds"):
        read(tmp_path / "own", split_seed=5)


def test_a_class_may_be_called_train(photos: Path) -> None:
    (photos / "circle").rename(photos / "train")
    assert read(photos).classes == ("cross", "square", "train")


def test_a_limit_takes_the_first_training_images(photos: Path) -> None:
    whole, some = read(photos), read(photos, limit=6)
    assert some.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(some.train.images()[:2], whole.train.images()[:2])
    assert len(some.test) == len(whole.test)
    with pytest.raises(DirePlugError, match=r"dataset.limit: 30 asks for 10 .* of each class, .* use at most 24"):
        read(photos, limit=30)


# Pixels.


def test_images_of_its_size_stay_as_they_are_and_others_are_cropped(tmp_path: Path, bare_home: Path) -> None:
    write_photos(tmp_path / "own", count=2)
    exact = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    wide = np.tile(np.arange(32, dtype=np.uint8)[None, :, None], (SIZE, 1, 3))
    for name, pixels in (("000.png", exact), ("001.png", wide)):
        shutil.rmtree(tmp_path / "own" / "circle") if name == "000.png" else None
        (tmp_path / "own" / "circle").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "own" / "circle" / name)
    found = read(tmp_path / "own", test_fraction=0.5)
    circles = [split.images()[0].permute(1, 2, 0).numpy() for split in (found.train, found.test)]
    kept = [next(one for one in circles if np.array_equal(one, pixels)) for pixels in (exact, wide[:, 8:24])]
    assert len(kept) == 2


def test_photos_stand_upright_and_grey_ones_have_three_channels(photos: Path) -> None:
    upright = np.zeros((32, 32, 3), dtype=np.uint8)
    upright[:8] = 255
    turned = Image.fromarray(np.rot90(upright).copy())
    shutil.rmtree(photos / "circle")
    (photos / "circle").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(photos / "circle" / "0.png", exif=exif)
    Image.new("L", (20, 20), 77).save(photos / "circle" / "1.png")
    found = read(photos, test_fraction=0.5)
    first, second = sorted(
        (split.images()[0] for split in (found.train, found.test)), key=lambda one: one.float().std()
    )
    assert set(first.flatten().tolist()) == {77}
    assert (second[:, :4] > 200).all()
    assert (second[:, 4:] < 50).all()


def test_damaged_exif_is_told_as_the_images_fault(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise struct.error("required argument is not an integer")

    # as Pillow raises it of some damaged headers, which it writes anew
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    text = message(photos)
    assert "30 of 30 images can't be read" in text
    assert "circle/000.jpg: its EXIF data are damaged" in text


def test_without_a_size_images_must_be_squares_of_one(photos: Path) -> None:
    assert "dataset.size: is missing, and the images aren't squares of one size: circle/" in message(photos, size=None)
    for path in photos.rglob("*.*"):
        Image.new("RGB", (24, 24)).save(path)
    assert read(photos, size=None).size == 24


def test_the_normalisation_is_that_of_the_training_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(photos)
    pixels = found.train.images().double() / 255
    mean, std = normalisation_of(found)
    assert mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=6e-5)
    assert std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist(), abs=6e-5)
    # read on demand, and then kept
    monkeypatch.setattr(contents, "MOST_KEPT", 0)
    assert normalisation_of(read(photos)) == (mean, std)
    monkeypatch.setattr(FolderSplit, "images", lambda *_: pytest.fail("an image was read"))
    assert normalisation_of(read(photos)) == (mean, std)


# Identity, and what is kept.


def test_the_digest_is_of_contents_not_of_path_name_or_time(photos: Path) -> None:
    before = read(photos).digest
    shutil.copytree(photos, photos.with_name("moved"))
    for path in sorted((photos.with_name("moved")).rglob("*.*")):
        os.utime(path, (0, 0))
        path.rename(path.with_name(f"a{path.name}"))
    assert read(photos.with_name("moved")).digest == before
    (photos / "circle").rename(photos / "ball")
    assert read(photos).digest != before


def test_a_file_rewritten_in_place_with_its_size_is_seen(photos: Path) -> None:
    path = photos / "cross" / "001.png"
    Image.new("RGB", (20, 20), (1, 2, 3)).save(path, compress_level=0)
    settle(photos)
    before, found = read(photos), path.stat()
    Image.new("RGB", (20, 20), (3, 2, 1)).save(path, compress_level=0)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert read(photos).digest != before.digest


def test_images_are_decoded_once_and_kept(photos: Path, monkeypatch: pytest.MonkeyPatch, bare_home: Path) -> None:
    first = read(photos)
    assert isinstance(first.train, TensorSplit)
    with monkeypatch.context() as patch:
        patch.setattr(contents, "open_image", lambda *_, **__: pytest.fail("an image was decoded"))
        assert torch.equal(read(photos).train.images(), first.train.images())
    (kept,) = bare_home.rglob(contents.PIXELS)
    kept.chmod(0o644)
    damaged = bytearray(kept.read_bytes())
    damaged[5] ^= 255
    kept.write_bytes(bytes(damaged))
    assert torch.equal(read(photos).train.images(), first.train.images())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"root": "ROOT", "files": {"circle/000.jpg": {"stamp": [0]}}}'])
def test_a_damaged_record_of_contents_is_made_again(photos: Path, bare_home: Path, content: str) -> None:
    settle(photos)
    before = read(photos)
    for record in bare_home.rglob(contents.CONTENTS):
        record.write_text(content.replace("ROOT", str(photos)))
    assert read(photos).digest == before.digest


def test_too_many_images_are_read_on_demand_with_one_digest(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = read(photos)
    monkeypatch.setattr(contents, "MOST_KEPT", 0)
    found = read(photos)
    assert isinstance(found.train, FolderSplit)
    assert found.digest == kept.digest
    assert torch.equal(found.train.images(), kept.train.images())


def test_a_folder_has_no_stand_in(photos: Path) -> None:
    with pytest.raises(DirePlugError, match="folder: how many images it has isn't known"):
        stand_in(DatasetSource("folder", str(photos)))


# What is wrong with a folder: what, where, what to do.


def spoil_empty(root: Path) -> None:
    shutil.rmtree(root / "cross")
    (root / "cross").mkdir()


def spoil_one_class(root: Path) -> None:
    for name in SHAPES[1:]:
        shutil.rmtree(root / name)


def spoil_flat(root: Path) -> None:
    for name in SHAPES:
        shutil.rmtree(root / name)
    Image.new("RGB", (8, 8)).save(root / "a.png")


def spoil_outer(root: Path) -> None:
    inner = root / "photos"
    inner.mkdir()
    for name in SHAPES:
        (root / name).rename(inner / name)


def spoil_nested(root: Path) -> None:
    shutil.copytree(root / "circle", root / "cross" / "2024")


def spoil_tests(root: Path) -> None:
    for split in ("train", "test"):
        for name in SHAPES:
            shutil.copytree(root / name, root / split / name)
    for name in SHAPES:
        shutil.rmtree(root / name)
    (root / "test" / "cross").rename(root / "test" / "Cross")


def spoil_valid(root: Path) -> None:
    spoil_tests(root)
    (root / "test").rename(root / "valid")


def save_deep(root: Path) -> None:
    Image.fromarray(np.full((8, 8), 300, dtype=np.uint16)).save(root / "cross" / "001.png")


PROBLEMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "dataset.path: ROOT: no such folder. A relative path starts from the working folder"),
    "empty class": (spoil_empty, "ROOT/cross: holds no image; known are .jpeg, .jpg, .png, .webp"),
    "one class": (spoil_one_class, "ROOT: holds one class folder, 'circle'; two classes at least are needed"),
    "no class": (spoil_flat, "Its images lie in it directly: sort them into one folder a class"),
    "a folder around": (spoil_outer, "Did you mean ROOT/photos, which holds folders itself?"),
    "nested": (spoil_nested, "ROOT/cross: holds the folder '2024'; images lie in the class folder itself"),
    "other test classes": (spoil_tests, "ROOT/test: lacks 'cross', which train/ has; each class needs test images"),
    "another split": (spoil_valid, "ROOT: holds train/ and valid/; test images lie in test/ or val/"),
    "not UTF-8": (lambda root: (root / "cr\udcffss").mkdir(), r"ROOT: the name 'cr\udcffss' isn't UTF-8; rename it"),
    "no image": (
        lambda root: (root / "cross" / "001.png").write_text("hello"),
        "cross/001.png: its content is none of",
    ),
    "truncated": (
        lambda root: (root / "cross" / "001.png").write_bytes((root / "circle" / "001.png").read_bytes()[:-40]),
        "ROOT: 1 of 30 images can't be read:\n  cross/001.png: ",
    ),
    "16 bits": (save_deep, "cross/001.png: its grey levels have more than 8 bits (Pillow's mode I;16); save it with 8"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_fault_is_told_with_its_place(photos: Path, name: str) -> None:
    spoil, words = PROBLEMS[name]
    spoil(photos)
    assert words.replace("ROOT", str(photos)) in message(photos)


def test_all_unreadable_images_are_counted_at_once(photos: Path) -> None:
    for path in (photos / "cross").iterdir():
        path.write_bytes(b"")
    text = message(photos)
    assert "10 of 30 images can't be read:" in text
    assert text.count("its content is none of") == 5
    assert text.endswith("Remove them, or save them again as JPEG or PNG")


def test_a_path_is_needed_and_an_unknown_name_that_is_a_folder_is_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DirePlugError, match=r"dataset\.path: is missing: where are the images\?"):
        load(DatasetSource("folder"), root=photos)
    monkeypatch.chdir(photos.parent)
    with pytest.raises(DirePlugError, match=r"'photos' is unknown \(did you mean the folder \./photos\?\); .* folder$"):
        class_count("photos")


def test_what_may_be_used_with_care_is_said(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cross" / "a.heic").write_bytes(b"")
    Image.new("RGBA", (20, 20)).save(photos / "cross" / "b.png")
    for split in ("train", "test"):
        for name in SHAPES:
            shutil.copytree(photos / name, photos / split / name)
    for name in SHAPES:
        shutil.rmtree(photos / name)
    read(photos)
    told = capsys.readouterr().err
    assert f"{photos / 'train'}: ignored files, since only .jpeg, .jpg, .png, .webp are read: 1 of .heic" in told
    assert f"{photos}: 2 images have an alpha channel, which is dropped" in told
    assert "warning: " in told
    assert "31 training images are test images too, byte for byte, such as train/circle/000.jpg" in told
