"""Compute the terms of a step: call each plugin in each network, check its term, weight it by λ, and sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy
import torch
from torch import Tensor

from dire_plug.errors import PluginError
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import PLAIN, AutoWeight
from dire_plug.synthesis.hooks import Hooks
from dire_plug.synthesis.recording import LossRecord
from dire_plug.types import Batch, Slot

# The weights of the terms in a running synthesis: fixed, or following gradients.
#
# With g_L and g_R the gradients of upstream's loss and of a term with respect to what the loop
# optimises, every `every` steps of a slot, the first among them,
# m ← average · m + (1 − average) · log(‖g_L‖/‖g_R‖), where the first value is taken as it is, and
# λ = ratio · eᵐ. Nothing is run forward again: both gradients come from the graphs that the loop has
# built anyway. Each slot starts again, and so does each network in it. λ stays on the device: no
# step waits for it.


class Weighting:
    """The weights of all terms of one synthesis."""

    def __init__(self, weights: Mapping[str, float | AutoWeight]) -> None:
        """Take the weight of each plugin by its name; one that isn't there has the weight 1."""
        self._weights = weights
        self._slot: Slot | None = None
        self._followed: dict[tuple[str, str], _Followed] = {}
        self._upstream: tuple[Batch, Tensor] | None = None

    def apply(self, name: str, term: Tensor, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """Return the weighted term of one plugin, and λ, a tensor if it follows gradients; 1 returns the same object.

        Raises:
            PluginError: λ can't follow: the loss or the term doesn't depend on the images that the loop optimises.
        """
        weight = self._weights.get(name, PLAIN)
        if not isinstance(weight, AutoWeight):
            return (term if weight == PLAIN else weight * term), weight
        # a slot starts from new images, whose gradients have nothing to do with those of the last slot
        if batch.slot != self._slot:
            self._slot, self._followed = batch.slot, {}
        followed = self._followed.setdefault((name, batch.teacher), _Followed(weight))
        if followed.is_due():
            followed.compare(self._norm_of_upstream(name, batch), _norm(name, "the term", term, batch))
        value = followed.value
        # λ has no graph of its own: no gradient flows through it
        return value * term, value

    def _norm_of_upstream(self, name: str, batch: Batch) -> Tensor:
        """Return ‖g_L‖ of a step, computed once for all terms."""
        # by identity: a step has one Batch for each network, and all terms of it share this norm
        if self._upstream is None or self._upstream[0] is not batch:
            self._upstream = (batch, _norm(name, "upstream's loss", batch.loss, batch))
        return self._upstream[1]

    def step_done(self) -> None:
        """Drop the step's graph, so that its memory is freed."""
        self._upstream = None


class _Followed:
    """m and λ of one term in one network during one slot."""

    def __init__(self, weight: AutoWeight) -> None:
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


def _norm(name: str, what: str, value: Tensor, batch: Batch) -> Tensor:
    """Return the norm of a scalar's gradient with respect to what the loop optimises.

    That is the images, or what they are computed from: INFER's perturbation, which the images of a batch share. The
    graph is kept for the loop's own step.
    """
    leaves = leaves_of(batch.images)
    known = value.requires_grad and bool(leaves)
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True) if known else ()
    norms = [torch.linalg.vector_norm(gradient) for gradient in found if gradient is not None]
    if not norms:
        raise PluginError(
            f"plugin '{name}': weight auto: {what} has no gradient with respect to the images that the loop hands "
            "over; give this term a number as its weight"
        )
    norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return norm


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


class Terms:
    """Computes what the active plugins add to upstream's loss.

    Attributes:
        suffix: while a plugin computes its term, what follows the names that it records: `/` and the network's key
            where there may be several networks; "" otherwise.
    """

    def __init__(
        self, hooks: Hooks, weights: Mapping[str, float | AutoWeight], record: LossRecord, *, name_networks: bool
    ) -> None:
        """Take the weight of each plugin by its name; the weights that follow gradients go into `record`.

        Args:
            name_networks: whether what is recorded has the network's key in its name.
        """
        self._hooks = hooks
        self._implementations = hooks.of("loss_term")
        self._weighting = Weighting(weights)
        self._record = record
        self._all_finite: dict[str, Tensor] = {}
        self._name_networks = name_networks
        self.suffix = ""

    def add(self, loss: Tensor, batches: Sequence[tuple[Batch, float]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss plus all terms, the same object where there is none, and each term as it was added.

        The term of a plugin is the mean over the networks in which it returns one; it is returned without its graph.

        Args:
            batches: the step in each network, and the factor of the terms there.

        Raises:
            PluginError: a plugin raised, or its term is no finite scalar with a graph.
        """
        total, added = loss, {}
        for implementation in self._implementations:
            answers = [self._weight(implementation, batch, scale) for batch, scale in batches]
            weighted = [term for term, _, _ in answers if term is not None]
            for _, parts, factor in answers:
                if parts:
                    self._record.scale(dict.fromkeys(parts, factor / max(len(weighted), 1)))
            if weighted:
                # the usual case: no further nodes in the graph
                term = weighted[0] if len(weighted) == 1 else torch.stack(weighted).mean()
                added[implementation.plugin_name] = term.detach()
                total = total + term
        return total, added

    def step_done(self) -> None:
        """Drop the step's graph, so that its memory is freed."""
        self._weighting.step_done()

    def check_finite(self, slot: Slot) -> None:
        """Raise where a term wasn't finite; that is gathered on the device, so that no step waits for it.

        Raises:
            PluginError: a term wasn't finite; `slot` is where that is seen.
        """
        for name, finite in self._all_finite.items():
            if not finite:
                raise PluginError(f"plugin '{name}': its term was not finite in {slot}")

    def _weight(
        self, implementation: pluggy.HookImpl, batch: Batch, scale: float
    ) -> tuple[Tensor | None, list[str], Tensor | float]:
        """Return one plugin's weighted term in one network, None where there is none, its parts and their factor."""
        suffix = f"/{batch.teacher}" if self._name_networks else ""
        self.suffix = suffix
        # sums over distances need float32, whatever a script runs its loop in
        with torch.autocast(batch.embeddings.device.type, enabled=False):
            term = self._hooks.call(implementation, {"batch": batch})
        self.suffix = ""
        # taken for each plugin and network: the factors of their terms differ
        parts = self._record.take_parts()
        if term is None:
            return None, parts, 0.0
        name = implementation.plugin_name
        self._check(name, term, batch.slot)
        # times 1 changes no value but adds a node to the graph
        scaled = term if scale == 1 else term * scale
        weighted, weight = self._weighting.apply(name, scaled, batch)
        if isinstance(weight, Tensor):
            self._record.name(f"{name}/{WEIGHT}{suffix}", weight)
        return weighted, parts, scale * weight

    def _check(self, name: str, term: object, slot: Slot) -> None:
        if not isinstance(term, Tensor) or term.ndim != 0:
            shape = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            raise PluginError(f"plugin '{name}': loss_term must return a scalar tensor, not {shape}")
        if not term.requires_grad:
            raise PluginError(f"plugin '{name}': loss_term returned a tensor without a graph; don't detach embeddings")
        finite = torch.isfinite(term.detach())
        # on the GPU reading `finite` would wait for the step, so it is gathered and read at the end of the slot
        if term.device.type == "cpu" and not finite:
            raise PluginError(f"plugin '{name}': its term is {term.item()} in {slot}")
        self._all_finite[name] = self._all_finite[name] & finite if name in self._all_finite else finite
