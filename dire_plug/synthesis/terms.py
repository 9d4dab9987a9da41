"""Compute the terms of a step: call each plugin in each network, check its term, weight it by λ, and sum."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.utils.hooks import RemovableHandle

from dire_plug.errors import DirePlugError, PluginError
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import AutoWeight
from dire_plug.synthesis.hooks import Hooks
from dire_plug.synthesis.recording import LossRecord
from dire_plug.synthesis.weighting import Followed, Weighting, leaves_of, without_gradient
from dire_plug.types import Batch, Slot


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
            name_networks: whether what is recorded has the network's key in its name, in a step in one network too.
        """
        self._hooks = hooks
        self._implementations = hooks.of("loss_term")
        self._weighting = Weighting(weights)
        self._record = record
        self._all_finite: dict[str, Tensor] = {}
        self._always_named = self._name_networks = name_networks
        self.suffix = ""

    def add(
        self, loss: Tensor, batches: Sequence[tuple[Batch, float]], *, scaler: GradScaler | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss plus all terms, the same object where there is none, and each term as it was added.

        The term of a plugin is the mean over the networks in which it returns one; it is returned without its graph.

        Args:
            batches: the step in each network, and the factor of the terms there.
            scaler: by which the script scales the sum.

        Raises:
            PluginError: a plugin raised, or its term is no finite scalar with a graph.
        """
        total, added = loss, {}
        self._name_networks = self._always_named or len(batches) > 1
        for implementation in self._implementations:
            answers = [self._weight(implementation, batch, scale, scaler=scaler) for batch, scale in batches]
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

    def delay(self, batches: Sequence[tuple[Batch, float]], *, images: Tensor, scaler: GradScaler | None) -> LateTerms:
        """Compute the gradients of all terms, which wait for that of a loss that has no name.

        Args:
            batches: as in `add`.
            images: what the loop optimises, or what is computed from it.
            scaler: by which the script scales its loss.

        Raises:
            PluginError: a plugin raised, or its term is no finite scalar with a graph.
            DirePlugError: no term depends on the images, or `backward` was called before.
        """
        shares: list[_Share] = []
        self._name_networks = self._always_named or len(batches) > 1
        for implementation in self._implementations:
            answers = [(batch, scale, *self._ask(implementation, batch, scale)) for batch, scale in batches]
            there = [(batch, scale, term, parts) for batch, scale, term, parts in answers if term is not None]
            name = implementation.plugin_name
            for batch, scale, term, parts in there:
                weight, part = self._weighting.follow(name, batch), 1 / len(there)
                due = isinstance(weight, Followed) and weight.is_due()
                key = f"{name}/{WEIGHT}{self._suffix(batch)}"
                shares.append(_Share(name, key, term, part, scale * part, parts, weight, due=due))
        return LateTerms(shares, self._record, images=images, scaler=scaler)

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
        self, implementation: pluggy.HookImpl, batch: Batch, scale: float, *, scaler: GradScaler | None
    ) -> tuple[Tensor | None, list[str], Tensor | float]:
        """Return one plugin's weighted term in one network, None where there is none, its parts and their factor."""
        scaled, parts = self._ask(implementation, batch, scale)
        if scaled is None:
            return None, parts, 0.0
        name = implementation.plugin_name
        weighted, weight = self._weighting.apply(name, scaled, batch, scaler=scaler)
        if isinstance(weight, Tensor):
            self._record.name(f"{name}/{WEIGHT}{self._suffix(batch)}", weight)
        return weighted, parts, scale * weight

    def _ask(self, implementation: pluggy.HookImpl, batch: Batch, scale: float) -> tuple[Tensor | None, list[str]]:
        """Return one plugin's term in one network times `scale`, None where there is none, and its parts."""
        self.suffix = self._suffix(batch)
        # sums over distances need float32, whatever a script runs its loop in
        with torch.autocast(batch.embeddings.device.type, enabled=False):
            term: Tensor | None = self._hooks.call(implementation, {"batch": batch})
        self.suffix = ""
        # taken for each plugin and network: the factors of their terms differ
        parts = self._record.take_parts()
        if term is None:
            return None, parts
        self._check(implementation.plugin_name, term, batch.slot)
        # times 1 changes no value but adds a node to the graph
        return (term if scale == 1 else term * scale), parts

    def _suffix(self, batch: Batch) -> str:
        return f"/{batch.teacher}" if self._name_networks else ""

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


# Terms of a step whose loss has no name, such as `(a + b).backward()`: their gradients are taken at once, and added to
# that of the script's loss when it reaches what the loop optimises.


@dataclass
class _Share:
    """One plugin's term in one network.

    Attributes:
        key: under which its weight is recorded, where it follows gradients.
        term: C/c included; with its graph until its gradient is taken.
        part: its part of the mean over the networks.
        factor: of what the plugin recorded as parts of the term, without the weight.
        due: whether the weight is compared in this step, and so known only when the loss's gradient is.
    """

    name: str
    key: str
    term: Tensor
    part: float
    factor: float
    parts: list[str]
    weight: float | Followed
    due: bool
    gradients: tuple[Tensor | None, ...] = ()

    def weigh(self) -> float | Tensor:
        """Return λ."""
        return self.weight.value if isinstance(self.weight, Followed) else self.weight


class LateTerms:
    """The gradients of a step's terms, which wait for that of the script's loss at what the loop optimises.

    Attributes:
        added: plugin → its weighted term, without its graph; complete when the gradient has come.
    """

    def __init__(
        self, shares: Sequence[_Share], record: LossRecord, *, images: Tensor, scaler: GradScaler | None
    ) -> None:
        """Take the gradients of the terms; the graph stays for the script's own `backward`.

        Raises:
            PluginError: a weight can't follow gradients, since the images are made of several tensors.
            DirePlugError: no term depends on the images, or `backward` was called before.
        """
        self.added: dict[str, Tensor] = {}
        self._shares, self._record = shares, record
        self._handles: dict[int, RemovableHandle] = {}
        self._guard = contextlib.ExitStack()
        if not shares:
            return
        leaves = leaves_of(images)
        # one backward pass for all terms whose weights are known
        known = [share.weigh() * share.part * share.term for share in shares if not share.due]
        self._known = _gradients(torch.stack(known).sum(), leaves, scaler) if known else ()
        for share in shares:
            if share.due:
                share.gradients = _gradients(share.term, leaves, scaler)
                if all(gradient is None for gradient in share.gradients):
                    raise without_gradient(share.name, "the term")
            share.term = share.term.detach()
        found = [self._known, *(share.gradients for share in shares)]
        places = sorted({place for one in found for place, gradient in enumerate(one) if gradient is not None})
        if not places:
            raise DirePlugError(
                "bridge.term: no term depends on `images`; hand over the tensor that the optimizer holds"
            )
        if len(places) > 1 and any(share.due for share in shares):
            raise PluginError(
                f"weight auto: the images are made of {len(places)} tensors, whose gradients bridge.term gets one by "
                "one; give each term a number as its weight"
            )
        for place in places:
            self._handles[place] = leaves[place].register_hook(functools.partial(self.receive, place))  # type: ignore[no-untyped-call]
        self._guard.enter_context(_scaled_by(scaler))

    @property
    def waits(self) -> bool:
        """Whether the gradient of the script's loss hasn't come yet."""
        return bool(self._handles)

    def close(self) -> None:
        """Stop waiting."""
        self._guard.close()
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}

    def receive(self, place: int, gradient: Tensor) -> Tensor:
        """Return the gradient of the script's loss at one tensor plus those of the terms; called once."""
        self._handles.pop(place).remove()
        self._guard.close()
        known = self._known[place] if self._known else None
        total = gradient if known is None else gradient + known
        for share in self._shares:
            # the one tensor there is, where a weight is due
            own = share.gradients[place] if share.due else None
            if own is not None and isinstance(share.weight, Followed):
                share.weight.compare(torch.linalg.vector_norm(gradient), torch.linalg.vector_norm(own))
                total = total + share.weigh() * share.part * own
        self._settle()
        return total

    def _settle(self) -> None:
        """Record the terms as they are added, once their weights are known."""
        if self.added:
            return
        for share in self._shares:
            weight = share.weigh()
            value = weight * share.part * share.term
            self.added[share.name] = self.added[share.name] + value if share.name in self.added else value
            self._record.scale(dict.fromkeys(share.parts, share.factor * weight))
            if isinstance(weight, Tensor):
                self._record.name(share.key, weight)


def _gradients(value: Tensor, leaves: Sequence[Tensor], scaler: GradScaler | None) -> tuple[Tensor | None, ...]:
    """Return the gradients of a scalar at tensors, scaled as the script scales its loss; the graph stays."""
    if scaler is not None:
        # before the backward pass, as the loss: small gradients would vanish in float16; and no wait for the scale
        value = scaler.scale(value)
    try:
        return torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True) if leaves else ()
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise DirePlugError(
            "bridge.term stands after `backward`, which has let go of the graph; it must stand before"
        ) from error


@contextlib.contextmanager
def _scaled_by(scaler: GradScaler | None) -> Iterator[None]:
    """Raise where another GradScaler than the given one scales something: the terms would be too small by its scale."""
    right = GradScaler.scale

    def scale(self: GradScaler, outputs: Any) -> Any:
        if self.is_enabled() and self is not scaler:
            raise DirePlugError("the script scales its loss: name its GradScaler, bridge.term(…, scaler=NAME)")
        return right(self, outputs)

    setattr(GradScaler, "scale", scale)  # noqa: B010 (mypy lets no method be replaced)
    try:
        yield
    finally:
        setattr(GradScaler, "scale", right)  # noqa: B010
