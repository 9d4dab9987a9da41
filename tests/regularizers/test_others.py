"""The regularizers beside DiRe: values by an obvious loop, and what a step down their gradient does."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from support.reference_loss import draw, real_of
from torch import Tensor

from dire_plug.plugins import build_manager, known, load
from dire_plug.types import Batch, RealEmbeddings, Slot, Synthesis

Loop = Callable[[Tensor, Tensor], Tensor]
"""Synthetic [n, D] and real [m, D] rows of one class → the class's part of a term."""
LABELS = torch.tensor([3, 0, 3, 0, 3, 1])
REAL = real_of({0: 5, 1: 4, 2: 2, 3: 7}, 4)


class Fake:
    """A synthesis that holds real embeddings."""

    def __init__(self, real: RealEmbeddings) -> None:
        self._real = real

    def real(self, teacher: str) -> RealEmbeddings:
        return self._real


def term(name: str, rows: Tensor, *, labels: Tensor = LABELS, real: RealEmbeddings = REAL, **settings: Any) -> Tensor:
    factory = load("regularizers", name)
    plugin = factory(factory.settings_model(**settings))
    batch = Batch(rows, torch.zeros(()), labels, rows, "teacher", 0, Slot(0, 0))
    (found,) = build_manager({name: plugin}).hook.loss_term(synthesis=cast(Synthesis, Fake(real)), batch=batch)
    assert isinstance(found, Tensor)
    return found


def cosine(first: Tensor, second: Tensor) -> Tensor:
    if not first.any() or not second.any():
        return first.new_zeros(())
    value: Tensor = first @ second / (first.norm() * second.norm())
    return value


def spread(real: Tensor) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(real - real.mean(0), dim=1)
    return distances.mean()


def loop_energy(made: Tensor, real: Tensor, cd: float = 0.5) -> Tensor:
    n, m = len(made), len(real)
    between = sum((made[i] - real[j]).norm() for i in range(n) for j in range(m)) / (n * m)
    within = sum((made[i] - made[j]).norm() for i in range(n) for j in range(n) if i != j) / max(1, n * (n - 1))
    unit = sum((real[i] - real[j]).norm() for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    spread_out = sum(cosine(made[i], made[j]) for i in range(n) for j in range(n) if i != j) / n**2
    return cast(Tensor, (2 * between - within) / unit + cd * spread_out)


def loop_centred(made: Tensor, real: Tensor) -> Tensor:
    rows, n = made - real.mean(0), len(made)
    total = sum((cosine(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j), start=made.new_zeros(()))
    return total / n**2


def loop_chamfer(made: Tensor, real: Tensor, tau: float = 0.1) -> Tensor:
    unit = spread(real)
    near = [torch.stack([-(e - x).norm() / (unit * tau) for e in made]) for x in real]
    return torch.stack([-tau * one.exp().sum().log() for one in near]).mean()


def loop_facility(made: Tensor, real: Tensor, kernel: Loop = cosine) -> Tensor:
    return 1 - torch.stack([torch.stack([kernel(e, x) for e in made]).max() for x in real]).mean()


def loop_dpp(made: Tensor, real: Tensor, kernel: Loop | None = None, epsilon: float = 1e-3) -> Tensor:
    like = kernel or rbf(spread(real))
    matrix = torch.stack([torch.stack([like(a, b) for b in made]) for a in made])
    return -torch.logdet(matrix + epsilon * torch.eye(len(made), dtype=made.dtype)) / len(made)


def rbf(width: Tensor) -> Loop:
    return lambda first, second: (-(first - second).square().sum() / (2 * width**2)).exp()


CASES: dict[str, tuple[str, dict[str, Any], Loop]] = {
    "energy": ("energy", {}, loop_energy),
    "energy without cd": ("energy", {"cd": 0}, lambda made, real: loop_energy(made, real, 0)),
    "centred-cd": ("centred-cd", {}, loop_centred),
    "soft-chamfer": ("soft-chamfer", {}, loop_chamfer),
    "soft-chamfer, soft": ("soft-chamfer", {"tau": 2}, lambda made, real: loop_chamfer(made, real, 2)),
    "facility-location": ("facility-location", {}, loop_facility),
    "facility-location, rbf": (
        "facility-location",
        {"kernel": "rbf"},
        lambda made, real: loop_facility(made, real, rbf(spread(real))),
    ),
    "dpp": ("dpp", {}, loop_dpp),
    "dpp, cosine": ("dpp", {"kernel": "cosine"}, lambda made, real: loop_dpp(made, real, cosine)),
}
every = pytest.mark.parametrize(("name", "settings", "loop"), CASES.values(), ids=CASES)


def test_every_term_but_dire_and_the_probe_has_a_case_here() -> None:
    assert set(known("regularizers")) - {"dire", "verify-probe"} == {name for name, _, _ in CASES.values()}


@every
def test_a_term_equals_the_obvious_loop(name: str, settings: dict[str, Any], loop: Loop) -> None:
    rows = draw(len(LABELS), 4)
    parts = [loop(rows[c == LABELS], REAL.values[REAL.labels == c]) for c in torch.unique(LABELS)]
    torch.testing.assert_close(term(name, rows, **settings), torch.stack(parts).sum(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES.values()} - {"dpp", "centred-cd"}))
def test_a_descent_on_what_matches_brings_rows_to_the_real_ones(name: str) -> None:
    leaf = (draw(len(LABELS), 4) + 5).requires_grad_()
    far = term(name, leaf)
    (gradient,) = torch.autograd.grad(far, leaf)
    assert term(name, leaf - 0.1 * gradient) < far


@pytest.mark.parametrize("name", ["dpp", "centred-cd", "energy"])
def test_a_descent_on_what_spreads_moves_near_rows_apart(name: str) -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    settings: dict[str, Any] = {"cd": 50} if name == "energy" else {}
    leaf = (draw(1, 4) + 0.1 * draw(2, 4, seed=5)).requires_grad_()
    (gradient,) = torch.autograd.grad(term(name, leaf, labels=labels, **settings), leaf)
    after = leaf - 1e-3 * gradient
    before, now = (one - REAL.values[:5].mean(0) for one in (leaf, after))
    assert torch.cosine_similarity(now[:1], now[1:]) < torch.cosine_similarity(before[:1], before[1:])
