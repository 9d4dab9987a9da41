"""Rows by class in padded blocks, and the metrics that are computed block by block, against one class after another."""

import pytest
import torch
from torch import Tensor

from dire_plug.metrics import (
    class_radii,
    coverage,
    intra_class_similarity,
    mean_class_vendi,
    nearest_radii,
    per_class_coverage,
    vendi,
)
from dire_plug.metrics.classes import Classes

CPU = torch.device("cpu")


def test_members_are_the_rows_of_each_class_in_their_order() -> None:
    classes = Classes.of(torch.tensor([7, 2, 7, 7, 2, 5]))
    assert classes.labels.tolist() == [2, 5, 7]
    assert classes.members(torch.tensor([2, 0, 1]), CPU).tolist() == [[0, 2, 3], [1, 4, -1], [5, -1, -1]]


def test_ranks_count_the_rows_of_the_class_before() -> None:
    assert Classes.of(torch.tensor([7, 2, 7, 7, 2, 5])).ranks().tolist() == [0, 0, 1, 2, 1, 0]


def test_classes_without_a_row_have_none_among_others() -> None:
    classes = Classes.of(torch.tensor([7, 2, 7])).among(torch.tensor([2, 5, 7]))
    assert classes.counts.tolist() == [1, 0, 2]
    assert classes.members(torch.tensor([1, 2]), CPU).tolist() == [[-1, -1], [0, 2]]


@pytest.mark.parametrize("most", [1, 10, 1000])
def test_blocks_hold_every_class_once_and_no_more_than_they_may(most: int) -> None:
    classes = Classes.of(torch.arange(9).repeat_interleave(torch.tensor([4, 1, 3, 9, 2, 2, 6, 1, 5])))
    blocks = list(classes.blocks(lambda count: 2 * count, most))
    assert sorted(torch.cat(blocks).tolist()) == list(range(9))
    for block in blocks:
        assert len(block) == 1 or 2 * int(classes.counts[block].max()) * len(block) <= most


@pytest.fixture(scope="module")
def uneven() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """More rows than one block takes, of 60 classes far apart, one of them of many rows; shuffled."""
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(60, 256, generator=generator)
    sets: list[Tensor] = []
    for counts in (torch.arange(20, 80), torch.arange(60) % 7):
        counts[3] = 300
        labels = torch.arange(60).repeat_interleave(counts)
        labels = labels[torch.randperm(len(labels), generator=generator)]
        sets += [centres[labels] + torch.randn(len(labels), 256, generator=generator), labels]
    return sets[0], sets[1], sets[2], sets[3]


def test_class_radii_are_those_of_one_class_after_another(uneven: tuple[Tensor, ...]) -> None:
    real, labels, _, _ = uneven
    found = class_radii(real, labels)
    for label in range(60):
        assert torch.equal(found[labels == label], nearest_radii(real[labels == label]))


def test_class_coverage_is_that_of_one_class_after_another(uneven: tuple[Tensor, ...]) -> None:
    real, labels, made, made_labels = uneven
    shares = [
        coverage(real[labels == label], made[made_labels == label]) if (made_labels == label).any() else 0.0
        for label in range(60)
    ]
    assert 0 < sum(shares) < 60
    assert per_class_coverage(real, labels, made, made_labels) == pytest.approx(sum(shares) / 60, abs=1e-15)


def test_class_vendi_is_that_of_one_class_after_another(uneven: tuple[Tensor, ...]) -> None:
    _, _, made, labels = uneven
    scores = [vendi(made[labels == label]) for label in torch.unique(labels).tolist()]
    assert mean_class_vendi(made, labels) == pytest.approx(sum(scores) / len(scores), rel=1e-13)


def test_similarity_is_that_of_one_class_after_another(uneven: tuple[Tensor, ...]) -> None:
    real, labels, _, _ = uneven
    each = [intra_class_similarity(real[labels == label], labels[labels == label]) for label in range(60)]
    torch.testing.assert_close(intra_class_similarity(real, labels), torch.cat(each), rtol=1e-12, atol=0)
