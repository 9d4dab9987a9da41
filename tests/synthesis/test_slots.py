"""Slots of an interrupted pass: those that are finished are left out, and the others have the bits of a whole pass."""

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from support.synthesis_loop import CLASSES, STEPS, Term, network, varied
from torch import Tensor, nn

from dire_plug.api.plans import build_plan
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.hookspecs import hookimpl
from dire_plug.seeding import put_back_random_state, seed_everything, take_random_state
from dire_plug.synthesis import RunningSynthesis, collect, gather_losses
from dire_plug.types import Batch, Slot, Synthesis

REGROUPED = {"script": "toy", "flags": {}, "plan": {"per_class": 2}}


class KilledError(Exception):
    """Stands for the end of the process."""


class OneClassEach:
    """An adapter that only plans: a batch for each class."""

    embeddings_are_nonnegative = True

    def plan(self, recover: Any, *, classes: int, ipc: int) -> Any:
        per_class = 1 if recover.plan == "keep" else recover.plan.per_class
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=CLASSES, per_class=per_class)


class Drawing:
    """A term that draws from the plugins' generator, and notes which hooks are called in which batch."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        self.calls.append(("loss", batch.slot.batch_index))
        return batch.embeddings.sum() * torch.rand((), generator=synthesis.generator)

    @hookimpl
    def step_done(self, batch: Batch) -> None:
        self.calls.append(("step_done", batch.slot.batch_index))

    @hookimpl
    def slot_done(self, slot: Slot) -> None:
        self.calls.append(("slot_done", slot.batch_index))


def make(folder: Path, term: object, **spec: Any) -> RunningSynthesis:
    """Return a synthesis whose slots are independent."""
    folder.mkdir(exist_ok=True)
    adapter: Any = OneClassEach()
    return varied(folder, adapter=adapter, terms={"term": term}, **{"independent": True, "chained": False, **spec})


def run_pass(synthesis: RunningSynthesis, *, kill_in: int | None = None, asks: bool = True) -> dict[int, Tensor]:
    """Run a pass of a loop that draws as upstream's do; return batch → its images, as the loop would save them.

    Args:
        kill_in: the batch in whose second step the loop ends.
        asks: whether the loop asks for the number of its iterations.
    """
    saved = {}
    teacher = network()
    synthesis.begin_pass(0)
    seed_everything(synthesis.seed, 0)
    synthesis.watch(teacher)
    for batch in range(CLASSES):
        held = synthesis.plan.slot(Slot(0, batch)).labels
        labels = synthesis.labels(torch.tensor(held))
        images = synthesis.start(torch.randn(len(labels), 3, 2, 2, requires_grad=True), labels)
        for step in range(synthesis.steps_to_do(STEPS) if asks else STEPS):
            if (batch, step) == (kill_in, 1):
                raise KilledError
            moved = torch.roll(images, random.randint(0, 1), 3) * float(numpy.random.rand())
            loss = nn.functional.cross_entropy(teacher(moved), labels)
            total = synthesis.loss(loss, images=images, labels=labels, step=step)
            (gradient,) = torch.autograd.grad(total, images)
            images.data -= gradient
            synthesis.step_done(total, images=images, labels=labels, step=step)
        # as an evaluation between two batches would
        random.random()
        saved[batch] = images.detach().clone()
    synthesis.end_pass()
    return saved


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_pass_resumes_at_its_first_missing_slot_with_the_same_bits(tmp_path: Path, killed: int) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    saved = run_pass(make(whole, Drawing()))
    with pytest.raises(KilledError):
        run_pass(make(resumed, Drawing()), kill_in=killed)
    # the state of this process has nothing to do with that of the one that was killed
    seed_everything(99, 99)
    term = Drawing()
    again = run_pass(make(resumed, term))
    assert {batch for _, batch in term.calls} == set(range(killed, CLASSES))
    assert all(torch.equal(again[batch], images) for batch, images in saved.items())
    for one, other in zip(collect({0: resumed / "passes"}), collect({0: whole / "passes"}), strict=True):
        assert torch.equal(one, other)
    assert gather_losses({0: resumed / "passes"}) == gather_losses({0: whole / "passes"})


@pytest.mark.parametrize("killed", [0, 2])
def test_a_regrouped_pass_resumes_with_the_same_bits_and_holes(tmp_path: Path, killed: int) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    saved = run_pass(make(whole, Drawing(), recover=REGROUPED))
    with pytest.raises(KilledError):
        run_pass(make(resumed, Drawing(), recover=REGROUPED), kill_in=killed)
    for file in (resumed / "passes").glob("*-batch-0000.*"):
        file.unlink()
    seed_everything(99, 99)
    term = Drawing()
    again = run_pass(make(resumed, term, recover=REGROUPED))
    assert {batch for _, batch in term.calls} == {0, *range(killed, CLASSES)}
    assert all(torch.equal(again[batch], images) for batch, images in saved.items())
    for one, other in zip(collect({0: resumed / "passes"}), collect({0: whole / "passes"}), strict=True):
        assert torch.equal(one, other)
    assert gather_losses({0: resumed / "passes"}) == gather_losses({0: whole / "passes"})


def test_a_batch_made_elsewhere_gets_as_many_images_as_labels(tmp_path: Path) -> None:
    synthesis = make(tmp_path, Drawing(), recover=REGROUPED, batches=(1,))
    synthesis.begin_pass(0)
    labels = synthesis.labels(torch.zeros(2, dtype=torch.long))
    images = synthesis.start(torch.ones(5, 3, 2, 2, requires_grad=True), labels)
    assert images.shape == (2, 3, 2, 2)
    assert images.is_leaf
    assert images.requires_grad
    assert synthesis.steps_to_do(STEPS) == 0


@pytest.mark.parametrize(
    ("spec", "seeded"),
    [({}, False), ({"recover": REGROUPED}, True), ({"recover": REGROUPED, "independent": False}, False)],
    ids=["upstream's own plan", "regrouped", "regrouped, stateful"],
)
def test_regrouped_batches_alone_are_seeded_by_themselves(tmp_path: Path, spec: Any, seeded: bool) -> None:
    synthesis = make(tmp_path, Drawing(), **spec)
    synthesis.begin_pass(0)
    found = []
    for seed in (1, 2):
        seed_everything(seed, 0)
        synthesis.labels(torch.arange(1))
        found.append((float(torch.rand(())), random.random(), float(numpy.random.rand())))
        synthesis.begin_pass(0)
    assert (found[0] == found[1]) is seeded


def test_a_pass_whose_slots_are_all_finished_needs_no_step(tmp_path: Path) -> None:
    run_pass(make(tmp_path / "whole", Drawing()))
    (tmp_path / "whole" / "passes" / "pass-000.safetensors").unlink()
    term = Drawing()
    run_pass(make(tmp_path / "whole", term))
    assert term.calls == []


@pytest.mark.parametrize("spec", [{"independent": False}, {"chained": True}], ids=["stateful", "chained"])
def test_what_goes_from_slot_to_slot_otherwise_begins_its_pass_again(tmp_path: Path, spec: dict[str, bool]) -> None:
    with pytest.raises(KilledError):
        run_pass(make(tmp_path, Drawing(), **spec), kill_in=1)
    term = Drawing()
    run_pass(make(tmp_path, term, **spec))
    assert {batch for _, batch in term.calls} == set(range(CLASSES))


def test_slots_made_on_a_device_of_another_kind_are_made_again(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run_pass(make(tmp_path, Drawing()), kill_in=1)
    synthesis = make(tmp_path, Drawing(), device="cuda:0", real={})
    synthesis.begin_pass(0)
    synthesis.labels(torch.arange(1))
    assert synthesis.steps_to_do(STEPS) == STEPS


def test_a_patch_that_never_asks_for_its_iterations_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run_pass(make(tmp_path, Drawing()), kill_in=1)
    with pytest.raises(DirePlugError, match="needs a line ITERATIONS = bridge"):
        run_pass(make(tmp_path, Drawing()), asks=False)


def test_the_losses_of_a_slot_are_kept_with_it(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run_pass(make(tmp_path, Term(lambda batch: batch.embeddings.sum())), kill_in=1)
    kept = read_json(tmp_path / "passes" / "losses-000-batch-0000.json")
    assert kept["batch"] == 0
    assert sorted(kept["curves"]) == ["term", "upstream"]


def test_the_random_state_is_put_back() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(), float(numpy.random.randn()), float(torch.randn(()))]

    seed_everything(1, 2)
    draw()
    state = take_random_state("cpu")
    drawn = draw()
    draw()
    put_back_random_state(state, "cpu")
    assert draw() == drawn
