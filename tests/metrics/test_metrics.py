"""The diversity metrics against published packages, values derived by hand, and their own slow forms."""

import importlib
import math
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.paths import ROOT
from torch import Tensor
from torchmetrics.functional.pairwise import pairwise_cosine_similarity

from dire_plug.errors import DirePlugError
from dire_plug.metrics import (
    Diversity,
    Neighbourhoods,
    Prdc,
    class_radii,
    coverage,
    diversity,
    expected_coverage,
    intra_class_similarity,
    mean_class_vendi,
    nearest_radii,
    per_class_coverage,
    prdc_metrics,
    real_reference,
    vendi,
)


def draw(*shape: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.fixture
def line() -> Tensor:
    """Five points on a line; distances to the nearest other: 1, 1, 2, 3, 3; to the second: 3, 2, 3, 5, 6."""
    return torch.tensor([[0.0], [1.0], [3.0], [6.0], [9.0]], dtype=torch.float64)


@pytest.mark.parametrize("nearest_k", [1, 3, 5])
@pytest.mark.parametrize(("count", "made", "width"), [(60, 25, 4), (80, 20, 16)])
def test_coverage_equals_prdc(
    count: int, made: int, width: int, nearest_k: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from prdc import compute_prdc

    real, synthetic = draw(count, width), draw(made, width, seed=1, shift=0.5)
    expected = compute_prdc(real.numpy(), synthetic.numpy(), nearest_k)["coverage"]
    capsys.readouterr()
    assert 0 < expected < 1
    assert coverage(real, synthetic, nearest_k=nearest_k) == pytest.approx(expected, abs=1e-15)


def test_radii_equal_those_of_prdc() -> None:
    from prdc.prdc import compute_nearest_neighbour_distances

    real = draw(50, 8, shift=3)
    expected = torch.from_numpy(compute_nearest_neighbour_distances(real.numpy(), 5))
    torch.testing.assert_close(nearest_radii(real, nearest_k=5), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("nearest_k", "expected"), [(1, [1, 1, 2, 3, 3]), (2, [3, 2, 3, 3, 6])])
def test_radii_on_a_line_are_those_counted_by_hand(line: Tensor, nearest_k: int, expected: list[float]) -> None:
    assert nearest_radii(line, nearest_k=nearest_k).tolist() == pytest.approx(expected)


def test_a_synthetic_point_on_the_edge_of_a_ball_does_not_cover_it(line: Tensor) -> None:
    edge, inside = torch.tensor([[6.0 + 3.0]]), torch.tensor([[6.0 + 2.5]])
    alone = line[:4]
    radii = nearest_radii(alone, nearest_k=1)
    assert coverage(alone, edge.double(), nearest_k=1, radii=radii) == 0
    assert coverage(alone, inside.double(), nearest_k=1, radii=radii) == 0.25


def test_coverage_counts_the_balls_that_hold_a_point(line: Tensor) -> None:
    assert coverage(line, torch.tensor([[0.5]], dtype=torch.float64), nearest_k=1) == pytest.approx(2 / 5)


def test_blocks_do_not_change_the_radii_nor_the_coverage() -> None:
    real, synthetic = draw(37, 5), draw(11, 5, seed=1)
    torch.testing.assert_close(nearest_radii(real, block=4), nearest_radii(real, block=1000), rtol=1e-13, atol=0)
    assert coverage(real, synthetic, block=3) == coverage(real, synthetic, block=1000)


def test_radii_survive_a_mean_far_from_zero_in_float32() -> None:
    real = draw(40, 6)
    shifted = nearest_radii((real + 300).float())
    torch.testing.assert_close(shifted.double(), nearest_radii((real + 300).float().double()), rtol=1e-4, atol=0)


def test_kept_radii_give_the_same_coverage() -> None:
    real, synthetic = draw(30, 4), draw(9, 4, seed=1)
    assert coverage(real, synthetic, radii=nearest_radii(real)) == coverage(real, synthetic)


def test_per_class_coverage_is_the_mean_of_coverages_within_classes() -> None:
    real, real_labels = draw(40, 3), torch.arange(40) % 2
    synthetic, labels = draw(12, 3, seed=1), torch.arange(12) % 2
    each = [coverage(real[real_labels == c], synthetic[labels == c]) for c in (0, 1)]
    found = per_class_coverage(real, real_labels, synthetic, labels)
    assert found == pytest.approx(sum(each) / 2)
    assert found != coverage(real, synthetic)
    radii = class_radii(real, real_labels)
    assert per_class_coverage(real, real_labels, synthetic, labels, radii=radii) == found


def test_a_class_without_synthetic_images_is_not_covered() -> None:
    real, real_labels = draw(20, 3), torch.arange(20) % 2
    made = real[real_labels == 0]
    assert per_class_coverage(real, real_labels, made, torch.zeros(10, dtype=torch.int64)) == 0.5


def brute_force(real: Tensor, made: Tensor, nearest_k: int) -> tuple[Tensor, Prdc]:
    """Return the radii and the metrics, pair by pair from differences in float64."""
    real, made = real.double(), made.double()
    apart = (real[:, None] - made[None]).square().sum(2).sqrt()
    radii, own = (
        (rows[:, None] - rows[None]).square().sum(2).sqrt().fill_diagonal_(math.inf).kthvalue(nearest_k, 1).values
        for rows in (real, made)
    )
    held, within = apart < radii[:, None], apart < own
    shares = (held.any(0), within.any(1), held.sum(0).double() / nearest_k, held.any(1))
    return radii, Prdc(*(float(share.double().mean()) for share in shares))


def assert_same(found: Prdc, expected: Prdc | dict[str, float]) -> None:
    wanted = expected if isinstance(expected, dict) else vars(expected)
    assert vars(found) == pytest.approx(dict(wanted), abs=1e-12)


@pytest.mark.parametrize("nearest_k", [1, 3, 5])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_all_four_equal_prdc(spread: float, nearest_k: int, capsys: pytest.CaptureFixture[str]) -> None:
    from prdc import compute_prdc

    real, made = draw(150, 6), spread * draw(90, 6, seed=1)
    expected = compute_prdc(real.numpy(), made.numpy(), nearest_k)
    capsys.readouterr()
    assert min(expected.values()) > 0
    assert_same(prdc_metrics(real, made, nearest_k=nearest_k), expected)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_all_four_equal_prdc_where_many_distances_are_equal(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    from prdc import compute_prdc

    real, made = (2 * draw(120, width)).round(), (2 * draw(80, width, seed=1)).round()
    expected = compute_prdc(real.numpy(), made.numpy(), 3)
    capsys.readouterr()
    assert_same(prdc_metrics(real, made, nearest_k=3), expected)


def farther(rows: Tensor) -> Tensor:
    return torch.cat([rows[:1] * 1e6, rows[1:]])


SETS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "float32": lambda: (draw(90, 5).float(), draw(40, 5, seed=1).float()),
    "float16": lambda: (draw(90, 5).half(), draw(40, 5, seed=1).half()),
    "two types": lambda: (draw(90, 5).float(), draw(40, 5, seed=1)),
    "a mean far away": lambda: ((draw(90, 5) + 300).float(), (draw(40, 5, seed=1) + 300).float()),
    "outliers": lambda: (farther(draw(90, 5)), farther(draw(40, 5, seed=1))),
    "tiny": lambda: (1e-30 * draw(90, 5), 1e-30 * draw(40, 5, seed=1)),
    "huge": lambda: (1e30 * draw(90, 5), 1e30 * draw(40, 5, seed=1)),
    "synthetic rows that are real ones": lambda: (draw(90, 5), draw(90, 5)[:40]),
    "real rows several times": lambda: (draw(9, 5).repeat(10, 1), draw(40, 5, seed=1)),
    "real rows twice": lambda: (draw(45, 5).repeat(2, 1), draw(40, 5, seed=1)),
    "all synthetic rows equal": lambda: (draw(90, 5), draw(1, 5, seed=1).repeat(40, 1)),
    "synthetic rows in the middle": lambda: (draw(90, 5), 0.01 * draw(40, 5, seed=1)),
    "synthetic rows far apart": lambda: (draw(90, 5), 9 * draw(40, 5, seed=1)),
    "all real rows equal": lambda: (torch.ones(90, 5), torch.ones(40, 5)),
    "equally far from many": lambda: (torch.cat([torch.zeros(30, 40), torch.eye(40)]), torch.eye(40)[:20]),
}


@pytest.mark.parametrize("name", SETS)
def test_radii_and_metrics_are_those_of_exact_distances_for(name: str) -> None:
    real, made = SETS[name]()
    radii, expected = brute_force(real, made, 4)
    assert torch.equal(nearest_radii(real, nearest_k=4), radii)
    assert_same(prdc_metrics(real, made, nearest_k=4), expected)
    assert_same(prdc_metrics(real, made, nearest_k=4, radii=radii, block=7), expected)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_of_less_precision_leave_the_results_exact(precision: str) -> None:
    real, made = draw(90, 5).float(), draw(40, 5, seed=1).float()
    radii, expected = brute_force(real, made, 3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(nearest_radii(real, nearest_k=3), radii)
        assert_same(prdc_metrics(real, made, nearest_k=3), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_bounds_hold_the_distances_between_them() -> None:
    from dire_plug.metrics.distances import lower_bounds, prepare

    rows, made = prepare(draw(50, 300), draw(30, 300, seed=1))
    low = lower_bounds(rows, slice(None), made)[0].double() / rows.scale**2
    high = low + (rows.width[0, :, None] + made.width).double() / rows.scale**2
    exact = (draw(50, 300)[:, None] - draw(30, 300, seed=1)[None]).square().sum(2)
    assert bool((low < exact).all())
    assert bool((exact < high).all())
    assert float((high / low).max()) < 1.001


def test_the_benchmark_times_two_sides_that_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("metrics")
    for case in benchmark.cases(100):
        theirs, ours = case.theirs(), case.ours()
        assert theirs.keys() == ours.keys()
        assert dict(ours) == pytest.approx(dict(theirs), rel=1e-12), case.name
    row = benchmark.report(benchmark.Case("equal", lambda: {"a": 2.0}, lambda: {"a": 3.0}), rounds=2)
    assert row.split()[:2] == ["equal", "5.0e-01"]


def test_recall_is_undefined_where_too_few_synthetic_rows_have_a_radius() -> None:
    real, made = draw(40, 4), draw(4, 4, seed=1)
    found = prdc_metrics(real, made, nearest_k=4)
    assert math.isnan(found.recall)
    assert found.coverage == coverage(real, made, nearest_k=4)
    assert not math.isnan(prdc_metrics(real, made, nearest_k=3).recall)


@pytest.mark.parametrize(("count", "width"), [(12, 30), (30, 12), (20, 20)])
def test_vendi_equals_vendi_score(count: int, width: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vendi_score import vendi as package
    features = draw(count, width)
    assert vendi(features) == pytest.approx(package.score_dual(features.numpy()), rel=1e-10)
    unit = torch.nn.functional.normalize(features).numpy()
    weights = np.linalg.eigvalsh(unit @ unit.T / count)
    weights = weights[weights > 1e-15]
    assert vendi(features) == pytest.approx(float(np.exp(-(weights * np.log(weights)).sum())), rel=1e-10)


def test_equal_images_count_as_one_and_orthogonal_ones_each() -> None:
    assert vendi(torch.ones(7, 5)) == pytest.approx(1)
    assert vendi(torch.eye(6)) == pytest.approx(6)
    assert vendi(torch.eye(6).repeat(4, 1)) == pytest.approx(6)


def test_vendi_does_not_depend_on_the_rows_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features = draw(50, 6)
    whole = vendi(features)
    monkeypatch.setattr(sys.modules["dire_plug.metrics.similarity"], "_PRODUCT_ROWS", 7)
    assert vendi(features) == pytest.approx(whole, rel=1e-12)


def test_similarity_does_not_depend_on_the_rows_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = draw(50, 6), torch.arange(50) % 3
    whole = intra_class_similarity(features, labels)
    monkeypatch.setattr(sys.modules["dire_plug.metrics.similarity"], "ROWS", 7)
    torch.testing.assert_close(intra_class_similarity(features, labels), whole, rtol=1e-12, atol=0)


def test_class_vendi_is_the_mean_over_the_classes() -> None:
    features = torch.cat([torch.eye(4), torch.ones(3, 4)])
    assert mean_class_vendi(features, torch.tensor([0] * 4 + [5] * 3)) == pytest.approx((4 + 1) / 2)


def test_similarity_equals_the_off_diagonal_mean_of_torchmetrics() -> None:
    features, labels = draw(24, 7), torch.tensor([2, 0, 1, 2] * 6)
    expected = []
    for label in range(3):
        own = features[labels == label]
        expected.append(pairwise_cosine_similarity(own, zero_diagonal=True).sum() / (len(own) * (len(own) - 1)))
    torch.testing.assert_close(intra_class_similarity(features, labels), torch.stack(expected), rtol=1e-12, atol=1e-14)


def test_similarity_by_hand() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    found = intra_class_similarity(features, torch.zeros(3, dtype=torch.int64))
    assert found.tolist() == pytest.approx([2 * math.sqrt(0.5) / 3])


def test_a_class_of_one_image_has_no_similarity_and_others_still_count() -> None:
    features, labels = draw(3, 4), torch.tensor([0, 0, 1])
    found = intra_class_similarity(features, labels)
    assert not found[0].isnan()
    assert found[1].isnan()
    report = diversity(Neighbourhoods.of(draw(40, 4), torch.arange(40) % 2), features, labels)
    assert report.similarity == pytest.approx(float(found[0]))


def test_one_image_per_class_reports_no_similarity_as_json_null() -> None:
    report = diversity(Neighbourhoods.of(draw(40, 4), torch.arange(40) % 2), draw(2, 4, seed=1), torch.tensor([0, 1]))
    assert report.to_json()["similarity"] is None
    assert report.class_vendi == pytest.approx(1)
    assert isinstance(report.to_json()["coverage"], float)


def test_diversity_gathers_each_metric() -> None:
    real, real_labels = draw(40, 4), torch.arange(40) % 2
    made, labels = draw(10, 4, seed=1), torch.arange(10) % 2
    four = prdc_metrics(real, made, nearest_k=3)
    assert diversity(Neighbourhoods.of(real, real_labels, nearest_k=3), made, labels) == Diversity(
        coverage=coverage(real, made, nearest_k=3),
        class_coverage=per_class_coverage(real, real_labels, made, labels, nearest_k=3),
        vendi=vendi(made),
        class_vendi=mean_class_vendi(made, labels),
        similarity=float(intra_class_similarity(made, labels).mean()),
        density=four.density,
        precision=four.precision,
        recall=four.recall,
    )


def test_the_real_reference_with_all_held_out_images_is_their_diversity() -> None:
    real = Neighbourhoods.of(draw(40, 4), torch.arange(40) % 2)
    held_out, labels = draw(12, 4, seed=1), torch.arange(12) % 2
    found = real_reference(real, held_out, labels, ipc=6, draws=2, seed=3)
    expected = diversity(real, held_out, labels)
    assert found.coverage == pytest.approx(expected.coverage)
    assert found.vendi == pytest.approx(expected.vendi)
    assert (found.draws, found.images, found.images_per_class) == (2, 12, 6)


def test_the_seed_decides_the_real_reference() -> None:
    real = Neighbourhoods.of(draw(60, 4), torch.arange(60) % 2)
    held_out, labels = draw(40, 4, seed=1), torch.arange(40) % 2

    def score(seed: int) -> float:
        return real_reference(real, held_out, labels, ipc=3, seed=seed).vendi

    assert score(0) == score(0) != score(1)


def test_the_real_reference_says_how_many_images_a_short_class_gave() -> None:
    real = Neighbourhoods.of(draw(40, 4), torch.arange(40) % 2)
    held_out, labels = draw(8, 4, seed=1), torch.tensor([0] * 6 + [1] * 2)
    found = real_reference(real, held_out, labels, ipc=5, seed=0)
    assert (found.images, found.images_per_class) == (7, 2)
    assert found.to_json()["images_per_class"] == 2


def test_expected_coverage_is_met_by_real_data() -> None:
    assert expected_coverage(100, 100, 1) == 0.5
    assert expected_coverage(300, 100, 2) == pytest.approx(1 - 0.75**2)
    found = coverage(draw(2000, 3), draw(500, 3, seed=1), nearest_k=5)
    assert found == pytest.approx(expected_coverage(2000, 500, 5), abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_radii(draw(5, 3), nearest_k=5), "real features: 5 rows are too few for nearest_k 5"),
        (lambda: nearest_radii(draw(5, 3), nearest_k=0), "nearest_k: 0"),
        (lambda: nearest_radii(draw(9, 3), block=0), "block: 0 rows"),
        (lambda: coverage(draw(9, 3), draw(2, 4)), "real features have 3 dimensions, synthetic features 4"),
        (lambda: coverage(draw(9, 3), draw(2, 3) * math.nan), "synthetic features: 2 of 2 rows hold NaN"),
        (lambda: coverage(draw(9, 3) / 0, draw(2, 3)), "real features: 9 of 9 rows hold NaN"),
        (lambda: prdc_metrics(draw(5, 3), draw(9, 3)), "real features: 5 rows are too few for nearest_k 5"),
        (lambda: prdc_metrics(draw(9, 3), draw(9, 4)), "real features have 3 dimensions, synthetic features 4"),
        (lambda: prdc_metrics(draw(9, 3), draw(9, 3), block=0), "block: 0 rows"),
        (lambda: prdc_metrics(draw(9, 3), draw(9, 3), nearest_k=0), "nearest_k: 0"),
        (lambda: coverage(draw(9, 3), draw(2, 3), radii=draw(4)), r"radii: \[4\] of them for 9"),
        (lambda: vendi(draw(0, 3)), r"features: their shape is \[0, 3\]"),
        (lambda: vendi(torch.ones(2, 3, dtype=torch.int64)), "floating point"),
        (lambda: intra_class_similarity(draw(3, 2), torch.zeros(2)), "labels of shape"),
        (
            lambda: class_radii(draw(9, 2), torch.tensor([0] * 7 + [4] * 2)),
            "real features of class 4: 2 rows are too few",
        ),
        (
            lambda: per_class_coverage(draw(9, 2), torch.zeros(9, dtype=torch.int64), draw(1, 2), torch.tensor([3])),
            "no real features of class 3",
        ),
        (
            lambda: real_reference(
                Neighbourhoods.of(draw(20, 2), torch.arange(20) % 2), draw(2, 2), torch.tensor([0, 0]), ipc=1, seed=0
            ),
            "held-out features: none of class 1",
        ),
        (
            lambda: real_reference(
                Neighbourhoods.of(draw(20, 2), torch.arange(20) % 2), draw(2, 2), torch.tensor([0, 1]), ipc=0, seed=0
            ),
            "at least 1",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DirePlugError, match=message):
        call()
