"""Loops of other shapes: several networks, none, a part of the slot in a step, no step at all, weights left alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.synthesis_loop import CLASSES, Grouped, Term, make, network, varied
from torch import Tensor, nn

from dire_plug import bridge
from dire_plug.api.plans import class_by_class, cut_plan
from dire_plug.data.augmentation import zca
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.models import build, embed
from dire_plug.models.checkpoint import Network, save
from dire_plug.synthesis import RunningSynthesis, collect
from dire_plug.synthesis.embeddings import FrozenNetwork
from dire_plug.types import Batch, Slot

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def begin(synthesis: RunningSynthesis) -> tuple[Tensor, Tensor]:
    """Begin the first slot; return its images and labels."""
    synthesis.begin_pass(0)
    labels = synthesis.labels(torch.arange(CLASSES))
    return synthesis.start(torch.ones(CLASSES, 3, 2, 2, requires_grad=True), labels), labels


def test_a_batch_is_told_which_of_several_networks_made_it(tmp_path: Path) -> None:
    seen: list[Batch] = []

    def note(batch: Batch) -> Tensor:
        seen.append(batch)
        return batch.embeddings.sum()

    synthesis = varied(tmp_path, terms={"term": Term(note)}, networks=("teacher", "second"))
    networks = [network(), network()]
    images, labels = begin(synthesis)
    synthesis.watch(networks)
    for step, chosen in enumerate((networks[1], networks[0])):
        loss = nn.functional.cross_entropy(chosen(images), labels)
        synthesis.loss(loss, images=images, labels=labels, step=step, network=chosen)
    assert [batch.teacher for batch in seen] == ["second", "teacher"]
    with pytest.raises(DirePlugError, match="needs to know which one: network="):
        synthesis.loss(loss, images=images, labels=labels, step=2)
    with pytest.raises(DirePlugError, match="a network that it never handed to"):
        synthesis.loss(loss, images=images, labels=labels, step=2, network=nn.Linear(1, 1))


def test_watching_another_number_of_networks_than_the_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match="watches 2 networks, but the recipe has 1: teacher"):
        make(tmp_path).watch([network(), network()])


def test_a_term_sees_the_labels_in_use_for_one_step_alone(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def note(batch: Batch) -> Tensor:
        seen.append(batch.labels.tolist())
        return batch.embeddings.sum()

    synthesis = make(tmp_path, term=Term(note))
    teacher = network()
    images, labels = begin(synthesis)
    synthesis.watch(teacher)
    loss = nn.functional.cross_entropy(teacher(images[:2]), synthesis.in_use(labels[:2]))
    synthesis.loss(loss, images=images, labels=labels, step=0)
    synthesis.loss(nn.functional.cross_entropy(teacher(images), labels), images=images, labels=labels, step=1)
    assert seen == [[0, 1], [0, 1, 2]]


def test_a_slot_without_a_step_ends_with_its_start_images(tmp_path: Path) -> None:
    synthesis = make(tmp_path)
    images, _ = begin(synthesis)
    synthesis.end_pass()
    assert torch.equal(collect({0: tmp_path / "passes"})[0], images.detach())


def test_what_a_script_learned_is_kept_when_the_pass_ends(tmp_path: Path) -> None:
    synthesis = make(tmp_path)
    begin(synthesis)
    rate = torch.tensor(0.5)
    synthesis.keep(learned_lr=rate)
    rate += 0.25
    synthesis.end_pass()
    assert read_json(tmp_path / "passes" / "extras.json") == {"learned_lr": 0.75}


def test_a_listed_plan_holds_each_image_once_in_the_order_given() -> None:
    plan = cut_plan(class_by_class(3, 4), classes=3, batch_size=5)
    assert (plan.passes, plan.slots_per_pass, plan.ipc) == (1, 3, 4)
    assert plan.slot(Slot(0, 1)).labels == (1, 1, 1, 2, 2)
    assert plan.slot(Slot(0, 1)).images == (1, 2, 3, 0, 1)
    for wrong in (Slot(1, 0), Slot(0, 3)):
        with pytest.raises(DirePlugError, match="3 batches in one pass"):
            plan.slot(wrong)


@pytest.mark.parametrize(
    ("positions", "batch_size", "problem"),
    [(class_by_class(2, 2), 0, "must be at least 1"), ([(0, 0), (0, 1), (1, 0)], 2, "can't be shared equally")],
)
def test_a_plan_that_cannot_be_cut_is_refused(positions: list[tuple[int, int]], batch_size: int, problem: str) -> None:
    with pytest.raises(DirePlugError, match=problem):
        cut_plan(positions, classes=2, batch_size=batch_size)


class Freezing(Grouped):
    """An adapter whose script never uses the gradients of weights after a slot's first step."""

    freezes_after_first_step = True


@pytest.mark.parametrize("accelerate", [False, True])
def test_weights_are_frozen_from_the_first_step_to_the_end_of_the_slot(tmp_path: Path, accelerate: bool) -> None:
    synthesis = varied(tmp_path, adapter=Freezing(), terms={}, accelerate=accelerate)
    teacher = network()
    teacher[1].bias.requires_grad_(False)
    images, labels = begin(synthesis)
    synthesis.watch(teacher)
    before = [one.requires_grad for one in teacher.parameters()]
    synthesis.step_done(torch.zeros(()), images=images, labels=labels, step=0)
    assert any(one.requires_grad for one in teacher.parameters()) is not accelerate
    synthesis.labels(labels)
    assert [one.requires_grad for one in teacher.parameters()] == before == [True, False, True, True]


def embedder_of(folder: Path, *, classes_per_step: int | None = None, white: bool = False) -> tuple[FrozenNetwork, Any]:
    """Return an embedder, and the network that it holds."""
    torch.manual_seed(0)
    model = build("convnet-small", outputs=3).eval()
    save(folder / "network.safetensors", Network(model, "convnet-small", 3, "small", MEAN, STD))
    path = folder / "whitening.safetensors"
    if white:
        zca.save(path, zca.fit(torch.rand(40, 3, 8, 8)))
    specification = {
        "network": str(folder / "network.safetensors"),
        "classes_per_step": classes_per_step,
        "whitening": str(path) if white else None,
    }
    return FrozenNetwork(specification, "cpu"), model


def test_the_embedder_gives_what_the_network_embeds_with_a_graph(tmp_path: Path) -> None:
    embedder, model = embedder_of(tmp_path)
    images = torch.randn(6, 3, 8, 8, requires_grad=True)
    embeddings, labels, scale = embedder(images, torch.arange(6) // 2, generator=torch.Generator())
    assert torch.allclose(embeddings, embed(model, images.detach()), atol=1e-6)
    assert (labels.tolist(), scale) == ([0, 0, 1, 1, 2, 2], 1.0)
    embeddings.sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_whitened_images_are_embedded_as_the_pixels_that_they_stand_for(tmp_path: Path) -> None:
    embedder, model = embedder_of(tmp_path, white=True)
    pixels = torch.rand(4, 3, 8, 8)
    white = zca.load(tmp_path / "whitening.safetensors", torch.device("cpu")).apply(pixels)
    embeddings, _, _ = embedder(white.requires_grad_(True), torch.zeros(4), generator=torch.Generator())
    shape = (1, 3, 1, 1)
    normalised = (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    assert torch.allclose(embeddings, embed(model, normalised), atol=1e-3)


def test_each_class_has_its_turn_and_terms_are_scaled_for_the_others(tmp_path: Path) -> None:
    embedder, _ = embedder_of(tmp_path, classes_per_step=1)
    images, labels, generator = torch.randn(6, 3, 8, 8, requires_grad=True), torch.arange(6) // 2, torch.Generator()
    turns = [embedder(images, labels, generator=generator) for _ in range(6)]
    assert all(scale == 3 and len(set(used.tolist())) == 1 for _, used, scale in turns)
    assert sorted(int(used[0]) for _, used, _ in turns[:3]) == [0, 1, 2]
    assert sorted(int(used[0]) for _, used, _ in turns[3:]) == [0, 1, 2]


def test_repairs_give_what_a_script_lacks_and_leave_what_it_has() -> None:
    target = SimpleNamespace(ipc=3)
    assert bridge.with_missing(target, ipc=9, init=1) is target
    assert (target.ipc, target.init) == (3, 1)
    assert bridge.same(target) is target
    assert bridge.mean_of("tiny") == [0.4802, 0.4481, 0.3975]
    assert bridge.std_of("cifar10") is None
