"""The bank: what it holds, and what CD makes of it."""

import pytest
import torch
from support.reference_loss import assert_same, both, draw, loop, real_of

from dire_plug.api.term import MemoryBank, prepare_real
from dire_plug.errors import DirePlugError
from dire_plug.regularizers import diversity_loss


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(("variant", "reduction"), [("released", "sum"), ("paper", "sum"), ("paper", "mean")])
def test_with_a_bank_the_loss_equals_the_loop(variant: str, reduction: str, nonnegative: bool) -> None:
    real, labels = real_of({0: 4, 1: 6, 2: 3}, 5, positive=nonnegative), torch.tensor([1, 0, 2, 1])
    held = draw(5, 5, seed=3), torch.tensor([1, 0, 1, 1, 7])
    rows = draw(4, 5)
    if nonnegative:
        held, rows = (held[0].abs(), held[1]), rows.abs()
    bank = MemoryBank()
    bank.add(held[0][:2], held[1][:2])
    bank.add(held[0][2:], held[1][2:])
    choice = {"variant": variant, "reduction": reduction}
    found = both(diversity_loss, rows, labels, real, bank=bank, multiplier=1.0, nonnegative=nonnegative, **choice)
    assert_same(found, both(loop, rows, labels, real, held=held, **choice))


def test_a_banks_pairs_give_an_image_the_gradient_that_it_has_in_one_batch() -> None:
    real, rows, labels = real_of({0: 6}, 5), draw(4, 5), torch.zeros(4, dtype=torch.int64)
    bank = MemoryBank()
    bank.add(rows[:3], labels[:3])
    choice = {"components": ("cd",), "variant": "released"}
    _, grouped = both(diversity_loss, rows, labels, real, **choice)
    _, alone = both(diversity_loss, rows[3:], labels[3:], real, bank=bank, **choice)
    # CDM and EDM of one image alone are divided by n = 1 instead of 4; CD must scale with them.
    torch.testing.assert_close(alone[0], 4 * grouped[3], rtol=1e-12, atol=1e-15)
    _, single = both(diversity_loss, rows[3:], labels[3:], real, bank=bank, bank_weight=1.0, **choice)
    torch.testing.assert_close(single[0], 2 * grouped[3], rtol=1e-12, atol=1e-15)


def test_an_empty_bank_changes_nothing() -> None:
    real, rows, labels = real_of({0: 6}, 5), draw(3, 5), torch.zeros(3, dtype=torch.int64)
    assert diversity_loss(rows, labels, real, bank=MemoryBank()) == diversity_loss(rows, labels, real)


def test_a_restored_bank_is_the_one_that_was_kept() -> None:
    bank = MemoryBank()
    assert bank.tensors() == {}
    assert len(MemoryBank.restore({})) == 0
    rows = draw(3, 5).requires_grad_()
    bank.add(rows, torch.tensor([2, 0, 2]))
    kept = bank.tensors()
    assert not kept["embeddings"].requires_grad
    again = MemoryBank.restore(kept)
    assert len(again) == 3
    assert again.tensors()["embeddings"] is kept["embeddings"]
    real, labels, batch = real_of({0: 4, 2: 4}, 5), torch.tensor([2, 0]), draw(2, 5, seed=1)
    assert diversity_loss(batch, labels, real, bank=again) == diversity_loss(batch, labels, real, bank=bank)
    again.add(rows, torch.tensor([2, 0, 2]))
    assert len(again) == 6
    assert len(bank) == 3


def test_an_image_added_to_the_bank_is_seen_by_the_next_step() -> None:
    prepared, labels, rows = prepare_real(real_of({0: 4}, 5)), torch.zeros(2, dtype=torch.int64), draw(2, 5)
    bank = MemoryBank()
    bank.add(draw(1, 5, seed=5), torch.tensor([0]))
    before = diversity_loss(rows, labels, prepared, bank=bank)
    bank.add(draw(1, 5, seed=6), torch.tensor([0]))
    assert diversity_loss(rows, labels, prepared, bank=bank) != before


def test_a_bank_refuses_what_does_not_fit() -> None:
    bank = MemoryBank()
    with pytest.raises(DirePlugError, match="don't fit"):
        bank.add(draw(2, 5), torch.tensor([0]))
    bank.add(draw(2, 5), torch.tensor([0, 1]))
    with pytest.raises(DirePlugError, match="width 5, not 4"):
        bank.add(draw(2, 4), torch.tensor([0, 1]))
    with pytest.raises(DirePlugError, match="width 5, the batch's have 4"):
        diversity_loss(draw(1, 4), torch.tensor([0]), real_of({0: 2}, 4), bank=bank)


def test_a_bank_serves_batches_of_other_classes() -> None:
    prepared, rows = prepare_real(real_of({0: 4, 1: 3, 2: 5}, 5)), draw(2, 5)
    held = draw(4, 5, seed=5), torch.tensor([0, 1, 1, 2])
    bank = MemoryBank()
    bank.add(*held)
    for labels in (torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([1, 1])):
        fresh = MemoryBank()
        fresh.add(*held)
        found = diversity_loss(rows, labels, prepared, bank=bank)
        assert found == diversity_loss(rows, labels, prepared, bank=fresh)
