"""Weight the terms of a running synthesis: by a number, or by one that follows gradients.

With g_L and g_R the gradients of upstream's loss and of a term with respect to what the loop optimises, every `every`
steps of a slot, the first among them, m ← average · m + (1 − average) · log(‖g_L‖/‖g_R‖), where the first value is
taken as it is, and λ = ratio · eᵐ. Nothing is run forward again: both gradients come from the graphs that the loop has
built anyway. Each slot starts again, and so does each network in it. λ stays on the device: no step waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from dire_plug.errors import PluginError
from dire_plug.recipe.weight import PLAIN, AutoWeight
from dire_plug.types import Batch, Slot


class Weighting:
    """The weights of all terms of one synthesis."""

    def __init__(self, weights: Mapping[str, float | AutoWeight]) -> None:
        """Take the weight of each plugin by its name; one that isn't there has the weight 1."""
        self._weights = weights
        self._slot: Slot | None = None
        self._followed: dict[tuple[str, str], Followed] = {}
        self._upstream: tuple[Batch, Tensor] | None = None

    def follow(self, name: str, batch: Batch) -> float | Followed:
        """Return the weight of one plugin's term in a step: a number, or what follows gradients in this slot."""
        weight = self._weights.get(name, PLAIN)
        if not isinstance(weight, AutoWeight):
            return weight
        # a slot starts from new images, whose gradients have nothing to do with those of the last slot
        if batch.slot != self._slot:
            self._slot, self._followed = batch.slot, {}
        return self._followed.setdefault((name, batch.teacher), Followed(weight))

    def apply(
        self, name: str, term: Tensor, batch: Batch, *, scaler: GradScaler | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """Return the weighted term of one plugin, and λ, a tensor if it follows gradients; 1 returns the same object.

        Args:
            name: the plugin's.
            term: a scalar with its graph.
            batch: the step in one network.
            scaler: by which the script scales its loss: gradients are compared scaled, as they flow. Unscaled, they
                may vanish in float16.

        Raises:
            PluginError: λ can't follow: the loss or the term doesn't depend on the images that the loop optimises.
        """
        weight = self.follow(name, batch)
        if not isinstance(weight, Followed):
            return (term if weight == PLAIN else weight * term), weight
        if weight.is_due():
            upstream = self._norm_of_upstream(name, batch, scaler)
            weight.compare(upstream, _norm(name, "the term", term, batch, scaler))
        value = weight.value
        # λ has no graph of its own: no gradient flows through it
        return value * term, value

    def _norm_of_upstream(self, name: str, batch: Batch, scaler: GradScaler | None) -> Tensor:
        """Return ‖g_L‖ of a step, computed once for all terms."""
        # by identity: a step has one Batch for each network, and all terms of it share this norm
        if self._upstream is None or self._upstream[0] is not batch:
            assert batch.loss is not None
            self._upstream = (batch, _norm(name, "upstream's loss", batch.loss, batch, scaler))
        return self._upstream[1]

    def step_done(self) -> None:
        """Drop the step's graph, so that its memory is freed."""
        self._upstream = None


class Followed:
    """m and λ of one term in one network during one slot."""

    def __init__(self, weight: AutoWeight) -> None:
        """Begin with no comparison."""
        self._weight = weight
        self._steps = 0
        self._mean: Tensor | None = None
        self._known: Tensor | None = None

    def is_due(self) -> bool:
        """Count a step; return whether gradients are compared in it."""
        self._steps += 1
        return (self._steps - 1) % self._weight.every == 0

    def compare(self, upstream: Tensor, term: Tensor) -> None:
        """Take the norms of a step; one that is zero or not finite changes nothing."""
        seen = (upstream / term).log()
        # a gradient of 0, as of a term that is constant here, would make λ infinite
        usable = torch.isfinite(seen)
        if self._mean is None or self._known is None:
            self._mean, self._known = torch.where(usable, seen, 0), usable
            return
        averaged = self._weight.average * self._mean + (1 - self._weight.average) * seen
        changed = torch.where(self._known, averaged, seen)
        self._mean = torch.where(usable, changed, self._mean)
        self._known = self._known | usable

    @property
    def value(self) -> Tensor:
        """λ, a scalar: 0 until a comparison was possible."""
        assert self._mean is not None
        assert self._known is not None
        return torch.where(self._known, self._weight.ratio * self._mean.exp(), 0)


def _norm(name: str, what: str, value: Tensor, batch: Batch, scaler: GradScaler | None) -> Tensor:
    """Return the norm of a scalar's gradient with respect to what the loop optimises.

    That is the images, or what they are computed from: INFER's perturbation, which the images of a batch share. The
    graph is kept for the loop's own step.
    """
    value, leaves = value if scaler is None else scaler.scale(value), leaves_of(batch.images)
    known = value.requires_grad and bool(leaves)
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True) if known else ()
    norms = [torch.linalg.vector_norm(gradient) for gradient in found if gradient is not None]
    if not norms:
        raise without_gradient(name, what)
    norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return norm


def without_gradient(name: str, what: str) -> PluginError:
    """Return the error of a plugin whose weight can't follow gradients."""
    return PluginError(
        f"plugin '{name}': weight auto: {what} has no gradient with respect to the images that the loop hands over; "
        "give this term a number as its weight"
    )


def leaves_of(value: Tensor) -> list[Tensor]:
    """Return the tensors, requiring a gradient, that `value` is computed from; itself where it is one."""
    found, stack, seen = [value] if value.is_leaf and value.requires_grad else [], [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):
                found.append(node.variable)
    return found
