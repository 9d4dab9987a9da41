"""Datasets in folders of image files: both layouts, damage, on demand; and what is here."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dire_plug.data import Dataset, find_all, imagenet, load, names, tiny_imagenet
from dire_plug.errors import DirePlugError
from dire_plug.image_files import decode

WNIDS = ("n01", "n02")


def write_image(path: Path, grey: int, *, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def write_train(folder: Path, *, inner: str, count: int = 3) -> None:
    for label, wnid in enumerate(WNIDS):
        for index in range(count):
            write_image(folder / "train" / wnid / inner / f"{wnid}_{index}.JPEG", 100 * label + 10 * index)


def write_val_as_published(folder: Path) -> None:
    lines = []
    for index in range(4):
        # Class by class is not the order of the names here.
        write_image(folder / "val" / "images" / f"val_{index}.JPEG", 50 * index)
        lines.append(f"val_{index}.JPEG\t{WNIDS[(index + 1) % 2]}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def write_val_sorted(folder: Path, *, inner: str) -> None:
    for index in range(4):
        write_image(folder / "val" / WNIDS[(index + 1) % 2] / inner / f"val_{index}.JPEG", 50 * index)


def read_tiny(folder: Path, *, size: int | None = None, limit: int | None = None) -> Dataset:
    return tiny_imagenet.read(folder, size=size, limit=limit, expected=2)


@pytest.mark.parametrize("inner", ["images", ""])
def test_both_layouts_of_tiny_imagenet_give_the_same_images(tmp_path: Path, inner: str) -> None:
    published, sorted_ = tmp_path / "published", tmp_path / "sorted"
    write_train(published, inner="images")
    write_val_as_published(published)
    write_train(sorted_, inner=inner)
    write_val_sorted(sorted_, inner=inner)
    first, second = read_tiny(published), read_tiny(sorted_)
    assert first.classes == WNIDS
    assert first.test.labels.tolist() == [0, 0, 1, 1]
    assert first.test.images()[:, 0, 0, 0].tolist() == [50, 150, 0, 100]
    assert first.train.images()[:, 0, 0, 0].tolist() == [0, 10, 20, 100, 110, 120]
    assert first.digest == second.digest


def test_tiny_imagenet_is_limited_and_resized(tmp_path: Path) -> None:
    write_train(tmp_path, inner="images")
    write_val_as_published(tmp_path)
    found = read_tiny(tmp_path, size=32, limit=4)
    assert found.size == 32
    assert found.train.images()[:, 0, 0, 0].tolist() == [0, 10, 100, 110]
    assert found.test.images().shape == (4, 3, 32, 32)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    write_train(tmp_path, inner="images")
    write_val_as_published(tmp_path)
    path = tmp_path / "train" / "n02" / "images" / "n02_1.JPEG"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DirePlugError, match=r"n02_1.JPEG: the image cannot be decoded"):
        read_tiny(tmp_path)


def write_blank_png(path: Path, width: int, height: int) -> None:
    """Write the head of a PNG of that many pixels, and none of them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_png_that_is_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("subprocess.check_call", lambda *command, **options: started.append(command))
    monkeypatch.setattr("subprocess.Popen", lambda *command, **options: started.append(command))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    path = tmp_path / "0.png"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with pytest.raises(
        DirePlugError, match=r"0\.png: the image cannot be decoded: its content is none of JPEG, PNG, WEBP"
    ):
        decode(path)
    assert started == []


@pytest.mark.parametrize("name", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused_whatever_the_name_says(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png", format=name)
    with pytest.raises(DirePlugError, match="its content is none of JPEG, PNG, WEBP"):
        decode(tmp_path / "0.png")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_the_format_is_that_of_the_content(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "0.png", format=name)
    assert decode(tmp_path / "0.png").getpixel((4, 4)) == (9, 9, 9)


def test_sixteen_bits_of_grey_are_refused_instead_of_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 300, dtype=np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(DirePlugError, match=r"0\.png: .*its grey levels have more than 8 bits .*; save it with 8"):
        decode(tmp_path / "0.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (60_000, 60_000, "more than 89,478,485 pixels"),
        (10_000, 10_000, "more than 89,478,485 pixels"),
        (0, 0, "its content is none of"),
    ],
)
def test_images_of_too_many_pixels_or_none_are_refused(tmp_path: Path, width: int, height: int, message: str) -> None:
    write_blank_png(tmp_path / "0.png", width, height)
    with pytest.raises(DirePlugError, match=rf"0\.png: the image cannot be decoded: {message}"):
        decode(tmp_path / "0.png")


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    write_train(tmp_path, inner="images")
    write_val_as_published(tmp_path)
    write_image(tmp_path / "train" / "n01" / "images" / "n01_0.JPEG", 0, size=(32, 64))
    with pytest.raises(DirePlugError, match=r"n01_0.JPEG: the image is 32×64, expected 64×64"):
        read_tiny(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_train(tmp_path, inner="images")
    write_val_as_published(tmp_path)
    for path in (tmp_path / "train" / "n01" / "images").iterdir():
        path.unlink()
    with pytest.raises(DirePlugError, match="n01/images: the class folder holds no image"):
        read_tiny(tmp_path)


def test_a_set_with_missing_classes_is_refused(tmp_path: Path) -> None:
    write_train(tmp_path / "tiny-imagenet-200", inner="images")
    write_val_as_published(tmp_path / "tiny-imagenet-200")
    with pytest.raises(DirePlugError, match="holds 2 class folders, expected 200"):
        load("tiny-imagenet", root=tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("n02", "n09"), "line 1: names no class"),
        (lambda text: text.replace("val_2", "val_7"), "says nothing of val_2.JPEG"),
        (lambda text: text + "val_8.JPEG\tn01\n", "val_8.JPEG is missing"),
    ],
)
def test_wrong_annotations_of_tiny_imagenet_are_refused(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    write_train(tmp_path, inner="images")
    write_val_as_published(tmp_path)
    path = tmp_path / "val" / "val_annotations.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(DirePlugError, match=words):
        read_tiny(tmp_path)


def test_imagenet_is_read_on_demand_resized_and_cropped(tmp_path: Path) -> None:
    write_train(tmp_path, inner="")
    write_val_sorted(tmp_path, inner="")
    columns = np.tile(np.arange(300, dtype=np.uint8)[None, :, None] // 2, (256, 1, 3))
    Image.fromarray(columns).save(tmp_path / "train" / "n01" / "a.png")
    found = imagenet.read(tmp_path, size=None, limit=4, expected=2)
    images = found.train.images(torch.tensor([0, 3]))
    assert images.shape == (2, 3, 224, 224)
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    # The shorter side is 256 already: what is left is the central 224 of 256 × 300.
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), columns[16:240, 38:262])


def test_the_digest_of_files_on_demand_follows_names_and_sizes(tmp_path: Path) -> None:
    write_train(tmp_path / "a", inner="")
    write_val_sorted(tmp_path / "a", inner="")
    (tmp_path / "a").rename(tmp_path / "b")
    write_train(tmp_path / "a", inner="")
    write_val_sorted(tmp_path / "a", inner="")

    def digest_of(name: str, size: int | None = None) -> str:
        return imagenet.read(tmp_path / name, size=size, limit=None, expected=2).digest

    before = digest_of("a")
    assert before == digest_of("b")
    assert before != digest_of("a", 128)
    path = tmp_path / "a" / "val" / "n01" / "val_1.JPEG"
    path.write_bytes(path.read_bytes() + b"\0")
    assert before != digest_of("a")


def test_unsorted_validation_images_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write_train(tmp_path, inner="")
    write_image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", 0)
    with pytest.raises(DirePlugError, match=r"1 images lie here unsorted\. Sort them into one folder per class"):
        imagenet.read(tmp_path, size=None, limit=None, expected=2)


def test_every_dataset_is_looked_for_without_reading_it(tmp_path: Path) -> None:
    write_train(tmp_path / "tiny-imagenet-200", inner="images")
    (tmp_path / "tiny-imagenet-200" / "val").mkdir()
    found = {spec.name: folder for spec, folder in find_all(tmp_path)}
    assert tuple(found) == names()
    assert found["digits"] is not None
    assert found["tiny-imagenet"] == tmp_path / "tiny-imagenet-200"
    assert found["cifar-100"] is None
