"""Scripts that would start processes, or crop to another dataset's size."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.shim_isolation import run_as_upstream, shims_put_back
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from dire_plug.devices import count_cores
from dire_plug.errors import DirePlugError
from dire_plug.upstream import shims

NUMBERS = TensorDataset(torch.arange(6.0))


@pytest.fixture(autouse=True)
def child_only() -> Iterator[None]:
    """Put everything back that a shim replaces."""
    with shims_put_back():
        yield


@pytest.mark.filterwarnings("error")
def test_a_loader_works_in_this_process() -> None:
    shims.install({"loader": {}}, device="cpu")
    options = {"prefetch_factor": 4, "persistent_workers": True, "timeout": 5, "multiprocessing_context": "spawn"}
    loader = DataLoader(NUMBERS, batch_size=4, num_workers=16, pin_memory=True, **options)  # type: ignore[arg-type]
    assert (loader.num_workers, loader.pin_memory, loader.persistent_workers) == (0, False, False)
    assert [batch[0].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5]]
    assert multiprocessing.active_children() == []


class Readers(Dataset[tuple[int, int]]):
    """Eight numbers, each with the thread that read it."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, threading.get_ident()


def read_all() -> tuple[list[list[int]], set[int], torch.Tensor]:
    """Return the batches, the threads that read them, and the random state afterwards."""
    torch.manual_seed(3)
    batches, readers = [], set[int]()
    for numbers, owners in DataLoader(Readers(), batch_size=3, num_workers=2, shuffle=True, prefetch_factor=4):
        batches.append(numbers.tolist())
        readers |= set(owners.tolist())
    return batches, readers, torch.get_rng_state()


def test_threads_change_no_batch_and_no_random_number() -> None:
    shims.install({"loader": {}}, device="cpu")
    batches, readers, state = read_all()
    assert readers == {threading.get_ident()}
    with shims_put_back():
        shims.install({"loader": {"threads": True}}, device="cpu")
        same, others, same_state = read_all()
    assert same == batches
    assert torch.equal(state, same_state)
    assert threading.get_ident() not in others
    assert multiprocessing.active_children() == []


def test_no_more_threads_read_than_there_are_cores() -> None:
    shims.install({"loader": {"threads": True}}, device="cpu")
    dataset: Any = DataLoader(NUMBERS, num_workers=1000).dataset
    assert dataset.threads == count_cores()
    assert DataLoader(NUMBERS).dataset is NUMBERS


def test_a_loader_keeps_every_other_setting() -> None:
    def double(batch: list[tuple[torch.Tensor]]) -> list[float]:
        return [2 * item.item() for (item,) in batch]

    before = list(DataLoader(NUMBERS, 4, True, generator=torch.Generator().manual_seed(3), collate_fn=double))
    shims.install({"loader": {}}, device="cpu")

    class Own(DataLoader[tuple[torch.Tensor, ...]]):
        pass

    generator = torch.Generator().manual_seed(3)
    loader = Own(NUMBERS, 4, True, None, None, 2, double, False, True, generator=generator)
    assert list(loader) == before[:1]
    assert loader.num_workers == 0


def test_a_loader_for_a_cuda_device_may_pin() -> None:
    shims.install({"loader": {}}, device="cuda:0")
    assert DataLoader(NUMBERS, pin_memory=True, num_workers=2).pin_memory is True


DISTRIBUTED = """
import os
import random
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

seen = {}


def work(gpu, count, factor):
    dist.init_process_group(backend="nccl", init_method="tcp://127.0.0.1:10001", world_size=count, rank=gpu)
    torch.cuda.set_device(gpu)
    mine = torch.full((2,), float(factor), device=f"cuda:{gpu}")
    gathered = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    dist.all_reduce(mine)
    seen.update(gathered=gathered, reduced=mine, rank=dist.get_rank(), count=count, pid=os.getpid())


if __name__ == "__main__":
    count = torch.cuda.device_count()
    torch.multiprocessing.set_start_method("spawn")
    mp.spawn(work, nprocs=count, args=(count, 3))
"""


def test_a_distributed_script_runs_as_one_rank_as_often_as_it_is_called(tmp_path: Path) -> None:
    shims.install({"one_process": {}}, device="cpu")  # with `network`, which refuses every connection
    start_method = multiprocessing.get_start_method(allow_none=True)
    for _ in range(2):  # one call for each pass
        seen = run_as_upstream(tmp_path / "script.py", DISTRIBUTED)["seen"]
        assert [tensor.tolist() for tensor in seen["gathered"]] == [[3, 3]]
        assert seen["reduced"].tolist() == [3, 3]
        assert (seen["rank"], seen["count"], seen["pid"]) == (0, 1, os.getpid())
        assert not dist.is_initialized()
    assert multiprocessing.get_start_method(allow_none=True) == start_method


def test_an_error_of_the_script_goes_through_and_leaves_no_group(tmp_path: Path) -> None:
    shims.install({"one_process": {}}, device="cpu")
    with pytest.raises(ZeroDivisionError):
        run_as_upstream(tmp_path / "script.py", DISTRIBUTED.replace("dist.all_reduce(mine)", "1 / 0"))
    assert not dist.is_initialized()


def test_more_than_one_process_is_refused(tmp_path: Path) -> None:
    shims.install({"one_process": {}}, device="cpu")
    with pytest.raises(DirePlugError, match="spawns 2 processes, but it runs in one"):
        run_as_upstream(tmp_path / "script.py", DISTRIBUTED.replace("nprocs=count", "nprocs=2"))


def test_only_upstreams_code_counts_a_device_where_there_is_none() -> None:
    true_count = torch.cuda.device_count()
    shims.install({"one_process": {}}, device="cpu")
    assert torch.cuda.device_count() == 1  # this file stands where upstream's would
    namespace: dict[str, int] = {}
    exec(compile("import torch\ncount = torch.cuda.device_count()", "<elsewhere>", "exec"), namespace)
    assert namespace["count"] == true_count


def test_a_hard_coded_crop_takes_the_datasets_size() -> None:
    shims.install({"crop_size": {"from": 64, "to": 32}}, device="cpu")
    images = torch.zeros(2, 3, 32, 32)
    augment = transforms.Compose(
        [transforms.RandomResizedCrop(64, scale=(0.08, 1.0)), transforms.RandomHorizontalFlip()]
    )
    assert augment(images).shape == images.shape
    assert transforms.RandomResizedCrop((64, 64)).size == (32, 32)
    assert transforms.RandomResizedCrop(size=64, scale=(0.5, 1.0)).scale == (0.5, 1.0)
    crop = transforms.RandomCrop(64, padding=8)
    assert (crop.size, crop.padding) == ((32, 32), 4)
    assert crop(images).shape == images.shape


def test_a_hard_coded_crop_is_what_the_size_itself_would_have_given() -> None:
    images = torch.rand(2, 3, 32, 32)
    wanted = []
    for size in (32, 64):
        torch.manual_seed(5)
        wanted.append(transforms.RandomResizedCrop(size, scale=(0.2, 0.8))(images))
        if size == 32:
            shims.install({"crop_size": {"from": 64, "to": 32}}, device="cpu")
    assert torch.equal(*wanted)


@pytest.mark.parametrize(
    ("padding", "scaled"), [(4, 1), ((4, 8), [1, 2]), ([4, 4, 8, 0], [1, 1, 2, 0]), (1, 1), (None, None), (0, 0)]
)
def test_a_padding_shrinks_with_its_crop(padding: object, scaled: object) -> None:
    shims.install({"crop_size": {"from": 32, "to": 8}}, device="cpu")
    assert transforms.RandomCrop(32, padding).padding == scaled
    assert transforms.RandomCrop(32, padding=padding).padding == scaled


def test_crops_of_other_sizes_stay() -> None:
    shims.install({"crop_size": {"from": 64, "to": 32}}, device="cpu")
    assert transforms.RandomResizedCrop(224).size == (224, 224)
    assert transforms.RandomResizedCrop((64, 48)).size == (64, 48)
    crop = transforms.RandomCrop(28, padding=4, pad_if_needed=True)
    assert (crop.size, crop.padding, crop.pad_if_needed) == ((28, 28), 4, True)
    assert transforms.CenterCrop(64).size == (64, 64)


@pytest.mark.parametrize("options", [{}, {"to": 32}, {"from": 64, "to": 32, "other": 1}])
def test_a_crop_without_both_sizes_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(DirePlugError, match=r"'crop_size' takes the options 'from' .* and 'to'"):
        shims.install({"crop_size": options}, device="cpu")
