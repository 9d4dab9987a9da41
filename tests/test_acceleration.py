"""What `--accelerate fast` stands for: it is resolved and said, acts on networks in place, and keeps the gradient."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.synthesis_loop import Grouped, Term, varied
from torch import Tensor, nn

from dire_plug import acceleration
from dire_plug.acceleration import (
    BF16,
    CHANNELS_LAST,
    COMPILE,
    FROZEN,
    ONE_PASS,
    TF32,
    Components,
    Features,
    accelerate_in_loop,
    accelerate_network,
    acting_components,
    check_possible,
    find_missing,
    find_unlisted,
    one_pass_statistics,
    resolve,
)
from dire_plug.api.plans import build_plan
from dire_plug.errors import DirePlugError
from dire_plug.native.sre2l import StatisticsLoss
from dire_plug.plugins import known, load_adapter
from dire_plug.types import Batch, Script, Slot

EPSILON = torch.finfo(torch.float32).eps
BF16_EPSILON = torch.finfo(torch.bfloat16).eps


# What it stands for.


def test_what_a_machine_cannot_do_is_left_out_with_its_reason() -> None:
    found = resolve([FROZEN, COMPILE, BF16], {COMPILE: "no compiler", TF32: "no GPU"})
    assert found.names == (BF16, FROZEN)
    assert found.left_out == {COMPILE: "no compiler"}
    assert found.identity() == {"accelerate": ["bf16", "frozen"]}
    assert str(found) == "bf16 + frozen"


def test_nothing_that_can_be_done_is_no_part_of_an_identity() -> None:
    assert resolve([BF16], {BF16: "an old processor"}).identity() == {}


def test_a_cpu_without_a_compiler_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no compiler on PATH" in find_missing("cpu")[COMPILE]


def test_a_processor_without_bfloat16_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "cpu_flags", frozenset)
    assert "no bfloat16 instructions" in find_missing("cpu")[BF16]
    monkeypatch.setattr(acceleration, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert BF16 not in find_missing("cpu")


@pytest.mark.parametrize(
    ("capability", "missing"),
    [((9, 0), set()), ((7, 5), {BF16, TF32, CHANNELS_LAST}), ((6, 1), {BF16, TF32, CHANNELS_LAST, COMPILE})],
)
def test_a_gpu_does_what_its_generation_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], missing: set[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert find_missing("cuda").keys() - {COMPILE} == missing - {COMPILE}
    assert (COMPILE in find_missing("cuda")) or COMPILE not in missing


def test_a_device_that_nobody_knows_takes_no_component_of_its_own() -> None:
    assert find_missing("meta").keys() == {BF16, TF32, CHANNELS_LAST, COMPILE}


@pytest.mark.parametrize("method", sorted(known("methods")))
def test_each_method_says_which_components_act_in_its_loop(method: str) -> None:
    adapter = load_adapter(method)
    for script in adapter.scripts.values():
        acting = acting_components(adapter, script)
        assert set(acting) <= set(acceleration.COMPONENTS)
        assert (FROZEN in acting) is adapter.freezes_after_first_step
        assert acting_components(adapter, script, 2) == (TF32,)


def test_a_third_partys_script_says_itself_what_acts() -> None:
    script = Script("synth.py", 2, 8, (0, 0, 0), (1, 1, 1), "small", "bare", accelerates=(BF16,))
    adapter: Any = SimpleNamespace(name="theirs")
    assert acting_components(adapter, script) == (BF16,)


def test_components_resolved_elsewhere_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(DirePlugError, match=r"can't do \(tf32: it needs a CUDA GPU\); with --executor slurm name"):
        check_possible([TF32], "cpu")
    check_possible([ONE_PASS, FROZEN], "cpu")
    assert resolve([BF16, FROZEN], find_unlisted([FROZEN])).names == (FROZEN,)


# Statistics.


@pytest.mark.parametrize(("mean", "deviation"), [(0.3, 1.0), (40.0, 0.5), (-300.0, 3.0)])
def test_statistics_of_one_pass_are_those_of_two(mean: float, deviation: float) -> None:
    torch.manual_seed(0)
    values = (mean + deviation * torch.randn(20, 3, 8, 8)).requires_grad_()
    exact = values.detach().double().requires_grad_()
    # as far from the mean as the running mean of a layer is from that of a batch, and farther
    shift = torch.tensor([mean, mean + deviation, mean - 3 * deviation])
    weights = torch.randn(2, 3)
    found = torch.stack(one_pass_statistics(values, shift))
    expected = torch.stack([exact.mean((0, 2, 3)), exact.var((0, 2, 3), correction=0)])
    # of the variance 1 + ((mean − shift) / deviation)² is lost, and float32's own rounding of the values
    lost = EPSILON * (10 + 20 * abs(mean / deviation))
    torch.testing.assert_close(found.double(), expected, rtol=20 * lost, atol=0)
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert exact.grad is not None
    scale = float(exact.grad.abs().max())
    assert float((values.grad.double() - exact.grad).abs().max()) <= 20 * lost * scale


def test_a_shift_far_from_the_mean_loses_what_the_docstring_says() -> None:
    torch.manual_seed(0)
    values = 1000 + torch.randn(50, 1, 8, 8)
    error = {
        shift: float(abs(one_pass_statistics(values, torch.tensor([shift]))[1] - values.double().var(correction=0)))
        for shift in (0.0, 1000.0)
    }
    assert error[1000.0] < 1e-4
    assert 1e-4 < error[0.0] < 10 * EPSILON * 1000**2


def test_features_answer_all_that_a_hook_asks_as_a_tensor_does() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(4, 3, 5, 5)
    features: Any = Features(tensor, torch.zeros(3))
    for ask in (
        lambda x: x.mean([0, 2, 3]),
        lambda x: x.mean([1]),
        lambda x: x.permute(1, 0, 2, 3).contiguous().reshape([3, -1]).var(1, unbiased=False),
        lambda x: x.permute(1, 0, 2, 3).contiguous().view([3, -1]).var(1, unbiased=False),
        lambda x: x.permute(1, 0, 2, 3).flatten(1).var(dim=1, correction=0),
        lambda x: x.permute(1, 0, 2, 3).flatten(1).var(1),
        lambda x: x.permute(1, 0, 2, 3).reshape(15, 20).sum(),
        lambda x: x.permute(0, 2, 3, 1).sum(3),
        lambda x: x.sum(1),
        lambda x: torch.tensor(x.shape),
    ):
        torch.testing.assert_close(ask(features), ask(tensor))


# Networks.


def convolutional() -> nn.Sequential:
    """Return a small network with BatchNorm, its running statistics near those of its features."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    for _ in range(3):
        network(torch.randn(16, 3, 8, 8))
    return network.eval()


def image_gradient(components: tuple[str, ...], *, frozen: bool = True) -> Tensor:
    """Return the gradient of SRe2L's loss with respect to images in a network with these components."""
    network = convolutional().requires_grad_(not frozen)
    accelerate_in_loop(network, Components(components), "cpu")
    hooks = [StatisticsLoss(layer) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = nn.functional.cross_entropy(network(images), torch.arange(6) % 3)
    (loss + torch.stack([hook.value for hook in hooks]).sum()).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    return images.grad


def difference(one: Tensor, other: Tensor) -> float:
    """Return the norm of a difference relative to the second tensor's."""
    return float((one - other).norm() / other.norm())


def test_the_gradient_of_one_pass_is_that_of_two() -> None:
    assert difference(image_gradient((ONE_PASS,)), image_gradient(())) < 100 * EPSILON


def test_the_gradient_in_bfloat16_differs_by_its_rounding() -> None:
    found = difference(image_gradient((BF16, ONE_PASS)), image_gradient(()))
    # two layers forward and back: a few roundings of half an epsilon each
    assert EPSILON < found < 4 * BF16_EPSILON


def test_hooks_see_features_in_float32_and_outputs_are_float32() -> None:
    network, seen = convolutional(), list[torch.dtype]()
    accelerate_in_loop(network, Components((BF16,)), "cpu")
    network[4].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].dtype))
    assert network(torch.randn(2, 3, 8, 8)).dtype == torch.float32
    assert seen == [torch.float32]


def test_a_copy_of_an_accelerated_network_has_weights_of_its_own() -> None:
    network = accelerate_network(convolutional(), Components((BF16,)), "cpu")
    images, twin = torch.randn(2, 3, 8, 8), copy.deepcopy(network)
    before = twin(images)
    nn.init.zeros_(network[8].weight)  # type: ignore[index]
    assert torch.equal(twin(images), before)
    assert not torch.equal(network(images), before)
    assert type(twin).__name__ == "Sequential"
    assert list(twin.state_dict()) == list(convolutional().state_dict())


def test_without_a_component_a_network_stays_as_it_is() -> None:
    network = convolutional()
    before = dict(vars(network))
    accelerate_in_loop(network, Components(), "cpu")
    assert (type(network), vars(network)) == (nn.Sequential, before)


@pytest.mark.slow
def test_a_compiled_network_has_the_gradient_and_later_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if COMPILE in (missing := find_missing("cpu")):
        pytest.skip(missing[COMPILE])
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path))
    # as it was before: the variable is set where it isn't
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    found = image_gradient((COMPILE, ONE_PASS, FROZEN))
    assert difference(found, image_gradient(())) < 1000 * EPSILON
    assert list((tmp_path / "compiled").iterdir()) == [acceleration.compiled_folder()]
    # its weights have gradients, so it runs as it is
    assert difference(image_gradient((COMPILE, FROZEN), frozen=False), image_gradient((), frozen=False)) == 0


# In a synthesis.


def test_a_term_sees_float32_embeddings_outside_of_autocast(tmp_path: Path) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []

    def note(batch: Batch) -> Tensor:
        seen.append((batch.embeddings.dtype, (batch.embeddings @ batch.embeddings.T).dtype))
        return batch.embeddings.sum()

    synthesis = varied(tmp_path, terms={"term": Term(note)}, components=(BF16,))
    network = convolutional()
    synthesis.begin_pass(0)
    labels = synthesis.labels(torch.arange(3))
    images = synthesis.start(torch.ones(3, 3, 8, 8, requires_grad=True), labels)
    synthesis.watch(network)
    # even where a script's own loop is under autocast
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(network(images), labels)
        synthesis.loss(loss, images=images, labels=labels, step=0)
    assert seen == [(torch.float32, torch.float32)]


class Perturbing(Grouped):
    """An adapter of a script that reads gradients of weights in the first step of a batch alone; two batches a pass."""

    freezes_after_first_step = True

    def plan(self, recover: Any, *, classes: int, ipc: int) -> Any:
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=2)


def run_perturbing(folder: Path, *, forget: bool = False, **spec: Any) -> list[Tensor]:
    """Return the images of two batches of a loop that moves the teacher along its gradients before each batch.

    Args:
        forget: whether the loop itself drops what the batch before left.
    """
    folder.mkdir()
    synthesis = varied(folder, adapter=Perturbing(), terms={}, **spec)
    teacher, made = convolutional(), []
    synthesis.begin_pass(0)
    synthesis.watch(teacher)
    for batch in range(2):
        own = synthesis.labels(torch.tensor(synthesis.plan.slot(Slot(0, batch)).labels))
        start = torch.randn(len(own), 3, 8, 8, generator=torch.Generator().manual_seed(int(own[0])))
        images = synthesis.start(start.requires_grad_(), own)
        optimizer = torch.optim.SGD([images], lr=0.1)
        for step in range(3):
            if step == 0:
                if forget:
                    teacher.zero_grad()
                nn.functional.cross_entropy(teacher(images), own).backward()  # type: ignore[no-untyped-call]
                with torch.no_grad():
                    for weight in teacher.parameters():
                        assert weight.grad is not None
                        weight.add_(0.1 * weight.grad)
                teacher.zero_grad()
            optimizer.zero_grad()
            loss = synthesis.loss(
                nn.functional.cross_entropy(teacher(images), own), images=images, labels=own, step=step
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            synthesis.step_done(loss, images=images, labels=own, step=step)
        made.append(images.detach().clone())
    synthesis.end_pass()
    return made


def test_a_frozen_batch_is_the_same_and_the_next_starts_from_its_own(tmp_path: Path) -> None:
    plain = run_perturbing(tmp_path / "plain")
    exact = run_perturbing(tmp_path / "exact", accelerate=True)
    frozen = run_perturbing(tmp_path / "frozen", components=(FROZEN,))
    forgetful = run_perturbing(tmp_path / "forgetful", forget=True)
    assert all(map(torch.equal, exact, plain))
    assert torch.equal(frozen[0], plain[0])
    # what the batch before left is not there to be read
    assert not torch.equal(frozen[1], plain[1])
    torch.testing.assert_close(frozen[1], forgetful[1])
