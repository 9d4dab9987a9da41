"""Run one synthesis: plan, slot, active plugins, real embeddings, random state, progress.

Both engines drive it with the same calls: upstream's patched script through `bridge`, the native loop directly. This
module decides what happens when; the modules beside it do it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pluggy
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from dire_plug import plugins
from dire_plug.acceleration import FROZEN, Components, accelerate_in_loop, use_tf32
from dire_plug.api.rows import labels_on_host, tell_labels
from dire_plug.devices import upload
from dire_plug.errors import DirePlugError
from dire_plug.recipe.model import RecoverSection
from dire_plug.recipe.weight import take_weight
from dire_plug.seeding import derive, put_back_random_state, seed_everything, take_random_state
from dire_plug.synthesis.embeddings import Embeddings
from dire_plug.synthesis.hooks import Answer, Hooks, check_images, check_index, check_labels, check_order
from dire_plug.synthesis.recording import Emit, LossRecord, StepEvents
from dire_plug.synthesis.saved_passes import (
    CurrentPass,
    find_finished,
    find_seeded,
    load_state,
    read_slot,
    save_random_state,
)
from dire_plug.synthesis.spec import SynthesisSpec, load_start
from dire_plug.synthesis.terms import LateTerms, Terms
from dire_plug.types import Adapter, Batch, Plan, RealEmbeddings, Slot, StartImages

PLUGINS = "plugins"
"""The plugins' generator, among the random state that is saved with a slot."""


class RunningSynthesis:
    """Implements `types.Synthesis` for plugins, and the calls of a synthesis loop."""

    def __init__(
        self, spec: SynthesisSpec, *, adapter: Adapter, manager: pluggy.PluginManager, emit: Emit = lambda event: None
    ) -> None:
        """Set up all that doesn't change from pass to pass."""
        self._spec = spec
        self._plan = adapter.plan(RecoverSection.model_validate(spec.recover), classes=spec.classes, ipc=spec.ipc)
        self._start = load_start(spec.start)
        self._adapter = adapter
        self._components = Components(tuple(spec.components))
        self._freezes = (spec.accelerate or FROZEN in self._components) and adapter.freezes_after_first_step
        use_tf32(self._components)
        self._embeddings = Embeddings(spec)
        self._nonnegative = adapter.embeddings_are_nonnegative and self._embeddings.nonnegative
        # so that a batch can be made without those before it; upstream's own plan keeps upstream's own numbers
        self._seeds_batches = spec.independent and self._plan.regrouped
        # what plugins keep goes from slot to slot too, and is saved with whole passes only
        self._resumes = spec.independent and not spec.chained
        self._pass = CurrentPass(spec.passes, self._plan)
        self._put_back: dict[str, Tensor] = {}
        self._generator = torch.Generator()
        self._hooks = Hooks(manager, self)
        # without a plugin that looks at steps, nothing is embedded: a baseline runs at upstream's own speed
        self._follows_steps = bool(self._hooks.of("loss_term") or self._hooks.of("step_done"))
        self._record = LossRecord(spec.steps)
        weights = {name: take_weight(one)[0] for name, one in spec.regularizers.items()}
        self._terms = Terms(self._hooks, weights, self._record, name_networks=self._embeddings.has_outside)
        self._emit, self._events = emit, StepEvents(emit, spec.steps)
        self._in_use: tuple[Tensor, Tensor | None] | None = None
        self._parts: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._losses: dict[str, Tensor] = {}
        self._batch: Batch | None = None
        self._late: LateTerms | None = None
        self._called = ""

    # For plugins.

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
        return self._pass.slot.pass_index

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
        """A CPU generator for plugins, seeded again every pass, or every batch where those are seeded."""
        return self._generator

    @property
    def start_images(self) -> StartImages:
        """How the recipe starts each image."""
        return self._start

    def real(self, teacher: str) -> RealEmbeddings:
        """Return the real embeddings of one watched network, on the synthesis's device."""
        return self._embeddings.real(teacher)

    def state(self, plugin: object) -> dict[str, Tensor]:
        """Return the tensors that this plugin keeps."""
        name = self._hooks.name_of(plugin)
        if name is None:
            raise DirePlugError("a plugin that isn't active in this synthesis asked for its state")
        if not self._spec.chained:
            raise DirePlugError(f"{name}: asked for its state, but the passes of this synthesis are independent")
        return self._pass.state.setdefault(name, {})

    def record(self, name: str, value: Tensor | float, *, component: bool = False) -> None:
        """Keep a scalar of this step as `<plugin>/<name>` beside the losses, at the steps that the record keeps.

        Where a term works in several networks in a step, or outside of the loop, the network's key follows:
        `<plugin>/<name>/<key>`.
        """
        if isinstance(value, Tensor) and value.numel() != 1:
            raise DirePlugError(f"record '{name}': a scalar is needed, not a tensor of shape {tuple(value.shape)}")
        self._record.name(f"{self._hooks.asked}/{name}{self._terms.suffix}", value, part=component)

    # For the engines.

    def plugin(self, name: str) -> Any:
        """Return an active plugin by its name; None where it isn't active."""
        return self._hooks.plugin(name)

    def begin_pass(self, pass_index: int) -> None:
        """Begin a pass: restore what plugins kept after the pass before, and seed their generator.

        Slots that an interrupted process finished are left out, where the script's are independent.
        """
        # from the file and not from memory, so that a resumed run and an uninterrupted one start the pass alike
        kept = load_state(self._spec.passes, pass_index - 1, self._spec.device) if self._spec.chained else {}
        folder, finished = self._spec.passes, set[int]()
        self._put_back = {}
        if self._resumes and self._seeds_batches:
            finished = find_seeded(folder, pass_index, slots=self._plan.slots_per_pass)
        elif self._resumes:
            finished, self._put_back = find_finished(folder, pass_index, device=self._spec.device)
        self._pass = CurrentPass(
            folder, self._plan, index=pass_index, state=kept, finished=finished, batches=self._spec.batches
        )
        self._in_use = None
        self._record.begin_pass()
        # a generator of its own: a plugin that draws must not shift upstream's random numbers
        self._generator.manual_seed(derive(self.seed, "plugins", pass_index))
        self._report(force=True)

    def end_pass(self) -> None:
        """End a pass: save what plugins keep, and what the script learned beside the images."""
        self._finish_slot()
        self._pass.end(self._record)

    # For a loop, through `bridge`.

    def watch(self, network: nn.Module | Sequence[nn.Module], *, names: str | Sequence[str] | None = None) -> None:
        """Keep the embeddings of one network in the loop, or of several in the order of the specification's `networks`.

        Args:
            names: what the script calls them, where a pass takes some of those networks, or in another order; of one
                network its name alone will do, since a patch can't make a list of it.

        Raises:
            DirePlugError: their number isn't that of `networks` or of `names`, or a name isn't the adapter's.
        """
        for one in [network] if isinstance(network, nn.Module) else network:
            accelerate_in_loop(one, self._components, self._spec.device)
        names = [names] if isinstance(names, str) else names
        keys = None if names is None else [self._key_of(name) for name in names]
        self._embeddings.loop.watch(network, keys=keys)

    def _key_of(self, name: str) -> str:
        """Return the recipe's key of a network that the script calls `name`."""
        names = self._adapter.network_names
        key = names.get(name)
        if key not in self._spec.networks:
            known = ", ".join(one for one, key in names.items() if key in self._spec.networks) or "none"
            raise DirePlugError(
                f"the script takes a network that it calls '{name}', but of the recipe's networks the adapter's "
                f"network_names has {known}"
            )
        return key

    def labels(self, labels: Tensor) -> Tensor:
        """Begin the next slot; return its labels, [N]: the same object where nobody answers."""
        self._finish_slot()
        self._parts = {}
        # the first step of a slot needs the gradients again: upstream's code may use them there
        self._embeddings.loop.unfreeze()
        self._pass.next_slot()
        if self._pass.slot_is_finished:
            self._record.take_up(self._spec.passes, self._pass.slot)
        elif self._seeds_batches:
            self._seed_batch(self._pass.slot)
        elif self._put_back:
            # here and not after the last finished slot: the script may have drawn since, as it did in the first run
            put_back_random_state(self._put_back, self._spec.device)
            self._generator.set_state(self._put_back[PLUGINS])
            self._put_back = {}
        check = partial(check_labels, classes=self._spec.classes)
        return self._ask("plan_labels", labels, check=check, labels=labels)

    def order(self, order: Tensor) -> Tensor:
        """Return the order in which a pass goes through its images: the same object where nobody answers."""
        return self._ask("plan_order", order, check=partial(check_order, order=order), order=order)

    def start(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the start images: the same object where nobody answers, else a new tensor on the same device.

        It is a leaf that requires a gradient where the given one does. A slot without a step ends with it. A slot that
        was finished before starts, and ends, with its final images; one that isn't made here with constant ones,
        of which nothing is kept.
        """
        if self._pass.slot_is_finished:
            made, _ = read_slot(self._spec.passes, self._pass.slot)
            return made.to(images.device, images.dtype).requires_grad_(images.requires_grad)
        if self._pass.slot_is_left_out:
            # constant images are the fastest to write, and the script writes them
            # as many as labels: a regrouped batch of INFER's has fewer than the tensor that its script reads
            return images.new_zeros((len(labels), *images.shape[1:])).requires_grad_(images.requires_grad)
        check = partial(check_images, images=images, labels=labels)
        answer = self._ask("initial_images", images, check=check, images=images, labels=labels)
        if answer is not images:
            # a new leaf: the script makes its optimiser of what it gets back
            answer = answer.detach().to(images.device, images.dtype).clone().requires_grad_(images.requires_grad)
        self._pass.hold(answer, labels)
        return answer

    def steps_to_do(self, count: int) -> int:
        """Return the number of iterations of the slot: `count`, or 0 where it isn't made here."""
        return 0 if self._pass.slot_is_left_out else count

    def embedded(self, images: Tensor, real: Tensor) -> None:
        """Keep what the loop's own network made of synthetic and real images, where the recipe's terms work on that."""
        if self._follows_steps:
            self._embeddings.show(images, real)

    def in_use(self, labels: Tensor, *, rows: Sequence[int] | None = None) -> Tensor:
        """Remember which part of the slot the coming loss is of; return its labels.

        Args:
            labels: of the slot; of the part where `rows` isn't given.
            rows: the places of the part in the slot; None is all of it.
        """
        if rows is None:
            self._in_use = (labels, None)
            return labels
        # a script goes through its parts many times: the same tensors each time, so that no step uploads anything
        key = tuple(rows)
        if key not in self._parts:
            host = torch.tensor(key)
            index = upload(host, labels.device)
            self._parts[key] = (tell_labels(labels[index], labels_on_host(labels)[host]), index)
        self._in_use = self._parts[key]
        return self._in_use[0]

    def loss(
        self,
        loss: Tensor,
        *,
        images: Tensor,
        labels: Tensor,
        step: int,
        network: nn.Module | Sequence[nn.Module] | None = None,
        scaler: GradScaler | None = None,
    ) -> Tensor:
        """Return upstream's loss plus the active terms: the same object where there is none.

        Args:
            network: the watched one that made this step's forward pass, or all that made one: then a term is the mean
                over them. None where one is watched.
            scaler: by which the script scales the sum; a weight that follows gradients compares scaled ones then.

        Raises:
            PluginError: a plugin raised, or its term is no finite scalar with a graph.
            DirePlugError: the slot isn't made here, but the patch doesn't ask for the number of its iterations; or
                `bridge.term` was called in this step.
        """
        self._check_call(of=loss)
        self._losses = {"upstream": loss.detach()}
        batches = self._embed(loss, images=images, labels=labels, step=step, network=network)
        if not batches:
            return loss
        total, terms = self._terms.add(loss, batches, scaler=scaler)
        self._losses |= terms
        return total

    def term(
        self,
        *,
        images: Tensor,
        labels: Tensor,
        step: int,
        network: nn.Module | Sequence[nn.Module] | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """Take the gradients of the active terms, and add them to that of the script's loss when it comes.

        Args:
            network: as in `loss`.
            scaler: by which the script scales its loss.

        Raises:
            PluginError: a plugin raised, or its term is no finite scalar with a graph.
            DirePlugError: as in `loss`; or it stands after `backward`, or a second time before it.
        """
        self._check_call(of=None)
        self._losses = {}
        if batches := self._embed(None, images=images, labels=labels, step=step, network=network):
            self._late = self._terms.delay(batches, images=images, scaler=scaler)

    def _check_call(self, *, of: Tensor | None) -> None:
        """Check that a loss, or a term without one, may come now."""
        if self._pass.slot_is_left_out:
            raise DirePlugError(
                f"{self._pass.slot} is left out, but the script runs its iterations: the adapter says that its slots "
                "are independent, so its patch needs a line ITERATIONS = bridge.steps(ITERATIONS)"
            )
        self._take_late(before="the next bridge.term")
        name = "term" if of is None else "loss"
        if self._called not in ("", name):
            raise DirePlugError(f"a step of {self._pass.slot} calls bridge.loss and bridge.term; one of them is enough")
        self._called = name

    def _take_late(self, *, before: str) -> None:
        """Take the values of terms that waited for the gradient of the script's loss.

        Raises:
            DirePlugError: it hasn't come.
        """
        if (late := self._late) is None:
            return
        self._late, waits = None, late.waits
        late.close()
        if waits:
            raise DirePlugError(
                f"{self._pass.slot}: no gradient has reached `images` between bridge.term and {before}; bridge.term "
                "must stand once in a step, after the forward pass and before `backward`"
            )
        self._losses |= late.added

    def _embed(
        self,
        loss: Tensor | None,
        *,
        images: Tensor,
        labels: Tensor,
        step: int,
        network: nn.Module | Sequence[nn.Module] | None,
    ) -> list[tuple[Batch, float]]:
        """Return the step in each network, with the factor of terms there; nothing where no plugin looks at steps."""
        self._batch = None
        # used once: the next step says again which part it sees
        (used, rows), self._in_use = self._in_use or (labels, None), None
        batches: list[tuple[Batch, float]] = []
        if not self._follows_steps:
            return batches
        part, slot = images if rows is None else images[rows], self._pass.slot
        for teacher, embeddings, own, scale in self._embeddings.embed(
            images, part, used, network=network, generator=self._generator
        ):
            if len(embeddings) != len(own):
                raise DirePlugError(f"{len(embeddings)} embeddings for {len(own)} labels in {slot}")
            batches.append((Batch(images, loss, own, embeddings, teacher, step, slot), scale))
        first, _ = batches[0]
        # for `step_done`, when the graph is gone; with it, the step's memory would be kept alive
        detached = None if loss is None else loss.detach()
        self._batch = replace(first, loss=detached, embeddings=first.embeddings.detach())
        return batches

    def step_done(self, loss: Tensor | None = None, *, images: Tensor, labels: Tensor, step: int) -> None:
        """Call the plugins' `step_done`; report progress now and then.

        Raises:
            DirePlugError: no `backward` followed `bridge.term`.
        """
        self._take_late(before="bridge.step_done")
        self._called = ""
        self._pass.hold(images, labels)
        # DWA's next slot uses the gradients that this one leaves, so freezing any but the last changes bits
        if self._freezes and (FROZEN in self._components or self._pass.in_last_slot):
            self._embeddings.loop.freeze()
        if self._batch is not None:
            self._hooks.tell("step_done", batch=self._batch, losses=self._losses)
        self._terms.step_done()
        self._record.step_done(step, self._losses)
        self._report(step=step + 1)

    def keep(self, **values: Tensor) -> None:
        """Keep what a script learns beside the images; it is read when the pass ends."""
        self._pass.keep(values)

    def image_index(self, index: int, position: int) -> int:
        """Return which image of its class a position of the current slot is; `index` where nobody answers."""
        return self._ask("image_index", index, check=check_index, position=position)

    # Private.

    def _ask(self, hook: str, unchanged: Answer, *, check: Callable[[Any], str | None], **arguments: Any) -> Answer:
        return self._hooks.ask(hook, unchanged, check=check, slot=self._pass.slot, **arguments)

    def _finish_slot(self) -> None:
        """Call the plugins' `slot_done` with the slot's final images, and save them; do nothing where it has none."""
        if self._pass.slot_is_finished:
            self._tell_finished(before=True)
        self._take_late(before="the end of the batch")
        self._called = ""
        if not self._pass.holds_images:
            return
        self._terms.check_finite(self._pass.slot)
        images, labels = self._pass.take_images()
        self._batch = None
        self._hooks.tell("slot_done", slot=self._pass.slot, images=images, labels=labels)
        self._pass.save(images, labels)
        self._record.slot_done(self._pass.slot)
        if self._resumes:
            folder, slot = self._spec.passes, self._pass.slot
            self._record.save_slot(folder, slot)
            if not self._seeds_batches:
                # last: with it the slot counts as finished
                state = take_random_state(self._spec.device) | {PLUGINS: self._generator.get_state()}
                save_random_state(folder, slot, state)
        self._tell_finished(before=False)

    def _tell_finished(self, *, before: bool) -> None:
        """Send that a slot is finished, and the script has written its files: here, or before and now again."""
        slot = self._pass.slot
        self._emit({"event": "slot", "pass": slot.pass_index, "batch": slot.batch_index, "before": before})

    def _seed_batch(self, slot: Slot) -> None:
        """Seed a slot by itself, before the loop draws anything for it, and the plugins' generator."""
        seed_everything(self.seed, slot.pass_index, batch=slot.batch_index)
        self._generator.manual_seed(derive(self.seed, "plugins", slot.pass_index, slot.batch_index))

    def _report(self, *, step: int = 0, force: bool = False) -> None:
        if self._events.is_due(step, force=force):
            self._terms.check_finite(self._pass.slot)
            self._events.send(self._pass.slot, step, self._losses)


# From a specification to a synthesis with its adapter and its plugins.


def open_synthesis(spec: Mapping[str, Any], emit: Emit) -> RunningSynthesis:
    """Make the synthesis that `spec` (a `SynthesisSpec` as JSON) describes: its adapter, its plugins, nothing else.

    Raises:
        DirePlugError: a plugin's code isn't that by which the synthesis was named.
    """
    known = SynthesisSpec(**spec)
    _check_code(known)
    # after the check: code that was edited since isn't loaded
    adapter = plugins.load_adapter(known.adapter)
    # the adapter first: it answers the plan and start hooks, and hooks run in the order of registration
    active: dict[str, object] = {known.adapter: adapter}
    for name, settings in known.regularizers.items():
        factory, (_, own) = plugins.load("regularizers", name), take_weight(settings)
        active[name] = factory(factory.settings_model(**own))
    return RunningSynthesis(known, adapter=adapter, manager=plugins.build_manager(active), emit=emit)


def _check_code(spec: SynthesisSpec) -> None:
    """Raise where a plugin's code isn't that by which the synthesis was named.

    Raises:
        DirePlugError: it was edited since.
    """
    for name, digest in spec.code.items():
        kind, _, plugin = name.partition("/")
        if plugins.code_of(cast(plugins.Kind, kind), plugin) != digest:
            raise DirePlugError(
                f"the code of {name} was edited while this run was being made; run the command again: "
                "another formula makes another run"
            )
