"""Files that are written row by row: those of safetensors, whole or absent, in any order."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dire_plug.stages.row_file import stream_rows


def write(path: Path, values: Tensor, places: Tensor, *, batch: int = 4, **beside: Tensor) -> None:
    write_parts(path, torch.split(values, batch), places, **beside)


def write_parts(path: Path, parts: Iterable[Tensor], places: Tensor, **beside: Tensor) -> None:
    with stream_rows(path, places, beside=beside) as add:
        for part in parts:
            add(part)


@pytest.mark.parametrize("width", [1, 3, 2048])
def test_the_file_is_that_of_the_library_byte_by_byte(tmp_path: Path, width: int) -> None:
    values = torch.randn(11, width, generator=torch.Generator().manual_seed(0))
    # as a coreset has them: names of both types on both sides of `values`
    beside = {"labels": torch.arange(11), "coreset.weights": torch.ones(3), "variances": torch.rand(2), "a": labels()}
    write_parts(tmp_path / "rows", torch.split(values, 4), torch.arange(11), **beside)
    assert (tmp_path / "rows").read_bytes() == save({"values": values, **beside})


def labels() -> Tensor:
    return torch.tensor([3, 1, 2])


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_rows_come_in_any_order_and_lie_in_their_places(tmp_path: Path, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values, places = torch.randn(40, 5, generator=generator), torch.randperm(40, generator=generator)
    write(tmp_path / "rows", values, places, batch=batch, labels=labels())
    expected = torch.empty_like(values)
    expected[places] = values
    assert (tmp_path / "rows").read_bytes() == save({"values": expected, "labels": labels()})


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_images_of_uint8_are_kept_as_they_are(tmp_path: Path, batch: int) -> None:
    images = torch.randint(0, 256, (11, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with stream_rows(tmp_path / "rows", torch.arange(11), beside={"labels": labels()}, dtype=torch.uint8) as add:
        for part in torch.split(images, batch):
            add(part)
    assert (tmp_path / "rows").read_bytes() == save({"values": images, "labels": labels()})


def test_rows_of_half_precision_become_float32(tmp_path: Path) -> None:
    write(tmp_path / "rows", torch.rand(3, 2).half().double(), torch.arange(3))
    assert load_file(tmp_path / "rows")["values"].dtype == torch.float32


def test_a_block_that_fails_leaves_the_previous_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("previous")

    def stopped() -> Iterator[Tensor]:
        yield torch.ones(4, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_parts(tmp_path / "rows", stopped(), torch.arange(9))
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    assert (tmp_path / "rows").read_text() == "previous"
