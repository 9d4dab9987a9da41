"""EDM through coresets: centres, sums, gradients, and the error that a run records."""

from pathlib import Path

import pytest
import torch
from support.cli import Cli
from support.reference_loss import draw, real_of
from support.small_run import only_run
from torch import Tensor

from dire_plug.api.term import prepare_real
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.regularizers import diversity_loss
from dire_plug.regularizers.diversity import compare_coreset
from dire_plug.stages.embed import choose_centres
from dire_plug.types import Coreset, RealEmbeddings

LABELS = torch.tensor([1, 0, 1, 0, 1])


def with_coreset(real: RealEmbeddings, k: int) -> RealEmbeddings:
    return RealEmbeddings(real.values, real.labels, Coreset(**choose_centres(real.values, real.labels, k)))


def edm(rows: Tensor, real: RealEmbeddings, variant: str = "released") -> Tensor:
    return diversity_loss(rows, LABELS, real, variant=variant, components=("edm",), r_e=1, multiplier=1)  # type: ignore[arg-type]


def test_centres_are_means_of_clusters_with_their_counts_and_variances() -> None:
    values = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 4.0], [5.0, 5.0]])
    found = choose_centres(values, torch.tensor([0, 0, 0, 0, 1]), 2)
    order = found["centres"][:2, 0].argsort()
    assert found["centres"][:2][order].tolist() == [[0, 1], [10, 2]]
    assert found["weights"][:2][order].tolist() == [2, 2]
    assert found["variances"][:2][order].tolist() == [1, 4]
    assert (found["labels"].tolist(), found["variances"][2].item()) == ([0, 0, 1], 0)


def test_as_many_centres_as_rows_are_the_rows() -> None:
    real = real_of({0: 4, 1: 3}, 5)
    found = choose_centres(real.values, real.labels, 9)
    assert found["weights"].tolist() == [1] * 7
    assert found["variances"].tolist() == [0] * 7
    assert sorted(found["centres"].tolist()) == sorted(real.values.tolist())


def test_equal_rows_make_one_centre() -> None:
    found = choose_centres(torch.ones(6, 3), torch.zeros(6, dtype=torch.int64), 4)
    assert (found["weights"].tolist(), found["centres"].tolist()) == ([6], [[1, 1, 1]])


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_a_coreset_of_all_rows_gives_the_exact_term_and_gradient(variant: str) -> None:
    real = real_of({0: 4, 1: 6}, 5)
    leaf = draw(5, 5).requires_grad_()
    exact, found = edm(leaf, real, variant), edm(leaf, with_coreset(real, 9), variant)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(value, leaf)[0] for value in (exact, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)


def test_its_gradient_equals_finite_differences() -> None:
    real = with_coreset(real_of({0: 40, 1: 30}, 5), 3)
    assert torch.autograd.gradcheck(lambda rows: edm(rows, real), draw(5, 5).requires_grad_())


def test_a_row_on_a_centre_has_a_finite_gradient() -> None:
    real = with_coreset(real_of({0: 3, 1: 3}, 4), 5)
    leaf = real.values[[3, 0, 4, 1, 5]].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(edm(leaf, real), leaf)
    assert gradient.isfinite().all()


def test_few_centres_with_their_variance_are_near_the_exact_sum() -> None:
    real = real_of({0: 400, 1: 300}, 32)
    error, cosine = compare_coreset(draw(5, 32), LABELS, prepare_real(with_coreset(real, 8)), paired=True)
    assert error < 0.02
    assert cosine > 0.97


def test_a_class_without_a_centre_is_named() -> None:
    real = real_of({0: 3, 1: 3}, 4)
    found = choose_centres(real.values[:3], real.labels[:3], 2)
    with pytest.raises(DirePlugError, match=r"real\.coreset: no centre of class 1"):
        edm(draw(5, 4), RealEmbeddings(real.values, real.labels, Coreset(**found)))


def test_a_run_says_how_far_its_coreset_is_from_the_exact_term(cli: Cli, home: Path, recipe: Path) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--dire", "--set", "real.coreset=2")
    answer = cli(*line)
    assert answer.code == 0
    assert "EDM by a coreset of 2 a class: off by " in answer.err
    curves = read_json(only_run(home) / "losses.json")["slots"][0]["values"]
    assert curves["dire/edm error"][0] > 0
    assert curves["dire/edm gradient"][-1] < 1
    assert curves["dire/edm error"][1] is None
