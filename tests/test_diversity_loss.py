"""DiRe's term against torchmetrics, an obvious loop in float64, and finite differences."""

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.pairwise import pairwise_cosine_similarity, pairwise_euclidean_distance

from dire_plug.errors import DirePlugError
from dire_plug.regularizers import MemoryBank, diversity_loss, prepare_real
from dire_plug.types import RealEmbeddings

ALL = ("cd", "cdm", "edm")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def real_of(counts: dict[int, int], width: int, *, seed: int = 9, positive: bool = False) -> RealEmbeddings:
    values = draw(sum(counts.values()), width, seed=seed)
    labels = torch.cat([torch.full((count,), label) for label, count in counts.items()])
    return RealEmbeddings(values.abs() if positive else values, labels)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """A pair's cosine; 0 without gradient where one is zero."""
    if not a.any() or not b.any():
        return (a * 0).sum()
    return (a @ b) / (a.square().sum().sqrt() * b.square().sum().sqrt())


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a * 0).sum() if torch.equal(a, b) else (a - b).square().sum().sqrt()


def loop(
    embeddings: Tensor,
    labels: Tensor,
    real: RealEmbeddings,
    *,
    variant: str = "released",
    r_c: float = 1.0,
    r_e: float = 0.01,
    multiplier: float = 1.0,
    reduction: str = "sum",
    components: tuple[str, ...] = ALL,
    held: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The definition, pair by pair."""
    total = embeddings.sum() * 0
    for label in torch.unique(labels).tolist():
        made, given = embeddings[labels == label], real.values[real.labels == label]
        finished = held[0][held[1] == label] if held else made[:0]
        released = variant == "released"
        cd, cdm, edm = total * 0, total * 0, total * 0
        for i, x in enumerate(made):
            for j, y in enumerate(made):
                if not (released and i == j):
                    cd = cd + (cosine(x, y).abs() if released else cosine(x, y))
            for b in finished:
                cd = cd + 2 * (cosine(x, b).abs() if released else cosine(x, b))
            for j, r in enumerate(given):
                skipped = released and i == j
                cdm = cdm + (0 if skipped else cosine(x, r))
                edm = edm + (0 if skipped else distance(x, r))
        means = released or reduction == "mean"
        squares = len(made) * (len(made) + len(finished)) if means else 1
        pairs = len(made) * len(given) if means else 1
        parts = {"cd": r_c * cd / squares, "cdm": r_c * (1 - cdm / pairs), "edm": r_e * edm / pairs}
        total = total + sum(parts[name] for name in components)
    return multiplier * total


def both(function: Callable[..., Tensor], embeddings: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    leaf = embeddings.clone().requires_grad_()
    value = function(leaf, *args, **kwargs)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float = 1e-9) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def released_by_torchmetrics(embeddings: Tensor, labels: Tensor, real: RealEmbeddings) -> Tensor:
    total = embeddings.new_zeros(())
    for label in range(int(labels.max()) + 1):
        made, given = embeddings[labels == label], real.values[real.labels == label]
        spread = pairwise_cosine_similarity(made, zero_diagonal=True).abs().mean()
        directions = (1 - pairwise_cosine_similarity(made, given, zero_diagonal=True)).abs().mean()
        total = total + spread + directions + 0.01 * pairwise_euclidean_distance(made, given, zero_diagonal=True).mean()
    return 0.1 * total


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(("n", "m"), [(4, 9), (1, 6), (6, 3)])
def test_the_released_variant_equals_the_release_in_value_and_gradient(n: int, m: int, nonnegative: bool) -> None:
    real = real_of(dict.fromkeys(range(5), m), 24, positive=nonnegative)
    embeddings = draw(5 * n, 24).abs() if nonnegative else draw(5 * n, 24)
    labels = torch.arange(5).repeat_interleave(n)
    found = both(diversity_loss, embeddings, labels, real, nonnegative=nonnegative)
    assert_same(found, both(released_by_torchmetrics, embeddings, labels, real))


@pytest.mark.parametrize("components", [ALL, ("cd",), ("cdm",), ("edm",), ("edm", "cd")])
@pytest.mark.parametrize(
    ("variant", "reduction", "multiplier"), [("released", "sum", 0.1), ("paper", "sum", 1.0), ("paper", "mean", 1.0)]
)
def test_ragged_shuffled_classes_equal_the_loop(
    variant: str, reduction: str, multiplier: float, components: tuple[str, ...]
) -> None:
    real = real_of({0: 3, 2: 7, 3: 1, 8: 5}, 6)
    labels = torch.tensor([8, 2, 2, 0, 3, 8, 2, 0, 2])
    choice = {"variant": variant, "reduction": reduction, "components": components, "r_c": 0.7, "r_e": 0.3}
    embeddings = draw(len(labels), 6)
    found = both(diversity_loss, embeddings, labels, real, **choice)
    assert_same(found, both(loop, embeddings, labels, real, multiplier=multiplier, **choice))


def test_the_printed_sums_of_two_rows_by_hand() -> None:
    real = RealEmbeddings(torch.tensor([[0.0, 2.0]]), torch.tensor([0]))
    rows, labels = torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0])
    kinds: dict[str, Any] = {"variant": "paper", "r_c": 1, "r_e": 1}
    assert diversity_loss(rows, labels, real, components=("cd",), **kinds).item() == pytest.approx(2)
    assert diversity_loss(rows, labels, real, components=("cdm",), **kinds).item() == pytest.approx(1 - 1)
    assert diversity_loss(rows, labels, real, components=("edm",), **kinds).item() == pytest.approx(5**0.5 + 3)


def test_the_released_means_of_two_rows_by_hand() -> None:
    real = RealEmbeddings(torch.tensor([[0.0, 2.0]]), torch.tensor([0]))
    rows, labels = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 0])
    kinds: dict[str, Any] = {"r_c": 1, "r_e": 1, "multiplier": 1}
    assert diversity_loss(rows, labels, real, components=("cd",), **kinds).item() == pytest.approx(2 * 0.6 / 4)
    assert diversity_loss(rows, labels, real, components=("cdm",), **kinds).item() == pytest.approx((1 + 0.2) / 2)
    assert diversity_loss(rows, labels, real, components=("edm",), **kinds).item() == pytest.approx(13**0.5 / 2)


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_gradients_equal_finite_differences(variant: str) -> None:
    real, labels = real_of({0: 4, 1: 6}, 5), torch.tensor([1, 0, 1, 0, 1])
    leaf = draw(5, 5).requires_grad_()
    bank = MemoryBank()
    bank.add(draw(3, 5, seed=4), torch.tensor([0, 1, 1]))
    prepared = prepare_real(real)

    def function(rows: Tensor) -> Tensor:
        return diversity_loss(rows, labels, prepared, variant=variant, r_e=0.5, multiplier=2, bank=bank)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(function, (leaf,))


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_at_distance_zero_zero_rows_and_equal_rows_are_finite_and_exact(variant: str, dtype: torch.dtype) -> None:
    real = real_of({0: 4, 1: 3}, 5)
    real.values[2] = 0
    real.values[5] = real.values[4]
    rows = draw(8, 5)
    rows[0], rows[1], rows[2], rows[3] = real.values[3], 0, real.values[1], real.values[1]
    rows[4] = real.values[5]
    rows, real = rows.to(dtype), RealEmbeddings(real.values.to(dtype), real.labels)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    found = both(diversity_loss, rows, labels, real, variant=variant, r_e=1.0, multiplier=1.0)
    slow = both(
        loop,
        rows.double(),
        labels,
        RealEmbeddings(real.values.double(), real.labels),
        variant=variant,
        r_e=1.0,
    )
    assert found[0].isfinite()
    assert found[1].isfinite().all()
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    assert_same((found[0].double(), found[1].double()), slow, tolerance)


def test_the_cosines_of_a_zero_row_have_no_gradient() -> None:
    real, rows = real_of({0: 4}, 5), draw(3, 5)
    rows[1] = 0
    _, gradient = both(diversity_loss, rows, torch.zeros(3, dtype=torch.int64), real, components=("cd", "cdm"))
    assert not gradient[1].any()
    assert gradient[0].any()


def test_a_class_of_one_image_has_no_cosine_diversity() -> None:
    real = real_of({0: 4, 1: 4}, 5)
    value, gradient = both(diversity_loss, draw(2, 5), torch.tensor([0, 1]), real, components=("cd",))
    assert value == 0
    assert not gradient.any()


def test_float32_keeps_its_digits_far_from_the_origin_and_near_the_real_rows() -> None:
    real = real_of({0: 40}, 32, positive=True)
    values = (real.values + 200).float()
    rows = values[:6] + 1e-3 * draw(6, 32).float()
    labels = torch.zeros(6, dtype=torch.int64)
    choice: dict[str, Any] = {"components": ("edm",), "r_e": 1.0, "multiplier": 1.0, "variant": "paper"}
    found = both(diversity_loss, rows, labels, RealEmbeddings(values, real.labels), **choice)
    exact = both(diversity_loss, rows.double(), labels, RealEmbeddings(values.double(), real.labels), **choice)
    assert_same((found[0].double(), found[1].double()), exact, 1e-4)


def test_the_order_of_classes_in_the_batch_does_not_matter_but_that_within_a_class_does() -> None:
    real, labels = real_of({0: 5, 1: 5}, 6), torch.tensor([0, 0, 1, 1])
    rows = draw(4, 6)
    value = diversity_loss(rows, labels, real)
    interleaved, swapped = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 0, 2, 3])
    torch.testing.assert_close(diversity_loss(rows[interleaved], labels[interleaved], real), value, rtol=1e-13, atol=0)
    assert diversity_loss(rows[swapped], labels, real) != value


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
    monkeypatch.setattr("dire_plug.regularizers.diversity._ROWS", 4)
    torch.testing.assert_close(diversity_loss(rows, labels, real), value, rtol=1e-13, atol=0)


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


def test_no_rows_cost_nothing_and_keep_the_graph() -> None:
    leaf = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    value = diversity_loss(leaf, torch.zeros(0, dtype=torch.int64), real_of({0: 3}, 5))
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, leaf)
    assert gradient.shape == (0, 5)


def test_half_precision_embeddings_are_computed_in_the_dtype_of_the_real_ones() -> None:
    real = real_of({0: 6}, 5)
    real = RealEmbeddings(real.values.float(), real.labels)
    rows, labels = draw(3, 5).half(), torch.zeros(3, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = both(diversity_loss, rows, labels, real)
    assert value == diversity_loss(rows.float(), labels, real)
    assert gradient.dtype == torch.float16


def test_a_second_derivative_is_refused() -> None:
    leaf = draw(2, 5).requires_grad_()
    value = diversity_loss(leaf, torch.tensor([0, 0]), real_of({0: 3}, 5))
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(DirePlugError, match="edm: a second derivative"):
        torch.autograd.grad(gradient.sum(), leaf)


def test_at_the_kink_of_the_cosine_the_collapse_takes_the_derivative_of_the_nonnegative_side() -> None:
    rows, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0, 0])
    real = RealEmbeddings(torch.ones(1, 2, dtype=torch.float64), torch.tensor([0]))
    choice: dict[str, Any] = {"components": ("cd",), "multiplier": 1.0}
    _, signed = both(diversity_loss, rows, labels, real, **choice)
    _, collapsed = both(diversity_loss, rows, labels, real, nonnegative=True, **choice)
    assert not signed.any()
    assert collapsed.tolist() == [[0, 0.5], [0.5, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 4, 5])}, "no real embeddings of class 4, 5"),
        ({"labels": torch.tensor([0, 0])}, "don't fit"),
        ({"embeddings": torch.zeros(3, 4, dtype=torch.float64)}, "embeddings have 4 values, the real ones 5"),
        ({"variant": "realeased"}, r"variant: 'realeased' is none of .*did you mean 'released'"),
        ({"reduction": "average"}, "reduction: 'average'"),
        ({"components": ("cd", "edn")}, r"components: 'edn' .*did you mean 'edm'"),
        ({"components": ()}, "components: none is named"),
        ({"real": RealEmbeddings(draw(2, 5), torch.tensor([1, 0]))}, "labels don't ascend"),
        ({"real": RealEmbeddings(draw(0, 5), torch.tensor([]))}, "M ≥ 1"),
        ({"real": RealEmbeddings(torch.ones(1, 5, dtype=torch.int64), torch.tensor([0]))}, "floating point is needed"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"embeddings": draw(3, 5), "labels": torch.tensor([0, 0, 1]), "real": real_of({0: 3, 1: 2}, 5), **change}
    with pytest.raises(DirePlugError, match=message):
        diversity_loss(**given)


def test_a_bank_refuses_what_does_not_fit() -> None:
    bank = MemoryBank()
    with pytest.raises(DirePlugError, match="don't fit"):
        bank.add(draw(2, 5), torch.tensor([0]))
    bank.add(draw(2, 5), torch.tensor([0, 1]))
    with pytest.raises(DirePlugError, match="width 5, not 4"):
        bank.add(draw(2, 4), torch.tensor([0, 1]))
    with pytest.raises(DirePlugError, match="width 5, the batch's have 4"):
        diversity_loss(draw(1, 4), torch.tensor([0]), real_of({0: 2}, 4), bank=bank)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, dire_plug.regularizers, dire_plug.regularizers.dire; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import dire_plug.regularizers as package

    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = package.nothing_of_this_name
    assert math.isfinite(package.diversity_loss(draw(1, 5), torch.tensor([0]), real_of({0: 2}, 5)))
