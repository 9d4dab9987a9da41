"""`bridge.term`: the gradients of terms reach what the loop optimises, though its loss has no name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.synthesis_loop import CLASSES, STEPS, Term, Unnamed, make, network, run_pass, varied
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from dire_plug.errors import DirePlugError, PluginError
from dire_plug.files import read_json
from dire_plug.hookspecs import hookimpl
from dire_plug.recipe.weight import AutoWeight
from dire_plug.synthesis import RunningSynthesis
from dire_plug.types import Batch

SQUARES = Term(lambda batch: batch.embeddings.square().sum())


@pytest.fixture(autouse=True)
def gradscaler_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no step that a test leaves unfinished watch the GradScalers of the next."""
    monkeypatch.setattr(GradScaler, "scale", GradScaler.scale)


def begin(synthesis: RunningSynthesis) -> tuple[nn.Module, Tensor, Tensor]:
    """Begin a pass and its slot; return the network, the images and their labels."""
    teacher = network()
    synthesis.begin_pass(0)
    synthesis.watch(teacher)
    labels = synthesis.labels(torch.arange(CLASSES))
    return teacher, synthesis.start(torch.ones(CLASSES, 3, 2, 2, requires_grad=True), labels), labels


def gradients(synthesis: RunningSynthesis) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients at the images of a step without terms, of the squares alone, and with `term` called."""
    teacher, images, labels = begin(synthesis)
    (alone,) = torch.autograd.grad(nn.functional.cross_entropy(teacher(images), labels), images)
    embeddings = nn.Sequential(*list(teacher.children())[:-1])(images)
    (squares,) = torch.autograd.grad(embeddings.square().sum(), images)
    ce = nn.functional.cross_entropy(teacher(images), labels)
    synthesis.term(images=images, labels=labels, step=0)
    (ce + images.sum() * 0).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    return alone, squares, images.grad


def test_the_gradient_is_the_scripts_plus_the_terms(tmp_path: Path) -> None:
    alone, squares, found = gradients(
        varied(tmp_path, terms={"squares": SQUARES}, regularizers={"squares": {"weight": 0.3}})
    )
    torch.testing.assert_close(found, alone + 0.3 * squares)


@pytest.mark.parametrize("weight", [1.0, 0.3, AutoWeight(ratio=0.2, every=1).model_dump(), AutoWeight().model_dump()])
def test_a_loop_without_a_named_loss_makes_the_same_images(tmp_path: Path, weight: Any) -> None:
    made = []
    for named in (True, False):
        terms: dict[str, object] = {"squares": SQUARES, "sums": Term(lambda batch: batch.embeddings.sum())}
        synthesis = varied(tmp_path, terms=terms, regularizers={"squares": {"weight": weight}})
        loop: Any = synthesis if named else Unnamed(synthesis)
        made.append(run_pass(loop)[0])
    torch.testing.assert_close(*made)


def test_without_a_term_nothing_is_hooked(tmp_path: Path) -> None:
    synthesis = make(tmp_path)
    teacher, images, labels = begin(synthesis)
    teacher(images)
    synthesis.term(images=images, labels=labels, step=0)
    assert not images._backward_hooks
    synthesis.step_done(images=images, labels=labels, step=0)


def test_the_script_may_call_backward_part_by_part(tmp_path: Path) -> None:
    synthesis = make(tmp_path, squares=SQUARES)
    teacher, images, labels = begin(synthesis)
    ce = nn.functional.cross_entropy(teacher(images), labels)
    synthesis.term(images=images, labels=labels, step=0)
    ce.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert images.grad is not None
    once = images.grad.clone()
    ce.backward()  # type: ignore[no-untyped-call]
    (alone,) = torch.autograd.grad(nn.functional.cross_entropy(teacher(images), labels), images)
    torch.testing.assert_close(images.grad, once + alone)


def test_weights_of_the_network_get_no_gradient_of_the_term(tmp_path: Path) -> None:
    synthesis = make(tmp_path, squares=SQUARES)
    teacher, images, labels = begin(synthesis)
    nn.functional.cross_entropy(teacher(images), labels)
    synthesis.term(images=images, labels=labels, step=0)
    assert all(weight.grad is None for weight in teacher.parameters())


def step_with(used: torch.amp.GradScaler, synthesis: RunningSynthesis, factor: float, **named: Any) -> Tensor:
    """Do a step through a GradScaler; return the images."""
    teacher, images, labels = begin(synthesis)
    optimizer = torch.optim.SGD([images], lr=0.1)
    ce = nn.functional.cross_entropy(teacher(images), labels)
    synthesis.term(images=images, labels=labels, step=0, **named)
    used.scale(ce * factor + images.sum() * 0).backward()  # type: ignore[no-untyped-call]
    used.step(optimizer)
    used.update()
    synthesis.step_done(images=images, labels=labels, step=0)
    return images.detach()


@pytest.mark.parametrize("weight", [0.3, AutoWeight(ratio=0.2).model_dump()])
def test_under_a_gradscaler_the_term_keeps_its_share(tmp_path: Path, weight: Any) -> None:
    made = []
    for enabled in (True, False):
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        synthesis = varied(tmp_path, terms={"squares": SQUARES}, regularizers={"squares": {"weight": weight}})
        made.append(step_with(scaler, synthesis, 1.0, scaler=scaler))
    torch.testing.assert_close(*made)
    assert not torch.equal(made[0], torch.ones_like(made[0]))


def test_a_step_that_a_gradscaler_leaves_out_stays_left_out(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu")
    images = step_with(scaler, make(tmp_path, squares=SQUARES), float("inf"), scaler=scaler)
    assert torch.equal(images, torch.ones_like(images))
    assert scaler.get_scale() == 2.0**15


def test_a_gradscaler_that_the_patch_does_not_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"name its GradScaler, bridge\.term\(…, scaler=NAME\)"):
        step_with(torch.amp.GradScaler("cpu"), make(tmp_path, squares=SQUARES), 1.0)


def call_twice(synthesis: RunningSynthesis) -> None:
    teacher, images, labels = begin(synthesis)
    for _ in range(2):
        teacher(images)
        synthesis.term(images=images, labels=labels, step=0)


def call_after_backward(synthesis: RunningSynthesis) -> None:
    teacher, images, labels = begin(synthesis)
    nn.functional.cross_entropy(teacher(images), labels).backward()  # type: ignore[no-untyped-call]
    synthesis.term(images=images, labels=labels, step=0)


def call_after_backward_that_keeps_the_graph(synthesis: RunningSynthesis) -> None:
    teacher, images, labels = begin(synthesis)
    nn.functional.cross_entropy(teacher(images), labels).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    synthesis.term(images=images, labels=labels, step=0)
    synthesis.step_done(images=images, labels=labels, step=0)


def end_without_a_step(synthesis: RunningSynthesis) -> None:
    teacher, images, labels = begin(synthesis)
    teacher(images)
    synthesis.term(images=images, labels=labels, step=0)
    synthesis.end_pass()


def call_loss_too(synthesis: RunningSynthesis) -> None:
    teacher, images, labels = begin(synthesis)
    loss = synthesis.loss(teacher(images).sum(), images=images, labels=labels, step=0)
    teacher(images)
    synthesis.term(images=images, labels=labels, step=0)
    loss.backward()  # type: ignore[no-untyped-call]


def hand_over_other_images(synthesis: RunningSynthesis) -> None:
    teacher, images, labels = begin(synthesis)
    teacher(images)
    synthesis.term(images=images.detach().clone().requires_grad_(), labels=labels, step=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (call_twice, "no gradient has reached `images` between bridge.term and the next bridge.term"),
        (call_after_backward, "bridge.term stands after `backward`"),
        (call_after_backward_that_keeps_the_graph, "between bridge.term and bridge.step_done"),
        (end_without_a_step, "between bridge.term and the end of the batch"),
        (call_loss_too, "calls bridge.loss and bridge.term"),
        (hand_over_other_images, "no term depends on `images`; hand over the tensor that the optimizer holds"),
    ],
)
def test_a_call_out_of_its_place_is_an_error(
    tmp_path: Path, call: Callable[[RunningSynthesis], None], message: str
) -> None:
    with pytest.raises(DirePlugError, match=message.replace(".", r"\.")):
        call(make(tmp_path, squares=SQUARES))


def test_images_made_of_several_tensors_need_a_number_as_weight(tmp_path: Path) -> None:
    def step(weight: Any) -> tuple[Tensor | None, ...]:
        terms, own = {"squares": SQUARES}, {"squares": {"weight": weight}}
        synthesis = varied(tmp_path, terms=terms, regularizers=own)
        teacher, images, labels = begin(synthesis)
        other = torch.zeros(3, 2, 2, requires_grad=True)
        made = images + other
        teacher(made)
        synthesis.term(images=made, labels=labels, step=0)
        (made.sum() * 0).backward()  # type: ignore[no-untyped-call]
        return images.grad, other.grad

    first, second = step(1.0)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(second, first.sum(0))
    with pytest.raises(PluginError, match="the images are made of 2 tensors"):
        step(AutoWeight().model_dump())


def test_a_plugin_sees_the_terms_as_added_and_no_loss_of_upstreams(tmp_path: Path) -> None:
    seen: list[tuple[Any, dict[str, float]]] = []

    class Listener:
        @hookimpl
        def step_done(self, batch: Batch, losses: dict[str, Tensor]) -> None:
            seen.append((batch.loss, {name: float(value) for name, value in losses.items()}))

    auto = AutoWeight(ratio=0.2, every=2).model_dump()
    synthesis = varied(
        tmp_path, terms={"squares": SQUARES, "listener": Listener()}, regularizers={"squares": {"weight": auto}}
    )
    loop: Any = Unnamed(synthesis)
    run_pass(loop)
    assert [loss for loss, _ in seen] == [None] * STEPS
    (slot,) = read_json(tmp_path / "passes" / "losses-000.json")["slots"]
    assert set(slot["curves"]) == {"squares", "squares/weight"}
    assert [values["squares"] for _, values in seen] == pytest.approx(list(slot["curves"]["squares"].values()))
    assert min(slot["curves"]["squares/weight"].values()) > 0
