"""Reading ahead: what is loaded when, in which order, and what happens to errors."""

import threading
from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from dire_plug.data.dataset import TensorSplit
from dire_plug.data.folders import list_images, make_folder_split
from dire_plug.data.reading import load_ahead, read_batches
from dire_plug.devices import count_cores

CPU = torch.device("cpu")


def test_results_come_in_order_whatever_the_look_ahead() -> None:
    for ahead in (0, 1, 5, 100):
        assert list(load_ahead(lambda one: one * one, range(10), ahead=ahead)) == [one * one for one in range(10)]


def test_items_are_loaded_in_another_thread_and_taken_in_this_one() -> None:
    took, loaded = set[int](), set[int]()

    def items() -> Iterator[int]:
        for one in range(4):
            took.add(threading.get_ident())
            yield one

    def load(one: int) -> int:
        loaded.add(threading.get_ident())
        return one

    assert list(load_ahead(load, items())) == [0, 1, 2, 3]
    assert took == {threading.get_ident()}
    assert len(loaded) == 1
    assert not took & loaded


def test_no_more_items_are_taken_than_the_look_ahead_allows() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for one in range(10):
            taken.append(one)
            yield one

    found = load_ahead(lambda one: one, items(), ahead=2)
    assert next(found) == 0
    assert taken == [0, 1, 2]
    assert next(found) == 1
    assert taken == [0, 1, 2, 3]


def test_the_next_item_is_loaded_before_it_is_asked_for() -> None:
    seen = threading.Event()
    found = load_ahead(lambda one: seen.set() if one == 1 else None, range(2))
    next(found)
    assert seen.wait(timeout=60)


def test_an_error_is_raised_where_its_result_is_due() -> None:
    found = load_ahead(lambda one: 1 // (one - 1), range(3))
    assert next(found) == -1
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    found = load_ahead(lambda one: one, range(100))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_batches_of_files_are_those_that_the_split_gives(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("files")
    (root / "a").mkdir()
    for number in range(7):
        Image.new("RGB", (40, 30), (30 * number, 5, 9)).save(root / "a" / f"{number}.jpg")
    split = make_folder_split(root, list_images(root / "a", 0), size=16)
    order = torch.tensor([6, 2, 0, 1, 5, 4, 3])
    found = list(read_batches(split, torch.split(order, 3), device=CPU))
    assert [len(labels) for _, labels in found] == [3, 3, 1]
    assert torch.equal(torch.cat([images for images, _ in found]), split.images(order))


def test_batches_in_memory_are_read_without_a_thread() -> None:
    split = TensorSplit(torch.arange(12, dtype=torch.uint8).view(4, 3, 1, 1), torch.arange(4))
    before = threading.active_count()
    found = read_batches(split, [torch.tensor([3, 1])], device=CPU)
    images, labels = next(found)
    assert threading.active_count() == before
    assert torch.equal(images, split.pixels[[3, 1]])
    assert labels.tolist() == [3, 1]


def test_at_least_one_core_can_be_used() -> None:
    assert count_cores() >= 1
