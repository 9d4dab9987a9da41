"""Real embeddings, prepared once and arranged for each batch."""

import pytest
import torch
from support.reference_loss import draw, real_of

from dire_plug.api.term import prepare_real
from dire_plug.regularizers import diversity_loss
from dire_plug.types import RealEmbeddings


def test_prepared_real_embeddings_serve_changing_labels() -> None:
    real = real_of({0: 3, 1: 5, 2: 4}, 6)
    prepared, labels = prepare_real(real), torch.tensor([0, 0, 2])
    rows = draw(3, 6)
    assert diversity_loss(rows, labels, prepared) == diversity_loss(rows, labels, real)
    labels.copy_(torch.tensor([1, 2, 1]))
    assert diversity_loss(rows, labels, prepared) == diversity_loss(rows, labels, real)
    for choice in ({"variant": "paper"}, {"components": ("cd",)}, {}):
        assert diversity_loss(rows, labels, prepared, **choice) == diversity_loss(rows, labels, real, **choice)


def test_the_arrangement_is_kept_while_the_labels_stay() -> None:
    prepared, labels = prepare_real(real_of({0: 3, 1: 5}, 6)), torch.tensor([0, 1])
    kept = prepared.block(labels, paired=True, distances=True)
    assert prepared.block(labels.clone(), paired=True, distances=True) is kept
    assert prepared.block(torch.tensor([1, 0]), paired=True, distances=True) is not kept


def test_preparing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, labels, rows = real_of({0: 9, 1: 6}, 6), torch.tensor([0, 1, 1]), draw(3, 6)
    value = diversity_loss(rows, labels, real)
    monkeypatch.setattr("dire_plug.api.real_embeddings.CHUNK", 4)
    torch.testing.assert_close(diversity_loss(rows, labels, real), value, rtol=1e-13, atol=0)


def test_the_mean_norm_is_that_of_all_rows_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -6.0], [8.0, 6.0], [0.0, 1.0]])
    real = RealEmbeddings(values, torch.tensor([0, 0, 0, 1, 1]))
    assert prepare_real(real).mean_norm == pytest.approx((5 + 0 + 6 + 10 + 1) / 5)
    monkeypatch.setattr("dire_plug.api.real_embeddings.CHUNK", 3)
    assert prepare_real(real).mean_norm == pytest.approx((5 + 0 + 6 + 10 + 1) / 5)
