"""Rows of embeddings: normalised, grouped by class, padded."""

import pytest
import torch
from support.reference_loss import draw

from dire_plug.api.rows import group_rows, index_runs, unit_rows

LABELS = torch.tensor([7, 2, 7, 7, 4, 2])


def test_rows_are_grouped_by_class_in_the_order_of_the_batch() -> None:
    groups = group_rows(LABELS)
    assert groups.classes.tolist() == [2, 4, 7]
    assert groups.counts.tolist() == [2, 1, 3]
    assert groups.owner.tolist() == [2, 0, 2, 2, 1, 0]
    assert groups.rank.tolist() == [0, 0, 1, 2, 0, 1]
    assert groups.width == 3


def test_padding_puts_each_row_at_its_place_and_zeros_elsewhere() -> None:
    rows = torch.arange(1.0, 7.0).unsqueeze(1)
    assert group_rows(LABELS).pad(rows).squeeze(2).tolist() == [[2, 6, 0], [5, 0, 0], [1, 3, 4]]


def test_rows_are_summed_within_classes() -> None:
    rows = torch.tensor([[1.0, 10], [2, 20], [4, 40], [8, 80], [16, 160], [32, 320]])
    assert group_rows(LABELS).sum_rows(rows).tolist() == [[34, 340], [16, 160], [13, 130]]
    assert group_rows(LABELS).sum_rows(rows[:, 0]).tolist() == [34, 16, 13]


def test_runs_are_indexed_up_to_the_longest_and_the_padding_is_valid_too() -> None:
    index, present = index_runs(torch.tensor([4, 0, 2]), torch.tensor([1, 2, 0]), rows=5, width=2)
    assert index.tolist() == [[4, 4], [0, 1], [2, 3]]
    assert present.tolist() == [[True, False], [True, True], [False, False]]


def test_rows_come_to_length_one_and_a_row_of_zeros_stays_without_gradient() -> None:
    rows = draw(3, 4)
    rows[1] = 0
    leaf = rows.requires_grad_()
    unit = unit_rows(leaf)
    torch.testing.assert_close(unit.norm(dim=1), torch.tensor([1.0, 0, 1], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(unit.sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient.any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("scale", [1e-16, 1e-20, 1e-22, 1e-30, 1e-45])
def test_rows_whose_squares_vanish_in_float32_have_finite_gradients(scale: float) -> None:
    leaf = (scale * draw(2, 4)).float().requires_grad_()
    unit = unit_rows(leaf)
    (gradient,) = torch.autograd.grad((unit * torch.arange(4)).sum(), leaf)
    assert unit.isfinite().all()
    assert gradient.isfinite().all()
