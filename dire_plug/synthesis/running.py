"""One running synthesis: plan, slot, active plugins, real embeddings, random state, progress.

Both engines drive it with the same calls: upstream's patched script through `bridge`, the native loop directly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pluggy
import torch
from torch import Tensor, nn

from dire_plug import plugins
from dire_plug.errors import DirePlugError, DivergedError, PluginError
from dire_plug.files import write_json
from dire_plug.recipe.model import RecoverSection
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import take_weight
from dire_plug.seeding import derive
from dire_plug.synthesis.embedder import Embedder, LoopEmbeddings, open_embedder
from dire_plug.synthesis.passes import load_state, save_pass, save_slot
from dire_plug.synthesis.recording import LossRecord
from dire_plug.synthesis.watching import EmbeddingWatch
from dire_plug.synthesis.weighting import Weighting
from dire_plug.types import CORESET, Adapter, Batch, Coreset, Plan, RealEmbeddings, Slot, StartImages

Emit = Callable[[dict[str, Any]], None]
SECONDS_BETWEEN_EVENTS = 0.5
EXTRAS = "extras.json"
"""What a script learned beside the images, in the folder of the passes."""


@dataclass(frozen=True)
class SynthesisSpec:
    """All that makes a synthesis, as job.json carries it to the child.

    Attributes:
        adapter: name of the method.
        recover: the recipe's section.
        regularizers: plugin → settings.
        classes, ipc, seed: of the run; `steps` is the number of iterations of a slot.
        device: where the script runs.
        start: {"kind", "shape", "file"}: see `StartImages`; the file holds `images`.
        real: key of a network → file with `values` and `labels`.
        passes: folder of the finished passes.
        networks: keys of the networks in the loop, in the order in which a patch hands them over.
        accelerate: freeze the networks' weights where the adapter says that their gradients are never used.
        embedder: where no trained network is in the loop, what embeds instead: see `embedder.Embedder`.
        frozen: key → what embeds outside of the loop, for the terms alone: likewise.
        in_loop: whether the terms work in the loop's own networks too.
    """

    adapter: str
    recover: dict[str, Any]
    regularizers: dict[str, dict[str, Any]]
    classes: int
    ipc: int
    steps: int
    seed: int
    device: str
    start: dict[str, Any]
    real: dict[str, str]
    passes: str
    networks: tuple[str, ...] = ("teacher",)
    embedder: dict[str, Any] | None = None
    accelerate: bool = False
    frozen: dict[str, dict[str, Any]] = field(default_factory=dict)
    in_loop: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON-like data."""
        return asdict(self)


def open_synthesis(spec: Mapping[str, Any], emit: Emit) -> RunningSynthesis:
    """Make the synthesis that `spec` (a `SynthesisSpec` as JSON) describes: its adapter, its plugins, nothing else."""
    known = SynthesisSpec(**spec)
    adapter = plugins.load_adapter(known.adapter)
    active: dict[str, object] = {known.adapter: adapter}
    for name, settings in known.regularizers.items():
        factory, (_, own) = plugins.load("regularizers", name), take_weight(settings)
        active[name] = factory(factory.settings_model(**own))
    return RunningSynthesis(known, adapter=adapter, manager=plugins.build_manager(active), emit=emit)


class RunningSynthesis:
    """Fulfils `types.Synthesis` for plugins, and answers the calls of a synthesis loop."""

    def __init__(
        self, spec: SynthesisSpec, *, adapter: Adapter, manager: pluggy.PluginManager, emit: Emit = lambda event: None
    ) -> None:
        """Prepare; `begin_pass` starts."""
        self._spec = spec
        self._manager = manager
        self._emit = emit
        self._plan = adapter.plan(RecoverSection.model_validate(spec.recover), classes=spec.classes, ipc=spec.ipc)
        self._nonnegative = adapter.embeddings_are_nonnegative
        self._start = _load_start(spec)
        self._freezes = spec.accelerate and adapter.freezes_after_first_step
        self._frozen: list[nn.Parameter] = []
        self._slot = Slot(0, -1)
        self._watches: dict[str, tuple[nn.Module, EmbeddingWatch]] = {}
        self._embedder: Embedder | LoopEmbeddings | None = open_embedder(spec.embedder, spec.device)
        self._outside = {name: Embedder(one, spec.device) for name, one in spec.frozen.items()}
        self._nonnegative &= all(one.nonnegative for one in self._outside.values())
        self._real: dict[str, RealEmbeddings] = {}
        self._state: dict[str, dict[str, Tensor]] = {}
        self._generator = torch.Generator()
        self._finished = 0
        self._in_use: Tensor | None = None
        self._rows_in_use: Tensor | None = None
        self._kept: dict[str, Tensor] = {}
        self._leaf: tuple[Tensor, Tensor] | None = None
        self._batch: Batch | None = None
        self._losses: dict[str, Tensor] = {}
        self._weighting = Weighting({name: take_weight(one)[0] for name, one in spec.regularizers.items()})
        self._record = LossRecord(spec.steps)
        self._asked, self._asked_in = "", ""
        self._all_finite: dict[str, Tensor] = {}
        self._last_event = 0.0
        self._terms = manager.hook.loss_term.get_hookimpls()
        self._listeners = manager.hook.step_done.get_hookimpls()

    # What a plugin sees.

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self._plan

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self._spec.classes

    @property
    def ipc(self) -> int:
        """Images per class."""
        return self._spec.ipc

    @property
    def steps(self) -> int:
        """Iterations of one slot."""
        return self._spec.steps

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._spec.seed

    @property
    def pass_index(self) -> int:
        """The pass that runs."""
        return self._slot.pass_index

    @property
    def bank(self) -> bool:
        """Whether the recipe turns the bank on."""
        return bool(self._spec.recover.get("bank", False))

    @property
    def nonnegative(self) -> bool:
        """Whether embeddings can't be negative, as the adapter says."""
        return self._nonnegative

    @property
    def generator(self) -> torch.Generator:
        """A CPU generator for plugins, re-seeded every pass."""
        return self._generator

    @property
    def start_images(self) -> StartImages:
        """How the recipe starts each image."""
        return self._start

    def real(self, teacher: str) -> RealEmbeddings:
        """Return the real embeddings of one watched network, on the synthesis's device."""
        if isinstance(self._embedder, LoopEmbeddings) and teacher not in self._outside:
            return self._embedder.real
        if teacher not in self._real:
            if teacher not in self._spec.real:
                raise DirePlugError(f"no real embeddings were made for the network '{teacher}'")
            tensors = _load(Path(self._spec.real[teacher]), self._spec.device)
            own = {name.removeprefix(CORESET): tensors[name] for name in tensors if name.startswith(CORESET)}
            self._real[teacher] = RealEmbeddings(tensors["values"], tensors["labels"], Coreset(**own) if own else None)
        return self._real[teacher]

    def state(self, plugin: object) -> dict[str, Tensor]:
        """Return the tensors that this plugin keeps."""
        name = self._manager.get_name(plugin)
        if name is None:
            raise DirePlugError("a plugin that isn't active in this synthesis asked for its state")
        return self._state.setdefault(name, {})

    def record(self, name: str, value: Tensor | float, *, part: bool = False) -> None:
        """Keep a scalar of this step as `<plugin>/<name>` beside the losses, at the steps that the record keeps.

        Where a term works in networks outside of the loop too, the network's key follows: `<plugin>/<name>/<key>`.
        """
        if isinstance(value, Tensor) and value.numel() != 1:
            raise DirePlugError(f"record '{name}': a scalar is needed, not a tensor of shape {tuple(value.shape)}")
        self._record.name(f"{self._asked}/{name}{self._asked_in}", value, part=part)

    # What drives it.

    def begin_pass(self, pass_index: int) -> None:
        """Begin a pass: restore what plugins kept after the pass before, and seed their generator."""
        self._slot = Slot(pass_index, -1)
        self._leaf = self._in_use = self._rows_in_use = None
        self._finished = 0
        self._record.begin_pass()
        self._generator.manual_seed(derive(self.seed, "plugins", pass_index))
        self._state = load_state(self._spec.passes, pass_index - 1, self._spec.device)
        self._report(force=True)

    def end_pass(self) -> None:
        """End a pass: save what plugins keep, and what the script learned beside the images."""
        self._finish_slot()
        if self._finished != self._plan.slots_per_pass:
            raise DirePlugError(
                f"pass {self._slot.pass_index} of the script finished {self._finished} of "
                f"{self._plan.slots_per_pass} batches; nothing of this pass is kept"
            )
        if self._kept:
            write_json(Path(self._spec.passes) / EXTRAS, {name: value.tolist() for name, value in self._kept.items()})
        self._record.save(self._spec.passes, self._slot.pass_index)
        save_pass(self._spec.passes, self._slot.pass_index, self._state)

    # What a loop calls.

    def watch(self, network: nn.Module | Sequence[nn.Module]) -> None:
        """Keep the input of the last linear layer of every forward pass that builds a graph.

        Args:
            network: one, or several in the order of the specification's `networks`; they replace those before.

        Raises:
            DirePlugError: their number isn't that of `networks`.
        """
        networks = [network] if isinstance(network, nn.Module) else list(network)
        if len(networks) != len(self._spec.networks):
            raise DirePlugError(
                f"the patch watches {len(networks)} networks, but the recipe has {len(self._spec.networks)}: "
                f"{', '.join(self._spec.networks)}"
            )
        for _, watch in self._watches.values():
            watch.close()
        named = zip(self._spec.networks, networks, strict=True)
        self._watches = {name: (module, EmbeddingWatch(module)) for name, module in named}

    def labels(self, labels: Tensor) -> Tensor:
        """Begin the next slot; return its labels, [N]: the same object where nobody answers."""
        self._next_slot()
        answer: Tensor = self._ask("plan_labels", labels, labels=labels)
        return answer

    def order(self, order: Tensor) -> Tensor:
        """Return the order in which a pass goes through its images: the same object where nobody answers."""
        answer: Tensor = self._ask("plan_order", order, order=order)
        return answer

    def start(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the start images: the same object where nobody answers, else a new tensor on the same device.

        It is a leaf that requires a gradient where the given one does. A slot without a step ends with it.
        """
        answer: Tensor = self._ask("initial_images", images, images=images, labels=labels)
        if answer is not images:
            if answer.shape[0] != labels.shape[0]:
                raise PluginError(f"start images: {answer.shape[0]} rows for {labels.shape[0]} labels in {self._slot}")
            answer = answer.detach().to(images.device, images.dtype).clone().requires_grad_(images.requires_grad)
        self._leaf = (answer, labels)
        return answer

    def embedded(self, images: Tensor, real: Tensor) -> None:
        """Keep what the loop's own network made of synthetic and real images, where the recipe's terms work on that."""
        used = (self._terms or self._listeners) and (self._spec.in_loop or not self._outside)
        if isinstance(self._embedder, LoopEmbeddings) and used:
            self._embedder.add(images, real)

    def in_use(self, labels: Tensor, *, images: Tensor | None = None) -> Tensor:
        """Remember the labels of the coming loss, where a step sees a part of the slot; return the same object.

        Args:
            images: the part of the optimised leaf that has these labels, with its graph; None is all of it.
        """
        self._in_use, self._rows_in_use = labels, images
        return labels

    def loss(
        self, loss: Tensor, *, images: Tensor, labels: Tensor, step: int, network: nn.Module | None = None
    ) -> Tensor:
        """Return upstream's loss plus the active terms: the same object where there is none.

        Args:
            network: the watched one that made this step's forward pass; None where there is one.

        Raises:
            PluginError: a plugin raised, or its term is no finite scalar with a graph.
        """
        self._losses = {"upstream": loss.detach()}
        self._batch = None
        used, self._in_use = (labels if self._in_use is None else self._in_use), None
        rows, self._rows_in_use = (images if self._rows_in_use is None else self._rows_in_use), None
        if not self._terms and not self._listeners:
            return loss
        batches = []
        if self._spec.in_loop or not self._outside:
            batches.append(self._make_batch(loss, images=images, labels=used, step=step, network=network))
        for key, embedder in self._outside.items():
            embeddings, of, scale = embedder(rows, used, generator=self._generator)
            batches.append((Batch(images, loss, of, embeddings, key, step, self._slot), scale))
        total = loss
        for implementation in self._terms:
            answers = [self._weigh(implementation, batch, scale) for batch, scale in batches]
            parts = [answer for answer in answers if answer is not None]
            self._record.average(len(parts))
            if parts:
                added = parts[0] if len(parts) == 1 else torch.stack(parts).mean()
                self._losses[implementation.plugin_name] = added.detach()
                total = total + added
        first = batches[0][0]
        self._batch = replace(first, loss=loss.detach(), embeddings=first.embeddings.detach())
        return total

    def _weigh(self, implementation: pluggy.HookImpl, batch: Batch, scale: float) -> Tensor | None:
        """Return the weighted term of one plugin in one network; None where it answers nothing."""
        self._asked_in = f"/{batch.teacher}" if self._outside else ""
        term = self._call(implementation, {"synthesis": self, "batch": batch})
        place, self._asked_in = self._asked_in, ""
        if term is None:
            self._record.weigh(0.0)
            return None
        name = implementation.plugin_name
        self._check_term(name, term)
        added, weight = self._weighting.apply(name, term if scale == 1 else term * scale, batch)
        self._record.weigh(scale * weight)
        if isinstance(weight, Tensor):
            self._record.name(f"{name}/{WEIGHT}{place}", weight)
        return added

    def step_done(self, loss: Tensor, *, images: Tensor, labels: Tensor, step: int) -> None:
        """Tell plugins that a step is done; report progress now and then."""
        self._leaf = (images, labels)
        if self._freezes and not self._frozen and self._is_last_slot():
            self._freeze()
        if self._listeners and self._batch is not None:
            arguments = {"synthesis": self, "batch": self._batch, "losses": self._losses}
            for implementation in self._listeners:
                self._call(implementation, arguments)
        self._weighting.step_done()
        self._record.step_done(step, self._losses)
        self._report(step=step + 1)

    def keep(self, **values: Tensor) -> None:
        """Keep what a script learns beside the images; it is read when the pass ends."""
        self._kept = {name: value.detach() for name, value in values.items()}

    def image_index(self, index: int, position: int) -> int:
        """Return which image of its class a position of the current slot is; `index` where nobody answers."""
        return int(self._ask("image_index", index, position=position))

    # Inside.

    def _next_slot(self) -> None:
        self._finish_slot()
        self._unfreeze()
        self._slot = Slot(self._slot.pass_index, self._slot.batch_index + 1)

    def _is_last_slot(self) -> bool:
        """Tell whether no other slot of the pass follows: DWA's next one uses the gradients that this one leaves."""
        return self._slot.batch_index + 1 == self._plan.slots_per_pass

    def _freeze(self) -> None:
        """Stop computing gradients of the watched networks' weights until the next slot begins."""
        parameters = (one for module, _ in self._watches.values() for one in module.parameters())
        self._frozen = [one for one in parameters if one.requires_grad]
        for one in self._frozen:
            one.requires_grad_(False)
            one.grad = None

    def _unfreeze(self) -> None:
        for one in self._frozen:
            one.requires_grad_(True)
        self._frozen = []

    def _finish_slot(self) -> None:
        if self._leaf is None:
            return
        self._check_finite()
        images, labels = (tensor.detach().clone() for tensor in self._leaf)
        if not torch.isfinite(images).all():
            raise DivergedError(
                f"the images of pass {self._slot.pass_index}, batch {self._slot.batch_index} are not finite: the "
                "synthesis diverged; lower the learning rate or the weights of the terms"
            )
        self._leaf = self._batch = None
        arguments = {"synthesis": self, "slot": self._slot, "images": images, "labels": labels}
        for implementation in self._manager.hook.slot_done.get_hookimpls():
            self._call(implementation, arguments)
        index = self._plan.slot(self._slot).images
        if len(index) != len(images):
            raise DirePlugError(f"{self._slot}: the script made {len(images)} images where the plan has {len(index)}")
        save_slot(
            self._spec.passes, self._slot, images=images.cpu(), labels=labels.cpu().long(), index=torch.tensor(index)
        )
        self._record.slot_done(self._slot)
        self._finished += 1

    def _ask(self, hook: str, unchanged: Any, **arguments: Any) -> Any:
        """Return the one answer to an asked hook, or `unchanged`; two answers are an error."""
        arguments |= {"synthesis": self, "slot": self._slot}
        answers = {}
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            answer = self._call(implementation, arguments)
            if answer is not None:
                answers[implementation.plugin_name] = answer
        if len(answers) > 1:
            raise PluginError(f"two plugins answer {hook}: {' and '.join(sorted(answers))}; at most one may")
        return next(iter(answers.values()), unchanged)

    def _call(self, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
        """Call one plugin's hook; an error carries the plugin's name."""
        name, hook = implementation.plugin_name, implementation.function.__name__
        self._asked = name
        try:
            return implementation.function(*(arguments[argument] for argument in implementation.argnames))
        except DirePlugError as error:
            raise type(error)(f"plugin '{name}': {error}") from error
        except Exception as error:
            raise PluginError(f"plugin '{name}': {hook} raised {type(error).__name__}: {error}") from error

    def _make_batch(
        self, loss: Tensor, *, images: Tensor, labels: Tensor, step: int, network: nn.Module | None
    ) -> tuple[Batch, float]:
        """Return what plugins see of a step, and the factor of their terms: C/c where c of C classes are embedded."""
        if self._embedder is not None:
            embeddings, used, scale = self._embedder(images, labels, generator=self._generator)
            return Batch(images, loss, used, embeddings, self._spec.networks[0], step, self._slot), scale
        name, watch = self._find_watch(network)
        embeddings = watch.take()
        if embeddings.shape[0] != labels.shape[0]:
            raise DirePlugError(f"{embeddings.shape[0]} embeddings for {labels.shape[0]} labels in {self._slot}")
        return Batch(images, loss, labels, embeddings, name, step, self._slot), 1.0

    def _find_watch(self, network: nn.Module | None) -> tuple[str, EmbeddingWatch]:
        if not self._watches:
            raise DirePlugError("the patch never handed a network to bridge.watch")
        if network is None and len(self._watches) > 1:
            raise DirePlugError("the patch watches several networks, so bridge.loss must be told which one: network=…")
        for name, (module, watch) in self._watches.items():
            if network is None or module is network:
                return name, watch
        raise DirePlugError("the patch hands bridge.loss a network that it never handed to bridge.watch")

    def _check_term(self, name: str, term: object) -> None:
        if not isinstance(term, Tensor) or term.ndim != 0:
            shape = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            raise PluginError(f"plugin '{name}': loss_term must return a scalar tensor, not {shape}")
        if not term.requires_grad:
            raise PluginError(f"plugin '{name}': loss_term returned a tensor without a graph; don't detach embeddings")
        finite = torch.isfinite(term.detach())
        if term.device.type == "cpu" and not finite:
            raise PluginError(f"plugin '{name}': its term is {term.item()} in {self._slot}")
        self._all_finite[name] = self._all_finite[name] & finite if name in self._all_finite else finite

    def _check_finite(self) -> None:
        """Look at the terms' finiteness, gathered on the device so that no step waits for it."""
        for name, finite in self._all_finite.items():
            if not finite:
                raise PluginError(f"plugin '{name}': its term was not finite in {self._slot}")

    def _report(self, *, step: int = 0, force: bool = False) -> None:
        now = time.monotonic()
        if not force and step < self.steps and now - self._last_event < SECONDS_BETWEEN_EVENTS:
            return
        self._last_event = now
        self._check_finite()
        self._emit(
            {
                "event": "step",
                "pass": self._slot.pass_index,
                "batch": max(self._slot.batch_index, 0),
                "step": step,
                "losses": {name: float(value) for name, value in self._losses.items()},
            }
        )


def _load_start(spec: SynthesisSpec) -> StartImages:
    start = spec.start
    shape = tuple(start["shape"]) if start["shape"] else None
    if start["kind"] != "real":
        return StartImages(start["kind"], shape)
    pixels = _load(Path(start["file"]), "cpu")["images"]  # kept off the GPU: only the rows of a slot go there
    return StartImages("real", shape, pixels, tuple(start["mean"]), tuple(start["std"]))


def _load(path: Path, device: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path, device=device)
    except Exception as error:
        raise DirePlugError(f"{path}: cannot be read as safetensors: {error}") from error
