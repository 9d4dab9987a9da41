"""EDM's sum of distances, and its gradient."""

from typing import Any

import pytest
import torch
from support.reference_loss import assert_same, both, distance, draw, real_of

from dire_plug.api.real_embeddings import extend_real
from dire_plug.errors import DirePlugError
from dire_plug.regularizers import diversity_loss
from dire_plug.regularizers.distance import sum_distances
from dire_plug.types import RealEmbeddings

INDEX = torch.tensor([[0, 1, 2], [3, 4, 4]])
PRESENT = torch.tensor([[True, True, True], [True, True, False]])


def pairs(rows: torch.Tensor, values: torch.Tensor, *, paired: bool) -> torch.Tensor:
    """The sums of two classes, one with three and one with two real rows, pair by pair."""
    sums = []
    for made, index, present in zip(rows, INDEX, PRESENT, strict=True):
        reals = [(j, values[k]) for j, k in enumerate(index.tolist()) if present[j]]
        kept = [distance(x, r) for i, x in enumerate(made) for j, r in reals if not (paired and i == j)]
        sums.append(torch.stack(kept).sum())
    return torch.stack(sums)


@pytest.mark.parametrize("paired", [False, True])
def test_sums_and_gradients_equal_those_pair_by_pair(paired: bool) -> None:
    values, means, leaf = draw(5, 6), draw(2, 6, seed=1), draw(2, 4, 6, seed=2).requires_grad_()
    real = extend_real(values, INDEX, PRESENT, means=means)
    excluded = ~PRESENT.unsqueeze(1).expand(2, 4, 3)
    found = sum_distances(leaf - means.unsqueeze(1), real, excluded=excluded, paired=paired)
    expected = pairs(leaf, values, paired=paired)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    weights = torch.tensor([2.0, 3.0], dtype=torch.float64)
    gradients = [torch.autograd.grad(sums, leaf, weights)[0] for sums in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def test_real_rows_are_extended_by_squared_norm_and_one_and_padded() -> None:
    values = torch.tensor([[1.0, 2.0], [5.0, 7.0], [0.0, 3.0]])
    index, present = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[True, True], [True, False]])
    extended = extend_real(values, index, present, means=torch.tensor([[2.0, 3.0], [0.0, 1.0]]))
    assert extended.tolist() == [[[-1, -1, pytest.approx(2), 1], [3, 4, 25, 1]], [[0, 2, 4, 1], [0, 0, 0, 0]]]


def test_float32_keeps_digits_far_from_the_origin_and_near_real_rows() -> None:
    real = real_of({0: 40}, 32, positive=True)
    values = (real.values + 200).float()
    rows = values[:6] + 1e-3 * draw(6, 32).float()
    labels = torch.zeros(6, dtype=torch.int64)
    choice: dict[str, Any] = {"components": ("edm",), "r_e": 1.0, "multiplier": 1.0, "variant": "paper"}
    found = both(diversity_loss, rows, labels, RealEmbeddings(values, real.labels), **choice)
    exact = both(diversity_loss, rows.double(), labels, RealEmbeddings(values.double(), real.labels), **choice)
    assert_same((found[0].double(), found[1].double()), exact, 1e-4)


def test_a_second_derivative_is_refused() -> None:
    leaf = draw(2, 5).requires_grad_()
    value = diversity_loss(leaf, torch.tensor([0, 0]), real_of({0: 3}, 5))
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(DirePlugError, match="edm: a second derivative"):
        torch.autograd.grad(gradient.sum(), leaf)
