"""Condensed sets from anywhere: whatever lies in a file or a folder is measured, or refused with a message."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.fuzzing import check_foreseen, damage, scalars, tries
from torch import Tensor

# torch warns once a process of what it is about to drop, and then no more: the examples would not repeat
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

DTYPES = [
    torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool,
    torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip
SHAPES = [
    (10, 3, 8, 8), (20, 3, 8, 8), (10, 1, 8, 8), (10, 8, 8, 3), (10, 3, 0, 0), (10, 3, 4, 8), (0, 3, 8, 8), (10,),
    (), (1, 10, 3, 8, 8), (10, 4, 8, 8), (10, 3, 1, 1), (3, 8, 8),
]  # fmt: skip
MODES = ["L", "RGB", "RGBA", "P", "1", "I;16", "I", "F", "CMYK", "LA", "YCbCr"]
FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "EPS", "PPM", "ICO"]
few = st.integers(0, 3)


@pytest.fixture(scope="module", autouse=True)
def networks(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the tiny recipe's networks be there."""
    home = shutil.copytree(finished, tmp_path_factory.mktemp("sets") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(home))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sets."""
    return tmp_path_factory.mktemp("set")


def measured(path: Path, recipe: Path, data: st.DataObject) -> None:
    more = data.draw(st.sampled_from([[], [], ["--resize"], ["--space", "pixels"], ["--ipc", "1"], ["--ipc", "2"]]))
    check_foreseen("measure", str(path), "--real", "digits", "--recipe", str(recipe), *more)


def drawn_tensor(data: st.DataObject, shape: tuple[int, ...]) -> Any:
    dtype = data.draw(st.sampled_from(DTYPES))
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    kind = data.draw(
        st.sampled_from(["plain"] * 6 + ["nan", "large", "sparse", "meta", "expanded", "quantized", "other"])
    )
    if kind == "other":
        return data.draw(st.one_of(scalars, st.lists(scalars, max_size=3)))
    if kind == "quantized":
        return torch.quantize_per_tensor(values, 0.1, 0, torch.quint8)
    if kind == "nan":
        values = values / 0 * 0
    if kind == "large":
        values = values * 1e30
    made = values.to(dtype) if dtype != torch.uint8 else (values.clamp(0, 1).nan_to_num() * 255).to(dtype)
    if kind == "expanded" and made.ndim and len(made):
        made = made[:1].expand(data.draw(st.sampled_from([10, 10_000_000])), *made.shape[1:])
    if kind == "sparse" and made.ndim:
        # torch has none of some types
        with suppress(NotImplementedError):
            return made.to_sparse()
    return made.to("meta") if kind == "meta" else made


def drawn_labels(data: st.DataObject, count: int) -> Any:
    kind = data.draw(st.sampled_from(["right"] * 5 + ["other", "long", "negative", "float", "square"]))
    if kind == "other":
        return drawn_tensor(data, data.draw(st.sampled_from(SHAPES)))
    labels = torch.arange(max(count, 1) + (kind == "long")) % 10
    return {"negative": labels - 1, "float": labels / 2, "square": labels[:, None]}.get(kind, labels)


@tries(1500)
@given(data=st.data())
def test_a_file_of_tensors_is_measured_or_refused(folder: Path, recipe: Path, data: st.DataObject) -> None:
    shape = data.draw(st.one_of(st.just((10, 3, 8, 8)), st.sampled_from(SHAPES)))
    images: Any = drawn_tensor(data, shape)
    labels: Any = drawn_labels(data, shape[0] if shape else 0)
    content: dict[str, Any] = {data.draw(st.sampled_from(["images"] * 4 + ["x", "data", "pictures"])): images}
    if data.draw(st.sampled_from([True] * 4 + [False])):
        content["labels"] = labels
    suffix = data.draw(st.sampled_from([".pt", ".pth", ".npz", ".safetensors"]))
    path = folder / f"set{suffix}"
    if not suffix.startswith(".pt"):
        # only torch.save writes of an expanded tensor no more than it holds
        large = {key for key, one in content.items() if isinstance(one, Tensor) and one.numel() > 1e6}
        content = {key: one[:20] if key in large else one for key, one in content.items()}
    try:
        if suffix == ".npz":
            arrays = {key: value.numpy() if isinstance(value, Tensor) else value for key, value in content.items()}
            np.savez(path, **arrays, allow_pickle=True)
        elif suffix == ".safetensors":
            safetensors.torch.save_file({key: value.contiguous() for key, value in content.items()}, path)
        else:
            pair: Any = (images, labels)
            torch.save(data.draw(st.sampled_from([content, content, pair, [pair], {"data": [pair]}, images])), path)
    except Exception:
        # no file can hold it
        path.write_bytes(data.draw(st.binary(max_size=60)))
    if data.draw(few) == 0 and path.stat().st_size < 1_000_000:
        path.write_bytes(damage(data.draw, path.read_bytes()))
    measured(path, recipe, data)


@tries(500)
@given(data=st.data())
def test_a_tree_of_images_is_measured_or_refused(folder: Path, recipe: Path, data: st.DataObject) -> None:
    root = folder / "tree"
    shutil.rmtree(root, ignore_errors=True)
    count = data.draw(st.sampled_from([10, 10, 10, 9, 0, 11]))
    odd = data.draw(st.integers(0, 9))
    for label in range(count):
        inner = root / data.draw(st.sampled_from([f"{label:05d}"] * 20 + [str(label), "x", "images", f".{label}"]))
        inner.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(np.full((8, 8, 3), label * 20, np.uint8))
        if label != odd:
            pixels.save(inner / "0.png")
            continue
        size = data.draw(st.sampled_from([(8, 8)] * 4 + [(1, 1), (9, 8), (300, 2)]))
        file = inner / data.draw(st.sampled_from(["0.png", "0.PNG", "0.jpg", "0.jpeg", "0.webp", "0.txt", "0"]))
        try:
            image = pixels.resize(size).convert(data.draw(st.sampled_from(MODES)))
            image.save(file, format=data.draw(st.sampled_from(FORMATS)))
        except (OSError, ValueError, KeyError):
            file.write_bytes(data.draw(st.binary(max_size=60)))
        if data.draw(few) == 0:
            file.write_bytes(damage(data.draw, file.read_bytes()))
    root.mkdir(exist_ok=True)
    measured(root, recipe, data)
