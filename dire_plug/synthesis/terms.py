"""The terms of a step: asked of each plugin in each network, checked, weighed by λ, and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy
import torch
from torch import Tensor

from dire_plug.errors import PluginError
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import AutoWeight
from dire_plug.synthesis.hooks import Hooks
from dire_plug.synthesis.networks import Seen
from dire_plug.synthesis.recording import LossRecord
from dire_plug.synthesis.weighting import Weighting
from dire_plug.types import Slot


class Terms:
    """What the active plugins add to upstream's loss.

    Attributes:
        place: while a plugin is asked for its term, the place of what it records; "" otherwise: see `networks.Seen`.
    """

    def __init__(self, hooks: Hooks, weights: Mapping[str, float | AutoWeight], record: LossRecord) -> None:
        """Take the weight of each plugin by its name; the weights that follow gradients go into `record`."""
        self._hooks = hooks
        self._implementations = hooks.of("loss_term")
        self._weighting = Weighting(weights)
        self._record = record
        self._all_finite: dict[str, Tensor] = {}
        self.place = ""

    def add(self, loss: Tensor, seen: Sequence[Seen]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss plus all terms, the same object where there is none, and each term as it was added.

        The term of a plugin is the mean over the networks in which it answers; its graph isn't handed back.

        Raises:
            PluginError: a plugin raised, or its term is no finite scalar with a graph.
        """
        total, added = loss, {}
        for implementation in self._implementations:
            answers = [self._weigh(implementation, one) for one in seen]
            weighted = [term for term, _, _ in answers if term is not None]
            for _, parts, factor in answers:
                if parts:
                    self._record.scale(dict.fromkeys(parts, factor / max(len(weighted), 1)))
            if weighted:
                term = weighted[0] if len(weighted) == 1 else torch.stack(weighted).mean()
                added[implementation.plugin_name] = term.detach()
                total = total + term
        return total, added

    def step_done(self) -> None:
        """Let go of the step's graph."""
        self._weighting.step_done()

    def check_finite(self, slot: Slot) -> None:
        """Look at the terms' finiteness, gathered on the device so that no step waits for it.

        Raises:
            PluginError: a term wasn't finite; `slot` is where that is seen.
        """
        for name, finite in self._all_finite.items():
            if not finite:
                raise PluginError(f"plugin '{name}': its term was not finite in {slot}")

    def _weigh(self, implementation: pluggy.HookImpl, seen: Seen) -> tuple[Tensor | None, list[str], Tensor | float]:
        """Return one plugin's weighted term in one network, None where there is none, its parts and their factor."""
        self.place = seen.place
        term = self._hooks.call(implementation, {"batch": seen.batch})
        self.place = ""
        parts = self._record.take_parts()
        if term is None:
            return None, parts, 0.0
        name = implementation.plugin_name
        self._check(name, term, seen.batch.slot)
        scaled = term if seen.scale == 1 else term * seen.scale
        weighted, weight = self._weighting.apply(name, scaled, seen.batch)
        if isinstance(weight, Tensor):
            self._record.name(f"{name}/{WEIGHT}{seen.place}", weight)
        return weighted, parts, seen.scale * weight

    def _check(self, name: str, term: object, slot: Slot) -> None:
        if not isinstance(term, Tensor) or term.ndim != 0:
            shape = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            raise PluginError(f"plugin '{name}': loss_term must return a scalar tensor, not {shape}")
        if not term.requires_grad:
            raise PluginError(f"plugin '{name}': loss_term returned a tensor without a graph; don't detach embeddings")
        finite = torch.isfinite(term.detach())
        if term.device.type == "cpu" and not finite:
            raise PluginError(f"plugin '{name}': its term is {term.item()} in {slot}")
        self._all_finite[name] = self._all_finite[name] & finite if name in self._all_finite else finite
