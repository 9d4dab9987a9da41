"""The running synthesis: what a loop gets back, what plugins see, what a pass leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.synthesis_loop import CLASSES, STEPS, Grouped, Term, make, network, run_pass, varied
from torch import Tensor

from dire_plug.api.plans import ListedPlan
from dire_plug.errors import DirePlugError, PluginError
from dire_plug.hookspecs import hookimpl
from dire_plug.plugins import build_manager
from dire_plug.synthesis import collect, pass_file
from dire_plug.types import Batch, Slot, SlotPlan, Synthesis


def test_without_an_answer_the_loop_gets_the_same_objects_back(tmp_path: Path) -> None:
    synthesis = make(tmp_path)
    synthesis.begin_pass(0)
    labels, images, loss = torch.arange(CLASSES), torch.zeros(CLASSES, 3, 2, 2, requires_grad=True), torch.zeros(())
    assert synthesis.labels(labels) is labels
    assert synthesis.start(images, labels) is images
    assert synthesis.loss(loss, images=images, labels=labels, step=0) is loss
    assert synthesis.image_index(7, 0) == 7


def test_terms_are_added_to_upstreams_loss(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    class Listener:
        @hookimpl
        def step_done(self, batch: Batch, losses: dict[str, Tensor]) -> None:
            seen.append(dict(losses))

    one, two = Term(lambda b: b.embeddings.sum()), Term(lambda b: 2 * b.embeddings.sum())
    _, total = run_pass(make(tmp_path, one=one, two=two, listener=Listener()))
    assert len(seen) == STEPS
    assert sorted(seen[-1]) == ["one", "two", "upstream"]
    assert torch.isclose(seen[-1]["two"], 2 * seen[-1]["one"])
    assert torch.isclose(total, seen[-1]["upstream"] + seen[-1]["one"] + seen[-1]["two"])


def test_embeddings_are_the_input_of_the_last_linear_layer(tmp_path: Path) -> None:
    seen = []

    def keep(batch: Batch) -> Tensor:
        seen.append(batch.embeddings.detach().clone())
        return batch.embeddings.sum() * 0

    run_pass(make(tmp_path, term=Term(keep)))
    first_layers = network()[:3]
    assert torch.equal(seen[0], first_layers(torch.ones(CLASSES, 3, 2, 2)).detach())


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda b: b.embeddings, r"plugin 'bad': loss_term must return a scalar tensor, not \(3, 4\)"),
        (lambda b: 1.0, "plugin 'bad': loss_term must return a scalar tensor, not float"),
        (lambda b: b.embeddings.sum().detach(), "plugin 'bad': loss_term returned a tensor without a graph"),
        (lambda b: b.embeddings.sum() * float("nan"), "plugin 'bad': its term is nan"),
        (lambda b: 1 / 0, "plugin 'bad': loss_term raised ZeroDivisionError"),
    ],
)
def test_a_faulty_term_stops_the_run_with_the_plugins_name(tmp_path: Path, compute: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        run_pass(make(tmp_path, bad=Term(compute)))


def test_two_plugins_that_answer_one_question_are_refused(tmp_path: Path) -> None:
    class Planner:
        @hookimpl
        def plan_labels(self, labels: Tensor) -> Tensor:
            return labels.flip(0)

    synthesis = make(tmp_path, first=Planner(), second=Planner())
    synthesis.begin_pass(0)
    with pytest.raises(PluginError, match="two plugins answer plan_labels: first and second"):
        synthesis.labels(torch.arange(CLASSES))


@pytest.mark.parametrize("label", [-1, CLASSES, -(2**63)])
def test_a_label_that_is_no_class_is_refused(tmp_path: Path, label: int) -> None:
    class Planner:
        @hookimpl
        def plan_labels(self, labels: Tensor) -> Tensor:
            return torch.tensor([0, label])

    synthesis = make(tmp_path, odd=Planner())
    synthesis.begin_pass(0)
    with pytest.raises(PluginError, match=rf"'odd'.*labels from .*, expected classes from 0 to {CLASSES - 1}"):
        synthesis.labels(torch.arange(CLASSES))


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1, 3], [-1, 0, 1]])
def test_an_order_that_is_no_permutation_is_refused(tmp_path: Path, order: list[int]) -> None:
    class Planner:
        @hookimpl
        def plan_order(self) -> Tensor:
            return torch.tensor(order)

    synthesis = make(tmp_path, odd=Planner())
    synthesis.begin_pass(0)
    with pytest.raises(PluginError, match=r"'odd'.*leaves images out or repeats them"):
        synthesis.order(torch.arange(len(order)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_an_order_of_the_same_images_is_used(tmp_path: Path, dtype: torch.dtype) -> None:
    class Planner:
        @hookimpl
        def plan_order(self) -> Tensor:
            return torch.tensor([4, 2, 7], dtype=dtype)

    synthesis = make(tmp_path, other=Planner())
    synthesis.begin_pass(0)
    assert synthesis.order(torch.tensor([2, 4, 7])).tolist() == [4, 2, 7]


def test_a_hook_that_does_not_exist_is_refused() -> None:
    class Wrong:
        @hookimpl
        def loss_terms(self, batch: Batch) -> None:
            pass

    with pytest.raises(PluginError, match=r"plugin 'wrong'.*loss_terms"):
        build_manager({"wrong": Wrong()})


def test_start_images_become_a_leaf_with_a_gradient(tmp_path: Path) -> None:
    class Start:
        @hookimpl
        def initial_images(self, images: Tensor, labels: Tensor) -> Tensor:
            return torch.full((len(labels), 3, 5, 5), 0.5)

    synthesis = make(tmp_path, start=Start())
    synthesis.begin_pass(0)
    labels = synthesis.labels(torch.arange(CLASSES))
    images = synthesis.start(torch.zeros(CLASSES, 3, 2, 2, requires_grad=True), labels)
    assert images.is_leaf
    assert images.requires_grad
    assert images.shape == (CLASSES, 3, 5, 5)


def test_a_finished_pass_is_on_disk_with_what_plugins_keep(tmp_path: Path) -> None:
    class Counter:
        @hookimpl
        def slot_done(self, synthesis: Synthesis, slot: Slot, images: Tensor) -> None:
            kept = synthesis.state(self)
            kept["count"] = kept.get("count", torch.zeros(())) + 1

    synthesis = make(tmp_path, counter=Counter())
    first, _ = run_pass(synthesis, 0)
    assert pass_file(tmp_path / "passes", 0).is_file()
    assert not pass_file(tmp_path / "passes", 1).exists()

    counter = Counter()
    resumed = make(tmp_path, counter=counter)
    second, _ = run_pass(resumed, 1)
    assert resumed.state(counter)["count"] == 2
    images, labels, numbers = collect({0: tmp_path / "passes", 1: tmp_path / "passes"})
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert numbers.tolist() == [0, 1, 0, 1, 0, 1]
    assert torch.equal(images[::2], first)
    assert torch.equal(images[1::2], second)


def test_a_synthesis_of_independent_passes_keeps_nothing_between_them(tmp_path: Path) -> None:
    class Counter:
        @hookimpl
        def slot_done(self, synthesis: Synthesis, slot: Slot, images: Tensor) -> None:
            synthesis.state(self)

    independent = varied(tmp_path, terms={"counter": Counter()}, chained=False)
    with pytest.raises(DirePlugError, match="counter: asked for its state, but the passes of this synthesis are indep"):
        run_pass(independent, 1)


def test_a_damaged_pass_is_named(tmp_path: Path) -> None:
    synthesis = make(tmp_path)
    run_pass(synthesis, 0)
    (tmp_path / "passes" / "pass-000.safetensors").write_bytes(b"short")
    with pytest.raises(DirePlugError, match=r"pass-000.safetensors.*remove it"):
        synthesis.begin_pass(1)


def test_a_pass_with_too_few_batches_is_not_finished(tmp_path: Path) -> None:
    class TwoSlots(Grouped):
        def plan(self, recover: Any, *, classes: int, ipc: int) -> Any:
            return ListedPlan((SlotPlan((0, 1, 2), (0, 0, 0)), SlotPlan((0, 1, 2), (1, 1, 1))), classes=3)

    with pytest.raises(DirePlugError, match="finished 1 of 2 batches"):
        run_pass(make(tmp_path, adapter=TwoSlots()))
    assert not pass_file(tmp_path / "passes", 0).exists()


def test_images_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    class Spoiler:
        @hookimpl
        def initial_images(self, images: Tensor, labels: Tensor) -> Tensor:
            return torch.full_like(images, float("nan"))

    with pytest.raises(DirePlugError, match="pass 0, batch 0 are not finite"):
        run_pass(make(tmp_path, spoiler=Spoiler()))


def test_a_listener_is_told_of_steps_that_no_term_changes(tmp_path: Path) -> None:
    steps = []

    class Listener:
        @hookimpl
        def step_done(self, batch: Batch, losses: dict[str, Tensor]) -> None:
            steps.append((batch.step, sorted(losses)))

    run_pass(make(tmp_path, listener=Listener()))
    assert steps == [(0, ["upstream"]), (1, ["upstream"])]


def test_a_plugins_own_error_carries_its_name(tmp_path: Path) -> None:
    def complain(batch: Batch) -> Tensor:
        raise DirePlugError("class 7 has no real embedding")

    with pytest.raises(DirePlugError, match="plugin 'term': class 7 has no real embedding"):
        run_pass(make(tmp_path, term=Term(complain)))
