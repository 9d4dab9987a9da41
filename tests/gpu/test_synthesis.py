"""A synthesis on the pretended GPU: the CPU's values, and a ledger of launches and waits of a step in the middle."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.pretended_gpu import DEVICE, Counts, back, counted, device_present, is_device, move, put
from support.synthesis_loop import Unnamed, varied
from torch import Tensor, nn

from dire_plug.api.memory_bank import MemoryBank
from dire_plug.api.real_embeddings import prepare_real
from dire_plug.api.rows import labels_on_host
from dire_plug.models import build
from dire_plug.models.checkpoint import Network, save
from dire_plug.native.sre2l import Settings, recover_pass
from dire_plug.plugins import known
from dire_plug.recipe.weight import AutoWeight
from dire_plug.regularizers.dire import DiRe, DiReSettings
from dire_plug.regularizers.diversity import diversity_loss
from dire_plug.stages.embed import choose_centres
from dire_plug.synthesis import RunningSynthesis, SynthesisSpec, open_synthesis
from dire_plug.synthesis.embeddings import FrozenNetwork, ShownEmbeddings
from dire_plug.synthesis.spec import load_real
from dire_plug.types import CORESET, RealEmbeddings

CLASSES, IPC, WIDTH, STEPS = 10, 5, 128, 8
MIDDLE = 4
"""The step that is counted."""
REGULARIZERS = [name for name in known("regularizers") if name != "verify-probe"]
SETTINGS = Settings(100, STEPS, 0.1, 4, 0.1, 10.0, 100, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
OUTSIDE = "frozen:resnet-small"


def save_real(folder: Path, *, centres: int | None = None) -> str:
    generator = torch.Generator().manual_seed(3)
    values, labels = (
        torch.randn(CLASSES * 40, WIDTH, generator=generator).abs(),
        torch.arange(CLASSES).repeat_interleave(40),
    )
    coreset = choose_centres(values, labels, centres) if centres else {}
    named = {f"{CORESET}{name}": tensor for name, tensor in coreset.items()}
    save_file({"values": values, "labels": labels, **named}, folder / "real.safetensors")
    return str(folder / "real.safetensors")


def make_teacher(device: str) -> nn.Module:
    torch.manual_seed(1)
    model = build("resnet-small", outputs=100).eval().requires_grad_(False)
    return move(model) if is_device(device) else model


def save_outside(folder: Path) -> dict[str, Any]:
    torch.manual_seed(2)
    statistics = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    model = build("resnet-small", outputs=CLASSES).eval()
    save(folder / "network.safetensors", Network(model, "resnet-small", CLASSES, "small", *statistics))
    return {OUTSIDE: {"network": str(folder / "network.safetensors"), "classes_per_step": None, "whitening": None}}


class Watched:
    """Passes a synthesis on to the loop, with noise of the CPU, and counts one step in the middle."""

    def __init__(self, synthesis: RunningSynthesis, device: str) -> None:
        self.synthesis, self.device, self.counts = synthesis, device, Counts()
        self._open: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.synthesis, name)

    def start(self, images: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn((len(labels), 3, 8, 8), generator=torch.Generator().manual_seed(2))
        noise = put(noise) if is_device(self.device) else noise
        return self.synthesis.start(noise.requires_grad_(), labels)

    def step_done(self, loss: Tensor, *, images: Tensor, labels: Tensor, step: int) -> None:
        self.synthesis.step_done(loss, images=images, labels=labels, step=step)
        if step == MIDDLE - 1:
            self._open = counted()
            self.counts = self._open.__enter__()
        if step == MIDDLE:
            self._open.__exit__(None, None, None)


def run(
    device: str,
    folder: Path,
    regularizers: dict[str, Any],
    *,
    outside: bool = False,
    centres: int | None = None,
    bank: bool = False,
    named: bool = True,
) -> tuple[Tensor, Counts]:
    """Return the images of a pass of the native loop, and what its middle step counted."""
    real = save_real(folder, centres=centres)
    flags = {"batch-size": 100, "iteration": STEPS, "lr": 0.1, "r-bn": 0.1, "first-bn-multiplier": 10.0, "jitter": 4}
    spec = SynthesisSpec(
        adapter="sre2l",
        recover={"script": "cifar", "flags": flags, "plan": {"per_class": IPC}, "bank": bank},
        regularizers=regularizers,
        classes=CLASSES,
        ipc=IPC,
        steps=STEPS,
        seed=5,
        device=device,
        start={"kind": "noise", "shape": (3, 8, 8), "file": None},
        real={"teacher": real, OUTSIDE: real} if outside else {"teacher": real},
        frozen=save_outside(folder) if outside else {},
        passes=str(folder / f"passes-{device.partition(':')[0]}"),
    )
    synthesis = open_synthesis(spec.to_json(), lambda event: None)
    random.seed(0)
    torch.manual_seed(0)
    loop: Any = synthesis if named else Unnamed(synthesis)
    watched: Any = Watched(loop, device)
    synthesis.begin_pass(0)
    images = [back(made) for made, _, _ in recover_pass(watched, make_teacher(device), SETTINGS)]
    synthesis.end_pass()
    return torch.cat(images), watched.counts


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # progress and the record wait for the device on purpose, at most twice a second
    monkeypatch.setattr("dire_plug.synthesis.recording.SECONDS_BETWEEN_EVENTS", 3600.0)


def compare(folder: Path, regularizers: dict[str, Any], **how: Any) -> Counts:
    """Assert that the device gives the CPU's images; return what its middle step counted."""
    expected, _ = run("cpu", folder, regularizers, **how)
    with device_present():
        found, counts = run(DEVICE, folder, regularizers, **how)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    return counts


@pytest.mark.parametrize("name", ["", *REGULARIZERS])
def test_a_step_of_the_native_loop_never_waits(tmp_path: Path, name: str) -> None:
    counts = compare(tmp_path, {name: {}} if name else {})
    assert not counts.waits
    assert counts.launches.total() > 100


def test_dire_with_a_weight_that_follows_gradients_never_waits(tmp_path: Path) -> None:
    assert not compare(tmp_path, {"dire": {"weight": AutoWeight(every=1).model_dump()}}).waits


def test_dire_with_a_bank_never_waits(tmp_path: Path) -> None:
    assert not compare(tmp_path, {"dire": {}}, bank=True).waits


def test_dire_with_a_coreset_never_waits(tmp_path: Path) -> None:
    assert not compare(tmp_path, {"dire": {}}, centres=4).waits


def test_a_term_in_a_second_network_never_waits(tmp_path: Path) -> None:
    assert not compare(tmp_path, {"dire": {}}, outside=True).waits


@pytest.mark.parametrize(
    ("weight", "how"),
    [
        pytest.param(AutoWeight(every=1).model_dump(), {}, id="following gradients"),
        pytest.param(AutoWeight(every=3).model_dump(), {"outside": True}, id="a second network"),
        pytest.param(1.0, {"bank": True, "centres": 4}, id="a number, a bank and a coreset"),
    ],
)
def test_a_loss_without_a_name_gives_the_same_images_and_never_waits(
    tmp_path: Path, weight: Any, how: dict[str, Any]
) -> None:
    terms = {"dire": {"weight": weight}}
    assert not compare(tmp_path, terms, named=False, **how).waits
    expected, _ = run("cpu", tmp_path, terms, **how)
    found, _ = run("cpu", tmp_path, terms, named=False, **how)
    without, _ = run("cpu", tmp_path, {}, **how)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - without).abs().max() > 0.01


# DiRe's own operations.


def count_dire(classes: int, **settings: Any) -> Counts:
    """Assert that DiRe has the CPU's gradient on the device; return what a second call with the same labels took."""
    labels = torch.arange(classes).repeat_interleave(5)
    rows = torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(4)).abs()
    values = torch.randn(classes * 20, 16, generator=torch.Generator().manual_seed(3)).abs()
    expected = rows.clone().requires_grad_()
    real = RealEmbeddings(values, torch.arange(classes).repeat_interleave(20))
    held = (torch.ones(classes, 16), torch.arange(classes)) if settings.pop("held", False) else None
    host = diversity_loss(expected, labels, real, bank=fill(held), **settings)
    host.backward()  # type: ignore[no-untyped-call]
    with device_present():
        leaf, of = put(rows).requires_grad_(), put(labels)
        prepared = prepare_real(RealEmbeddings(put(real.values), put(real.labels)))
        bank = fill(held and (put(held[0]), put(held[1])))
        for _ in range(2):
            leaf.grad = None
            with counted() as counts:
                diversity_loss(leaf, of, prepared, bank=bank, **settings).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(back(leaf.grad), expected.grad, rtol=1e-4, atol=1e-5)
    return counts


def fill(held: tuple[Tensor, Tensor] | None) -> MemoryBank | None:
    bank = MemoryBank()
    if held is not None:
        bank.add(*held)
    return bank if held is not None else None


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        pytest.param({}, 118, id="released"),
        pytest.param({"nonnegative": True}, 119, id="non-negative"),
        pytest.param({"variant": "paper"}, 105, id="paper"),
        pytest.param({"held": True}, 134, id="bank"),
    ],
)
def test_dire_launches_no_more_for_more_classes(settings: dict[str, Any], most: int) -> None:
    few, many = count_dire(3, **settings), count_dire(30, **settings)
    assert few.launches.total() == many.launches.total() <= most
    assert not few.waits + many.waits


# Labels that change from step to step.


def test_labels_are_read_back_once_until_they_are_written() -> None:
    with device_present():
        labels = put(torch.tensor([2, 0, 2]))
        with counted() as counts:
            assert labels_on_host(labels) is labels_on_host(labels)
            assert sum(counts.waits.values()) == 1
            labels += 1
            assert labels_on_host(labels).tolist() == [3, 1, 3]


def choose_classes(device: str, folder: Path) -> tuple[list[Tensor], Counts]:
    """Return terms of six steps that each embed three of ten classes, and what the last one counted."""
    outside = FrozenNetwork({**save_outside(folder)[OUTSIDE], "classes_per_step": 3}, device)
    images = torch.randn(CLASSES * IPC, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(CLASSES).repeat_interleave(IPC)
    real = load_real(save_real(folder), device)
    if is_device(device):
        images, labels = put(images), put(labels)
    images.requires_grad_()
    generator, prepared, found = torch.Generator().manual_seed(1), prepare_real(real), []
    for _ in range(6):
        with counted() as counts:
            embeddings, used, _ = outside(images, labels, generator=generator)
            term = diversity_loss(embeddings, used, prepared, nonnegative=True)
            (gradient,) = torch.autograd.grad(term, images)
        found += [back(term), back(gradient)]
    return found, counts


def test_a_step_that_embeds_other_classes_each_time_never_waits(tmp_path: Path) -> None:
    expected, _ = choose_classes("cpu", tmp_path)
    with device_present():
        found, counts = choose_classes(DEVICE, tmp_path)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not counts.waits
    assert counts.launches.total() > 50


def show_embeddings(device: str) -> tuple[Tensor, Counts]:
    """Return the last term of three steps whose loop embeds real images too, and what that step counted."""
    shown, labels = ShownEmbeddings(), torch.arange(CLASSES).repeat_interleave(IPC)
    made = torch.randn(CLASSES, IPC, WIDTH, generator=torch.Generator().manual_seed(1)).abs()
    seen = torch.randn(CLASSES, 8, WIDTH, generator=torch.Generator().manual_seed(2)).abs()
    if is_device(device):
        labels, made, seen = put(labels), put(made), put(seen)
    made.requires_grad_()
    for _ in range(3):
        with counted() as counts:
            for mine, real in zip(made, seen, strict=True):
                shown.add(mine, real)
            embeddings, used, _ = shown(made, labels, generator=torch.Generator())
            term = diversity_loss(embeddings, used, shown.real, nonnegative=True)
    return back(term), counts


def test_a_step_whose_loop_embeds_real_images_too_never_waits() -> None:
    expected, _ = show_embeddings("cpu")
    with device_present():
        found, counts = show_embeddings(DEVICE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not counts.waits


def test_a_step_of_a_part_of_the_slot_never_waits(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    with device_present():
        real = {"teacher": save_real(tmp_path / "real")}
        synthesis = varied(tmp_path, terms={"dire": DiRe(DiReSettings())}, device=DEVICE, real=real, steps=7)
        teacher = move(nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)))
        synthesis.begin_pass(0)
        synthesis.watch(teacher)
        labels = synthesis.labels(torch.arange(3, device=DEVICE))
        images = synthesis.start(torch.ones(3, 3, 2, 2, device=DEVICE, requires_grad=True), labels)
        rounds = [([0, 1], put(torch.tensor([0, 1]))), ([1, 2], put(torch.tensor([1, 2])))]
        for step in range(6):
            rows, index = rounds[step % 2]
            with counted() as counts:
                loss = nn.functional.cross_entropy(teacher(images[index]), synthesis.in_use(labels, rows=rows))
                total = synthesis.loss(loss, images=images, labels=labels, step=step)
                (gradient,) = torch.autograd.grad(total, images)
                images.data -= gradient
                synthesis.step_done(total, images=images, labels=labels, step=step)
    assert gradient.shape == images.shape
    assert not counts.waits
