"""Observe a run for `verify`, from inside the child: the calls of bridge, the optimised tensors and their gradients.

Nothing of the synthesis is trusted here. The calls are seen where the patched script makes them, the embeddings are
kept by hooks of this module's own, and the term on them is written a second time, row by row. `checks.py` judges.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import math
import os
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from dire_plug import bridge
from dire_plug.data.augmentation import zca
from dire_plug.errors import DirePlugError
from dire_plug.models.checkpoint import load
from dire_plug.recipe import PROBE
from dire_plug.synthesis.weighting import leaves_of
from dire_plug.types import EDGE, LOOP
from dire_plug.upstream.trace import ByHand, StopScriptError, hash_tensor

CALLS = "calls.jsonl"
GRADIENTS = "gradients"
GRADIENT, TERM = "gradient/", "term/"
"""Of the keys in the file of a step: what the optimiser's tensors had as gradient, and λ · ∂term."""
GROUPS = "groups"
"""In the same file's metadata: the settings of the optimiser's groups, as JSON."""
FORWARDED = ("watch", "order", "steps", "in_use", "keep")
"""Functions of bridge of which it counts only where and when they are called."""


@contextlib.contextmanager
def observe(
    settings: Mapping[str, Any],
    *,
    tree: Path,
    synthesis: Any,
    spec: Mapping[str, Any] | None,
    by_hand: ByHand | None = None,
) -> Iterator[None]:
    """Record what happens while the block runs.

    Args:
        settings: "folder", which gets `calls.jsonl` and a file of gradients for each optimiser step; "frozen": whether
            optimisers get the learning rate 0; "start": whether the test term answers with start images where the
            adapter doesn't; "heads": the digest of each teacher's last layer → its key; "weights": that of each
            parameter of the teachers → its shape.
        tree: of the script, by which lines are named.
        synthesis: a `RunningSynthesis` with the test term, or None for an unpatched script.
        spec: what the synthesis was made from: `SynthesisSpec` as JSON.
        by_hand: stands for the update rule of a script without an optimiser.
    """
    folder = Path(settings["folder"])
    with contextlib.ExitStack() as stack:
        steps = _Steps(folder / GRADIENTS, frozen=settings["frozen"], by_hand=by_hand)
        stack.enter_context(steps.hooked())
        if synthesis is not None and spec is not None:
            # line by line: a script that crashes leaves the events up to there
            file = stack.enter_context((folder / CALLS).open("w", encoding="utf-8", buffering=1))
            calls = _Calls(
                steps,
                KeptEmbeddings(spec, heads=settings["heads"], weights=settings["weights"]),
                synthesis.plugin(PROBE),
                answers=settings["start"],
                emit=lambda event: file.write(json.dumps(event) + "\n"),
            )
            stack.enter_context(calls.in_place_of_bridge(tree))
        yield


# The optimisers.


@dataclass
class ExpectedGradients:
    """The gradients expected of the tensors that a loss depends on and an optimiser holds.

    Attributes:
        leaves: those tensors.
        upstream: their gradients of the loss that the script handed over; of one without a name, what reaches them.
        term: λ · ∂term, likewise; 0 where the term doesn't depend on one.
        base, scale: what the tensors had as gradient when the script called `backward`, and by what it had multiplied
            the loss; None as long as it hasn't.
    """

    leaves: list[Tensor]
    upstream: list[Tensor]
    term: list[Tensor]
    base: list[Tensor | None] | None = None
    scale: float = 1.0

    def begin_backward(self, gradient: Tensor) -> None:
        """Record that `backward` has reached the loss; DWA's tensors have another gradient by then, which stays."""
        self._keep_base()
        self.scale = float(gradient)

    def receive(self, place: int, gradient: Tensor) -> None:
        """Take the gradient that reaches a leaf, of a loss without a name, before the terms are added to it."""
        if self.base is None:
            self._keep_base()
        self.upstream[place] = self.upstream[place] + gradient.detach() / self.scale

    def _keep_base(self) -> None:
        self.base = [None if leaf.grad is None else leaf.grad.detach().clone() for leaf in self.leaves]

    def term_of(self, tensor: Tensor) -> Tensor | None:
        """Return λ · ∂term of one tensor; None where it isn't one of the leaves."""
        return next((term for leaf, term in zip(self.leaves, self.term, strict=True) if leaf is tensor), None)

    def compare(self) -> tuple[float | None, float]:
        """Return how far the gradients are off, in units of λ · ∂term (of upstream's where it is larger), and a factor.

        The factor is that of a scaled loss where its gradients are still scaled, as a GradScaler's aren't by the time
        of the step. None: `backward` didn't go through the loss that `bridge.loss` returned, or, after `bridge.term`,
        reached no leaf.
        """
        if self.base is None:
            return None, 1.0
        return min((self._error(self.base, factor), factor) for factor in (1.0, self.scale) if factor)

    def _error(self, bases: list[Tensor | None], factor: float) -> float:
        errors = []
        for leaf, upstream, term, base in zip(self.leaves, self.upstream, self.term, bases, strict=True):
            found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.detach()
            rest = (found.double() - (0 if base is None else base.double())) / factor
            unit = max(float(one.double().norm()) for one in (term, upstream)) or 1.0
            errors.append(float((rest - upstream.double() - term.double()).norm()) / unit)
        return max(error if math.isfinite(error) else math.inf for error in errors)


class _Steps:
    """The optimisers of the process: what they hold, and the gradients in each step, in a file."""

    def __init__(self, folder: Path, *, frozen: bool, by_hand: ByHand | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._frozen, self._by_hand = folder, frozen, by_hand
        # weak: watching must not keep alive what the script drops, or memory would grow from slot to slot
        self._optimisers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._rates: list[Any] = []
        self._twin: tuple[Optimizer, list[Tensor]] | None = None
        self._number = 0
        self.expected: ExpectedGradients | None = None
        self.on_step: Callable[[Optimizer, float | None], bool] = lambda optimizer, error: False
        self.on_update: Callable[[float], None] = lambda error: None

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch every optimiser that is made, and every step, while the block runs."""
        add_group = Optimizer.add_param_group

        def noting(optimizer: Optimizer, group: dict[str, Any]) -> None:
            add_group(optimizer, group)
            self._optimisers.add(optimizer)

        before = register_optimizer_step_pre_hook(self._before)
        after = register_optimizer_step_post_hook(self._after)
        setattr(Optimizer, "add_param_group", noting)  # noqa: B010 (mypy lets no method be replaced)
        try:
            yield
        finally:
            setattr(Optimizer, "add_param_group", add_group)  # noqa: B010
            before.remove()
            after.remove()

    def made_for(self, tensor: Tensor) -> bool:
        """Return whether an optimiser has been made for this tensor."""
        return any(one is tensor for optimizer in self._optimisers for one in _tensors(optimizer))

    def holds(self, tensor: Tensor) -> bool:
        """Return whether an optimiser, or the script by its own rule, optimises this tensor."""
        return self.made_for(tensor) or any(one is tensor for one in self.current([]))

    def current(self, leaves: list[Tensor]) -> list[Tensor]:
        """Return what stands in for leaves of the last loss: a script's own rule may make other tensors of them."""
        return (self._by_hand.find() if self._by_hand else []) or leaves

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        error, factor = (None, 1.0) if self.expected is None else self.expected.compare()
        kept = {}
        for number, tensor in enumerate(_tensors(optimizer)):
            if tensor.grad is not None:
                kept[f"{GRADIENT}{number}"] = tensor.grad.detach().clone().contiguous()
            if self.expected is not None and (term := self.expected.term_of(tensor)) is not None:
                kept[f"{TERM}{number}"] = (factor * term).contiguous()
        groups = [{name: one for name, one in group.items() if name != "params"} for group in optimizer.param_groups]
        metadata = {GROUPS: json.dumps(groups, default=str)}
        save_file(kept, self._folder / f"{self._number:04d}.safetensors", metadata=metadata)
        self._number += 1
        ours = self.on_step(optimizer, error)
        closure = len(args) > 1 or kwargs  # the first is the optimiser
        if ours and not (self._frozen or closure) and type(optimizer).__module__.startswith("torch.optim."):
            # copied before the step: settings, state, tensors and gradients, on which it makes the step again
            self._twin = copy.deepcopy(optimizer), [one.detach().clone() for one in _tensors(optimizer)]
        if self._frozen:  # here, not in the flags: scripts set the rate again in each iteration
            self._rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = 0.0

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._frozen:
            for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate
        if self._twin is not None:
            (twin, before), self._twin = self._twin, None
            type(twin).step.__wrapped__(twin)  # type: ignore[attr-defined]  # without the hooks, of which this is one
            self.on_update(
                max(
                    float((found - wanted).norm()) / (float((wanted - start).norm()) or 1.0)
                    for found, wanted, start in zip(_tensors(optimizer), _tensors(twin), before, strict=True)
                )
            )


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


# The term, written a second time.


def head_of(network: nn.Module) -> nn.Linear:
    """Return the last linear layer of a network, whose inputs are its embeddings."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def digest_head(network: nn.Module) -> str:
    """Return the sha256 of a network's last layer, which tells it from others."""
    return digest_weight(head_of(network).weight)


def digest_weight(weight: Tensor) -> str:
    """Return the sha256 of a parameter, whatever its precision."""
    return hash_tensor(weight.detach().float())


@dataclass(frozen=True)
class Seen:
    """What one network made of the images of a step: the network's key, [N, D], and label → real embeddings, [n, D]."""

    key: str
    embeddings: Tensor
    real: Mapping[int, Tensor]


class KeptEmbeddings:
    """The embeddings of a step with their graph, kept apart from those that the synthesis keeps.

    No watched network is run a second time: G-VBSM's draw random numbers. One outside of the loop may be.

    Attributes:
        told_apart: whether each of several watched networks was known by its last layer, and not by its place.
        foreign: parameters of the watched networks, by name, that have a teacher's shape and no teacher's values.
    """

    def __init__(
        self, spec: Mapping[str, Any], *, heads: Mapping[str, str], weights: Mapping[str, Sequence[int]]
    ) -> None:
        """Take the synthesis's specification as JSON, and of the teachers what `observe` gets."""
        self._names, self._files, self._heads = list(spec["networks"]), spec["real"], heads
        self._known, self.foreign = weights, list[str]()
        embedder = spec["embedder"]
        self._latest: dict[int, Tensor] = {}
        self._shown: list[tuple[Tensor, Tensor]] = []
        self._real: dict[str, dict[int, Tensor]] = {}
        self._from_loop = embedder is not None and embedder["network"] == LOOP
        self._embedder = None if embedder is None or self._from_loop else embedder
        self._hooks: list[RemovableHandle] = []
        self._keys = self._names
        self.told_apart = True
        self.weights: list[Tensor] = []
        if self._embedder is not None:
            self._network = load(Path(self._embedder["network"]), torch.device("cpu"))
            self._network.model.eval().requires_grad_(False)
            self.watch(self._network.model)

    def watch(self, network: nn.Module | Sequence[nn.Module]) -> None:
        """Keep what the last linear layer of a network, or of several, is given; they replace those before."""
        for hook in self._hooks:
            hook.remove()
        networks = [network] if isinstance(network, nn.Module) else list(network)
        known = [self._heads.get(digest_head(one)) for one in networks]
        self.told_apart = len(networks) == 1 or None not in known
        self._keys = [key for key in known if key is not None] if self.told_apart and None not in known else self._names
        self._latest = {}
        self._hooks = [
            head_of(one).register_forward_pre_hook(functools.partial(self._keep, number))
            for number, one in enumerate(networks)
        ]
        self.weights = [weight for one in networks for weight in one.parameters()]
        shapes = {tuple(shape) for shape in self._known.values()}
        named = [pair for one in networks for pair in one.named_parameters() if tuple(pair[1].shape) in shapes]
        self.foreign = [name for name, weight in named if digest_weight(weight) not in self._known]

    def _keep(self, number: int, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:  # a verifier's forward pass has no graph
            self._latest[number] = inputs[0]

    def show(self, images: Tensor, real: Tensor) -> None:
        """Keep the embeddings that the loop itself makes of the next class, and of real images of it."""
        self._shown.append((images, real.detach().flatten(1)))

    def shown(self) -> int:
        """Return how many images `show` has got since the last `take`."""
        return sum(len(one) for one, _ in self._shown)

    def take(self, images: Tensor, labels: Tensor) -> list[Seen]:
        """Return what each network that made a forward pass in this step has made: whatever the patch says."""
        shown, self._shown = self._shown, []
        if self._from_loop:
            if not shown:
                return []
            # class by class, in ascending order, and as many real images of each
            made, real = (torch.cat([one.flatten(1) for one in side]) for side in zip(*shown, strict=True))
            classes = sorted(set(labels.tolist()))
            rows = torch.split(real, len(real) // len(classes))
            return [Seen(self._names[0], made, dict(zip(classes, rows, strict=True)))]
        if self._embedder is not None:
            self._network.model(self._unwhiten(images))
        kept, self._latest = self._latest, {}
        return [
            Seen(self._keys[place], one.flatten(1), self._real_of(self._keys[place])) for place, one in kept.items()
        ]

    def _real_of(self, key: str) -> dict[int, Tensor]:
        if key not in self._real:
            tensors = load_file(self._files[key])
            self._real[key] = {
                label: tensors["values"][tensors["labels"] == label] for label in set(tensors["labels"].tolist())
            }
        return self._real[key]

    def _unwhiten(self, images: Tensor) -> Tensor:
        assert self._embedder is not None
        if not self._embedder["whitening"]:
            return images
        pixels = zca.load(Path(self._embedder["whitening"]), torch.device("cpu")).invert(images)
        mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (self._network.mean, self._network.std))
        return (pixels - mean) / std


def reference_term(seen: Seen, labels: Tensor) -> Tensor:
    """Return mean(W ⊙ (u + u²)) as `Probe` defines it, row by row."""
    embeddings, (count, width) = seen.embeddings, seen.embeddings.shape
    tiny = torch.finfo(embeddings.dtype).tiny
    largest = max(float(embeddings.detach().abs().max()), tiny)
    largest_real = max(max(float(rows.abs().max()) for rows in seen.real.values()), tiny)
    phase = 2 * math.pi * zlib.crc32(seen.key.encode()) / 2**32
    total = embeddings.new_zeros(())
    for row, (embedding, label) in enumerate(zip(embeddings, labels.tolist(), strict=True)):
        angle = 1.3 * label + 2.1 * row + phase
        direction = embedding.new_tensor([math.cos(angle + 0.7 * column) for column in range(width)])
        direction = direction + seen.real[label].mean(0) / largest_real
        unit = embedding / largest
        # linear and quadratic: a term with a constant gradient couldn't tell detached embeddings from others
        total = total + (direction * (unit + unit**2)).sum()
    return total / (count * width)


def _mean_term(seen: Sequence[Seen], labels: Tensor) -> Tensor:
    """Return the mean of the term over the networks of a step."""
    return torch.stack([reference_term(one, labels) for one in seen]).mean()


# The calls.


@dataclass
class _Slot:
    """The running slot: the values that it started from, and the leaves after their last change.

    Attributes:
        upstream: the norm of upstream's gradient in the last step, where its loss has no name; 0 before the first.
    """

    start: Tensor | None = None
    leaves: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    losses: int = 0
    upstream: float = 0.0

    def remember(self, leaves: list[Tensor]) -> None:
        self.leaves, self.values = leaves, [leaf.detach().clone() for leaf in leaves]


class _Calls:
    """Wraps bridge for a patched script: forwards every call, and passes `emit` what it saw."""

    def __init__(
        self,
        steps: _Steps,
        kept: KeptEmbeddings,
        probe: Any,
        *,
        answers: bool,
        emit: Callable[[dict[str, Any]], object],
    ) -> None:
        self._steps, self._kept, self._probe = steps, kept, probe
        self._answers, self._emit = answers, emit
        self._real: dict[str, Callable[..., Any]] = {}
        self._slot, self._in_use = _Slot(), None
        self._handles: list[RemovableHandle] = []
        steps.on_step = self._step
        steps.on_update = self._updated

    @contextlib.contextmanager
    def in_place_of_bridge(self, tree: Path) -> Iterator[None]:
        """Make the script call this object instead of bridge while the block runs."""
        own = ("labels", "start", "embedded", "loss", "term", "step_done", "image_index")
        self._real = {name: getattr(bridge, name) for name in (*own, *FORWARDED)}
        stopped = False
        try:
            for name in self._real:
                answer = getattr(self, f"_{name}") if name in own else functools.partial(self._forward, name)
                setattr(bridge, name, self._located(name, answer, tree))
            yield
        except StopScriptError:
            stopped = True
            raise
        finally:
            self._emit({"call": "end", "stopped": stopped, "outside": self._changed()})
            for name, function in self._real.items():
                setattr(bridge, name, function)

    def _located(self, name: str, answer: Callable[..., Any], tree: Path) -> Callable[..., Any]:
        """Return a function that emits the line from which it is called, and what `answer` saw."""

        def called(*args: Any, **kwargs: Any) -> Any:
            frame = inspect.currentframe()
            caller = frame.f_back if frame else None
            line = {} if caller is None else {"file": _below(tree, caller.f_code.co_filename), "line": caller.f_lineno}
            seen: dict[str, Any] = {"call": name, **line}
            try:
                return answer(seen, *args, **kwargs)
            finally:
                self._emit(seen)

        return called

    def _forward(self, name: str, seen: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        answer = self._real[name](*args, **kwargs)
        if name == "watch":
            self._kept.watch(*args)
            seen["told_apart"] = self._kept.told_apart
            seen["foreign"], seen["parameters"] = self._kept.foreign, len(self._kept.weights)
        if name == "in_use":
            self._in_use = answer
        return answer

    def _labels(self, seen: dict[str, Any], labels: Tensor) -> Tensor:
        seen["outside"] = self._changed()
        self._forget_step()
        self._slot = _Slot()
        answer: Tensor = self._real["labels"](labels)
        seen["labels"] = answer.tolist()
        return answer

    def _start(self, seen: dict[str, Any], images: Tensor, labels: Tensor) -> Tensor:
        seen["late"] = self._steps.made_for(images)
        answer: Tensor = self._real["start"](images, labels)
        if answer is images and self._answers:
            self._probe.answers = True
            answer = self._real["start"](images, labels)
            self._probe.answers = False
        seen["answered"] = answer is not images
        self._slot.start = answer.detach().clone()
        return answer

    def _embedded(self, seen: dict[str, Any], images: Tensor, real: Tensor) -> None:
        self._kept.show(images, real)
        self._real["embedded"](images, real)

    def _loss(
        self,
        seen: dict[str, Any],
        loss: Tensor,
        *,
        images: Tensor,
        labels: Tensor,
        step: int,
        network: nn.Module | Sequence[nn.Module] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor:
        leaves, embeddings, used = self._see(seen, loss, images=images, labels=labels, step=step)

        def added() -> Tensor:
            call = self._real["loss"]
            total: Tensor = call(loss, images=images, labels=labels, step=step, network=network, scaler=scaler)
            return total

        if not leaves or not embeddings or any(len(one.embeddings) != len(used) for one in embeddings):
            wrong = (len(one.embeddings) for one in embeddings if len(one.embeddings) != len(used))
            seen["embeddings"] = next(wrong, None)
            return added()
        try:
            upstream = _gradients(loss, leaves)
        except RuntimeError:  # `backward` was called before, and has let go of the graph
            return added()
        self._weigh(embeddings, used, leaves, alike=_norm(upstream))
        total = added()
        term = self._probe.weight * self._of_chosen(embeddings, used)
        self._steps.expected = ExpectedGradients(leaves, upstream, _gradients(term, leaves))
        if total.requires_grad:
            total.register_hook(self._steps.expected.begin_backward)  # type: ignore[no-untyped-call]
        return total

    def _term(
        self,
        seen: dict[str, Any],
        *,
        images: Tensor,
        labels: Tensor,
        step: int,
        network: nn.Module | Sequence[nn.Module] | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        leaves, embeddings, used = self._see(seen, images, images=images, labels=labels, step=step)

        def add() -> None:
            self._real["term"](images=images, labels=labels, step=step, network=network, scaler=scaler)

        if not leaves or not embeddings or any(len(one.embeddings) != len(used) for one in embeddings):
            wrong = (len(one.embeddings) for one in embeddings if len(one.embeddings) != len(used))
            seen["embeddings"] = next(wrong, None)
            return add()
        try:
            # the loss's gradient isn't known yet: that of the step before tells how strong it is
            self._weigh(embeddings, used, leaves, alike=self._slot.upstream or 1.0)
        except RuntimeError:  # `backward` was called before, and has let go of the graph
            return add()
        term = _gradients(self._probe.weight * _mean_term(embeddings, used), leaves)
        expected = ExpectedGradients(leaves, [torch.zeros_like(leaf) for leaf in leaves], term)
        if scaler is not None:
            expected.scale = float(scaler.scale(torch.ones(())))
        for place, leaf in enumerate(leaves):
            # set before the synthesis sets its own, and so called before it: with what the script alone gives
            self._handles.append(leaf.register_hook(functools.partial(self._receive, expected, place)))  # type: ignore[no-untyped-call]
        add()
        if self._probe.labels is not None and len(self._probe.labels) != len(used):
            raise DirePlugError(
                "a step embeds some of the classes, where verify can't check bridge.term; let verify_case's recipe "
                "embed all: recover.embedder.classes_per_step"
            )
        self._steps.expected = expected

    def _receive(self, expected: ExpectedGradients, place: int, gradient: Tensor) -> None:
        """Take a gradient that reaches a leaf after `bridge.term`; the terms' own, within it, don't count."""
        if self._steps.expected is expected:
            expected.receive(place, gradient)

    def _see(
        self, seen: dict[str, Any], loss: Tensor, *, images: Tensor, labels: Tensor, step: int
    ) -> tuple[list[Tensor], list[Seen], Tensor]:
        """Begin a step; return the leaves that an optimiser holds, each network's embeddings, the labels in use."""
        used, self._in_use = labels if self._in_use is None else self._in_use, None
        weights = {id(one) for one in self._kept.weights}  # DWA holds them in an optimiser too, which never steps
        leaves = [one for one in leaves_of(loss) if id(one) not in weights and self._steps.holds(one)]
        seen |= {"step": step, "labels": used.tolist(), "part": used is not labels, "shown": self._kept.shown()}
        seen |= {"images": _kind(images, leaves), "outside": self._changed()}
        if self._slot.losses == 0 and self._slot.start is not None:
            seen["as_started"] = torch.equal(images.detach(), self._slot.start)
        self._slot.losses += 1
        self._slot.remember(self._steps.current(leaves))
        self._forget_step()
        return leaves, self._kept.take(images, used), used

    def _weigh(self, embeddings: Sequence[Seen], labels: Tensor, leaves: list[Tensor], *, alike: float) -> None:
        """Give the test term the weight at which its gradient is as strong as upstream's, and neither is lost."""
        own = _norm(_gradients(_mean_term(embeddings, labels), leaves))
        self._probe.weight = alike / own if own > 0 else 1.0

    def _forget_step(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._steps.expected is not None:
            self._slot.upstream = _norm(self._steps.expected.upstream)
        self._steps.expected = None

    def _of_chosen(self, embeddings: Sequence[Seen], labels: Tensor) -> Tensor:
        """Return the term on the classes that have their turn in this step, times C/c."""
        chosen, classes = self._probe.labels, torch.unique(labels)
        if chosen is None or len(chosen) == len(labels):
            return _mean_term(embeddings, labels)
        mine = torch.unique(chosen)
        rows = torch.tensor([row for row, label in enumerate(labels) if label in mine])
        return (
            len(classes)
            / len(mine)
            * _mean_term([replace(one, embeddings=one.embeddings[rows]) for one in embeddings], labels[rows])
        )

    def _changed(self) -> bool:
        """Return whether what is optimised has other values than it had when they were last remembered."""
        leaves = self._steps.current(self._slot.leaves) if self._slot.leaves else []
        return len(leaves) != len(self._slot.values) or not all(map(torch.equal, leaves, self._slot.values))

    def _step(self, optimizer: Optimizer, error: float | None) -> bool:
        """Emit a step of an optimiser, if it holds what the last loss depended on, and return whether it does."""
        ours = any(leaf is tensor for leaf in self._slot.leaves for tensor in _tensors(optimizer))
        if ours:
            self._emit({"call": "step", "expected": self._steps.expected is not None, "error": error})
        return ours

    def _updated(self, error: float) -> None:
        self._emit({"call": "update", "error": error})

    def _step_done(
        self, seen: dict[str, Any], loss: Tensor | None = None, *, images: Tensor, labels: Tensor, step: int
    ) -> None:
        leaves = self._steps.current(self._slot.leaves)
        seen |= {"step": step, "images": _kind(images, leaves), "moved": self._changed()}
        if (start := self._slot.start) is not None and start.shape == images.shape:
            same = images.detach() == start
            same[..., ::EDGE] = True  # there clipping moves what no step has
            seen["unmoved"] = int(same.flatten(1).all(dim=1).sum())
        self._slot.remember(leaves)
        self._real["step_done"](loss, images=images, labels=labels, step=step)

    def _image_index(self, seen: dict[str, Any], index: int, position: int) -> int:
        answer: int = self._real["image_index"](index, position)
        seen |= {"position": position, "index": answer}
        return answer


def _below(tree: Path, file: str) -> str:
    return Path(os.path.relpath(os.path.realpath(file), os.path.realpath(tree))).as_posix()


def _kind(images: Tensor, leaves: Sequence[Tensor]) -> str:
    """Return what the script hands over as images: `leaf`, which is optimised, `made` of it, or `other`."""
    if any(images is leaf for leaf in leaves):
        return "leaf"
    of = leaves_of(images)
    return "made" if any(leaf is one for leaf in leaves for one in of) else "other"


def _gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a scalar, 0 where it doesn't depend on a leaf; its graph stays."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(one.double().square().sum()) for one in gradients))
