"""The definition of DiRe's term as an obvious loop in float64, and the embeddings that tests draw."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
