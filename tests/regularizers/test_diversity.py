"""DiRe's term against torchmetrics, an obvious loop in float64, and finite differences."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from support.reference_loss import ALL, assert_same, both, draw, loop, real_of
from torch import Tensor
from torchmetrics.functional.pairwise import pairwise_cosine_similarity, pairwise_euclidean_distance

from dire_plug.api.term import MemoryBank, prepare_real
from dire_plug.errors import DirePlugError
from dire_plug.regularizers import diversity_loss
from dire_plug.types import RealEmbeddings


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
def test_coinciding_zero_and_equal_rows_are_finite_and_exact(variant: str, dtype: torch.dtype) -> None:
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


def test_the_order_within_a_class_matters_and_that_of_classes_does_not() -> None:
    real, labels = real_of({0: 5, 1: 5}, 6), torch.tensor([0, 0, 1, 1])
    rows = draw(4, 6)
    value = diversity_loss(rows, labels, real)
    interleaved, swapped = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 0, 2, 3])
    torch.testing.assert_close(diversity_loss(rows[interleaved], labels[interleaved], real), value, rtol=1e-13, atol=0)
    assert diversity_loss(rows[swapped], labels, real) != value


def test_a_relative_r_e_by_hand() -> None:
    real = RealEmbeddings(torch.tensor([[0.0, 3.0], [3.0, 4.0], [0.0, 7.0]]), torch.tensor([0, 1, 1]))
    rows, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([0])
    kinds: dict[str, Any] = {"variant": "paper", "components": ("edm",), "r_e": 2.0}
    assert diversity_loss(rows, labels, real, **kinds).item() == pytest.approx(2 * 5)
    # Norms 3, 5 and 7: their mean counts class 1 too, which the batch lacks.
    assert diversity_loss(rows, labels, real, r_e_relative=True, **kinds).item() == pytest.approx(2 * 5 / 5)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(
    ("variant", "reduction", "multiplier"), [("released", "sum", 0.1), ("paper", "sum", 1.0), ("paper", "mean", 1.0)]
)
def test_a_relative_r_e_equals_the_loop_with_r_e_over_the_mean_norm(
    variant: str, reduction: str, multiplier: float, nonnegative: bool
) -> None:
    real = real_of({0: 3, 1: 6, 2: 4}, 5, positive=nonnegative)
    rows, labels = draw(4, 5).abs() if nonnegative else draw(4, 5), torch.tensor([2, 0, 2, 2])
    unit = float(real.values.norm(dim=1).mean())
    choice = {"variant": variant, "reduction": reduction}
    found = both(diversity_loss, rows, labels, real, r_e=0.3, r_e_relative=True, nonnegative=nonnegative, **choice)
    assert_same(found, both(loop, rows, labels, real, r_e=0.3 / unit, multiplier=multiplier, **choice))


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_scaling_both_sides_changes_neither_the_cosines_nor_a_relative_edm(variant: str) -> None:
    real, rows, labels = real_of({0: 5, 1: 7}, 6), draw(5, 6), torch.tensor([0, 1, 1, 0, 1])
    scaled = RealEmbeddings(3.7 * real.values, real.labels)
    for choice in ({"components": ("cd", "cdm")}, {"components": ("edm",), "r_e_relative": True}):
        value, gradient = both(diversity_loss, rows, labels, real, variant=variant, **choice)
        found = both(diversity_loss, 3.7 * rows, labels, scaled, variant=variant, **choice)
        assert_same(found, (value, gradient / 3.7))
    plain = [diversity_loss(rows, labels, real, components=("edm",), variant=variant)]  # type: ignore[arg-type]
    plain += [diversity_loss(3.7 * rows, labels, scaled, components=("edm",), variant=variant)]  # type: ignore[arg-type]
    torch.testing.assert_close(plain[1], 3.7 * plain[0])


def test_r_e_is_not_relative_unless_asked() -> None:
    real, rows, labels = real_of({0: 5}, 6), draw(2, 6), torch.tensor([0, 0])
    default = diversity_loss(rows, labels, real)
    torch.testing.assert_close(default, released_by_torchmetrics(rows, labels, real), rtol=1e-12, atol=0)
    assert default == diversity_loss(rows, labels, real, r_e_relative=False)
    assert default != diversity_loss(rows, labels, real, r_e_relative=True)


def test_no_rows_cost_nothing_and_keep_the_graph() -> None:
    leaf = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    value = diversity_loss(leaf, torch.zeros(0, dtype=torch.int64), real_of({0: 3}, 5))
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, leaf)
    assert gradient.shape == (0, 5)


def test_half_precision_embeddings_are_computed_in_the_real_ones_dtype() -> None:
    real = real_of({0: 6}, 5)
    real = RealEmbeddings(real.values.float(), real.labels)
    rows, labels = draw(3, 5).half(), torch.zeros(3, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = both(diversity_loss, rows, labels, real)
    assert value == diversity_loss(rows.float(), labels, real)
    assert gradient.dtype == torch.float16


def test_at_the_cosines_kink_the_nonnegative_sides_derivative_is_taken() -> None:
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
        ({"embeddings": torch.zeros(3, 5, device="meta")}, "embeddings are on meta, the real ones on cpu"),
        (
            {"real": RealEmbeddings(torch.zeros(2, 5), torch.tensor([0, 1])), "r_e_relative": True},
            "r_e_relative: the mean norm of the real embeddings is 0",
        ),
        ({"real": RealEmbeddings(draw(2, 5), torch.tensor([1, 0]))}, "labels don't ascend"),
        ({"real": RealEmbeddings(draw(0, 5), torch.tensor([]))}, "M ≥ 1"),
        ({"real": RealEmbeddings(torch.ones(1, 5, dtype=torch.int64), torch.tensor([0]))}, "floating point is needed"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"embeddings": draw(3, 5), "labels": torch.tensor([0, 0, 1]), "real": real_of({0: 3, 1: 2}, 5), **change}
    with pytest.raises(DirePlugError, match=message):
        diversity_loss(**given)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, dire_plug.regularizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import dire_plug.regularizers as package

    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = package.nothing_of_this_name
    assert math.isfinite(package.diversity_loss(draw(1, 5), torch.tensor([0]), real_of({0: 2}, 5)))
