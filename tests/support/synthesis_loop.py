"""A small synthesis, a loop that drives it, and terms for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dire_plug.api.plans import build_plan
from dire_plug.hookspecs import hookimpl
from dire_plug.plugins import build_manager
from dire_plug.synthesis import RunningSynthesis, SynthesisSpec
from dire_plug.types import Batch

CLASSES, IPC, STEPS = 3, 2, 2


def varied(folder: Path, *, adapter: Any = None, terms: Mapping[str, object], **spec: Any) -> RunningSynthesis:
    """Return the small synthesis with other values of its specification."""
    grouped: Any = Grouped()
    changed = replace(make_spec(folder), **spec)
    return RunningSynthesis(changed, adapter=adapter or grouped, manager=build_manager(terms))


class Grouped:
    """An adapter that only plans."""

    embeddings_are_nonnegative = True

    def plan(self, recover: Any, *, classes: int, ipc: int) -> Any:
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=1)


@dataclass
class Term:
    """A regularizer that returns what it is given to compute."""

    compute: Callable[[Batch], Any]

    @hookimpl
    def loss_term(self, batch: Batch) -> Any:
        return self.compute(batch)


class Unnamed:
    """Passes a synthesis on to a loop whose loss has no name where a patch could reach it: `term` instead of `loss`."""

    def __init__(self, synthesis: Any) -> None:
        """Take the synthesis, or what stands for it."""
        self._synthesis = synthesis

    def __getattr__(self, name: str) -> Any:
        """Return what the synthesis has."""
        return getattr(self._synthesis, name)

    def loss(self, loss: Tensor, **of_the_step: Any) -> Tensor:
        """Return the loop's own loss; the gradients of the terms follow it."""
        self._synthesis.term(**of_the_step)
        return loss

    def step_done(self, loss: Tensor, **of_the_step: Any) -> None:
        """Report the step without its loss."""
        self._synthesis.step_done(**of_the_step)


def make(folder: Path, adapter: Any = None, **active: object) -> RunningSynthesis:
    """Return the small synthesis with these plugins."""
    return varied(folder, adapter=adapter, terms=active)


def make_spec(folder: Path) -> SynthesisSpec:
    save_file({"values": torch.ones(6, 4), "labels": torch.arange(6) // 2}, folder / "real.safetensors")
    return SynthesisSpec(
        adapter="toy",
        recover={"script": "toy", "flags": {}},
        regularizers={},
        classes=CLASSES,
        ipc=IPC,
        steps=STEPS,
        seed=5,
        device="cpu",
        start={"kind": "noise", "shape": None, "file": None},
        real={"teacher": str(folder / "real.safetensors")},
        passes=str(folder / "passes"),
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, CLASSES))


def run_pass(synthesis: RunningSynthesis, pass_index: int = 0) -> tuple[Tensor, Tensor]:
    """Run one pass of a minimal loop; return the images and the last loss."""
    teacher = network()
    synthesis.begin_pass(pass_index)
    synthesis.watch(teacher)
    labels = synthesis.labels(torch.arange(CLASSES))
    images = synthesis.start(torch.ones(len(labels), 3, 2, 2, requires_grad=True), labels)
    for step in range(STEPS):
        loss = nn.functional.cross_entropy(teacher(images), labels)
        total = synthesis.loss(loss, images=images, labels=labels, step=step)
        (gradient,) = torch.autograd.grad(total, images)
        images.data -= gradient
        synthesis.step_done(total, images=images, labels=labels, step=step)
    synthesis.end_pass()
    return images.detach(), total.detach()
