"""Plans: every image of every class exactly once, in upstream's chunks."""

from collections import Counter
from itertools import product

import pytest

from dire_plug.api.plans import ChunkedPlan, build_plan
from dire_plug.errors import DirePlugError
from dire_plug.types import Slot


def positions(plan: ChunkedPlan) -> list[tuple[int, int]]:
    slots = [plan.slot(Slot(*where)) for where in product(range(plan.passes), range(plan.slots_per_pass))]
    return [pair for slot in slots for pair in zip(slot.labels, slot.images, strict=True)]


@pytest.mark.parametrize(
    ("classes", "ipc", "slots", "per_class"),
    [(c, i, s, p) for c, i, s, p in product([1, 3, 10], [1, 7, 10], [1, 2, 3], [1, 3, 4, 20]) if s <= c],
)
def test_every_image_of_every_class_is_held_exactly_once(classes: int, ipc: int, slots: int, per_class: int) -> None:
    plan = build_plan(classes=classes, ipc=ipc, slots_per_pass=slots, per_class=per_class)
    assert Counter(positions(plan)) == Counter(product(range(classes), range(ipc)))


def test_a_kept_plan_is_upstreams_own_batches() -> None:
    plan = build_plan(classes=100, ipc=2, slots_per_pass=4, chunk_size=30)
    assert plan.slot(Slot(1, 0)).labels == tuple(range(30))
    assert plan.slot(Slot(1, 3)).labels == tuple(range(90, 100))
    assert set(plan.slot(Slot(1, 3)).images) == {1}


def test_images_of_a_class_stand_side_by_side() -> None:
    slot = build_plan(classes=2, ipc=6, slots_per_pass=1, per_class=3).slot(Slot(1, 0))
    assert slot.labels == (0, 0, 0, 1, 1, 1)
    assert slot.images == (3, 4, 5, 3, 4, 5)


def test_the_last_pass_holds_what_is_left() -> None:
    plan = build_plan(classes=2, ipc=7, slots_per_pass=1, per_class=3)
    assert plan.passes == 3
    assert plan.slot(Slot(2, 0)).images == (6, 6)


def test_chunks_are_near_equal_where_upstream_splits_more_classes() -> None:
    sizes = [end - first for first, end in build_plan(classes=10, ipc=1, slots_per_pass=6).chunks]
    assert sorted(sizes) == [1, 1, 2, 2, 2, 2]


def test_more_slots_than_classes_are_refused() -> None:
    with pytest.raises(DirePlugError, match="20 batches a pass for 10 classes"):
        build_plan(classes=10, ipc=1, slots_per_pass=20)


@pytest.mark.parametrize("name", ["classes", "ipc", "slots_per_pass", "per_class"])
def test_numbers_below_one_are_refused(name: str) -> None:
    numbers = {"classes": 2, "ipc": 2, "slots_per_pass": 1, "per_class": 1} | {name: 0}
    with pytest.raises(DirePlugError, match="at least 1"):
        build_plan(**numbers)


def test_a_chunk_size_that_gives_another_number_of_slots_is_refused() -> None:
    with pytest.raises(DirePlugError, match="make 4 batches, not 3"):
        build_plan(classes=100, ipc=1, slots_per_pass=3, chunk_size=30)


@pytest.mark.parametrize("slot", [Slot(2, 0), Slot(0, 1), Slot(-1, 0), Slot(0, -1)])
def test_a_slot_that_the_plan_lacks_is_an_error(slot: Slot) -> None:
    with pytest.raises(DirePlugError, match="no batch"):
        build_plan(classes=2, ipc=2, slots_per_pass=1).slot(slot)


def test_the_plans_json_tells_its_kind_and_chunks() -> None:
    content = build_plan(classes=4, ipc=5, slots_per_pass=2, per_class=2).to_json()
    assert content == {
        "kind": "regroup",
        "classes": 4,
        "ipc": 5,
        "per_class": 2,
        "passes": 3,
        "slots_per_pass": 2,
        "chunks": [[0, 2], [2, 4]],
    }
