"""Count the operations of a run, and the bytes that its backward pass keeps, on networks without weights or data.

Nothing here is measured; counts compare one run with another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from dire_plug.data import class_count
from dire_plug.models import build, stem_like
from dire_plug.models.architectures import is_made_for_a_size
from dire_plug.pipeline import Run
from dire_plug.recipe.evaluate import FkdEnsembleSection, FkdSection, HardLabelsSection
from dire_plug.recipe.model import Recipe, TrainingSection
from dire_plug.stages.artefacts import INDEPENDENT_STEM
from dire_plug.training.stored_batches import epoch_bytes

COUNTED = (2, 4)
"""Images in the two batches that are counted; their difference leaves out what doesn't grow with a batch."""


SIZES = {
    "digits": (1437, 360, 8),
    "fashion-mnist": (60_000, 10_000, 28),
    "cifar-10": (50_000, 10_000, 32),
    "cifar-100": (50_000, 10_000, 32),
    "tiny-imagenet": (100_000, 10_000, 64),
    "imagenet-1k": (1_281_167, 50_000, 224),
}
"""Training images, test images, and pixels of a side, as each dataset's authors published it (of ImageNet-1K, the
crop); digits, as `data.digits` splits them."""
LABELLED_ONCE = ("static-labels", "ensemble-labels")
"""Protocols that label each image once, not in every epoch."""


@dataclass(frozen=True)
class ImageCost:
    """The cost of one image in one network: operations of a forward pass, of forward and backward, and bytes.

    Attributes:
        kept: bytes that the backward pass needs of one image's forward pass.
        weights: bytes of the parameters.
    """

    forward: float
    both: float
    kept: int
    weights: int


@dataclass(frozen=True)
class RunCost:
    """The operations, steps and bytes of one run.

    Attributes:
        teachers, recover, evaluate: operations of each part; recover is None where the loop trains networks itself.
        steps: of the synthesis.
        memory: bytes of the largest batch's activations, and of the network they are of.
        disk: bytes that the run leaves.
    """

    teachers: float
    recover: float | None
    evaluate: float
    steps: int
    memory: int
    disk: int

    def total(self, *, with_teachers: bool) -> float | None:
        """Return the operations of the whole run."""
        if self.recover is None:
            return None
        return self.recover + self.evaluate + (self.teachers if with_teachers else 0)


def count_work(planned: Run) -> RunCost:
    """Return the cost of a planned run; this needs neither data nor upstream's code.

    A step is a forward and a backward pass of its images through the network in the loop, one of several in turn.
    """
    recipe, adapter = planned.resolved.recipe, planned.adapter
    classes, size = class_count(recipe.dataset.name), _size(planned)
    loop = [_pass(planned, training) for training in _in_loop(recipe)]
    plan = adapter.plan(recipe.recover, classes=classes, ipc=recipe.ipc)
    steps = plan.passes * plan.slots_per_pass * adapter.steps(recipe.recover)
    images = classes * plan.ipc
    # rounded up: the last batch may be smaller, memory needs the largest
    in_batch = -(-images // (plan.passes * plan.slots_per_pass))
    recover = None
    if recipe.recover.embedder is None:
        recover = steps * in_batch * sum(one.both for one in loop) / len(loop)
    evaluate, student = _evaluate(planned, loop, images=images)
    pixels = 3 * size * size
    return RunCost(
        teachers=_teachers(planned),
        recover=recover,
        evaluate=evaluate,
        steps=steps,
        memory=max(*(in_batch * one.kept + one.weights for one in loop), student),
        # a byte a value in the file, four in the float32 tensors
        disk=images * pixels * (1 + 4) + sum(one.weights for one in loop) + _labels(recipe, images),
    )


@lru_cache(maxsize=64)
def count_pass(*, architecture: str, outputs: int, stem: str, size: int, flat: bool = True) -> ImageCost:
    """Count one image's forward and backward pass through a network; see `build_for`."""
    with torch.device("meta"):  # shapes without memory: the networks of ImageNet fit everywhere
        model = build_for(architecture=architecture, outputs=outputs, stem=stem, size=size, flat=flat).train()
    small, large = (_count_batch(model, torch.empty(count, 3, size, size, device="meta")) for count in COUNTED)
    forward, both, kept = (after - before for before, after in zip(small, large, strict=True))
    more = COUNTED[1] - COUNTED[0]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return ImageCost(forward / more, both / more, kept // more, weights)


def build_for(*, architecture: str, outputs: int, stem: str, size: int, flat: bool) -> nn.Module:
    """Return an untrained network for images of `size`, with the stem where it has it; `flat` as `TrainingSection`."""
    sized = size if flat or is_made_for_a_size(architecture) else None
    return build(architecture, outputs=outputs, stem=stem_like(architecture, stem), size=sized)


def _count_batch(model: nn.Module, images: Tensor) -> tuple[int, int, int]:
    """Return the operations of a batch's forward pass, of both passes, and the bytes kept between them."""
    held: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(images.requires_grad_()).sum()
        forward = counter.get_total_flops()
        loss.backward()
        both = counter.get_total_flops()
    # tensors that share a storage, as views do, are kept once
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in held}
    return forward, both, sum(storages.values())


def _evaluate(planned: Run, loop: list[ImageCost], *, images: int) -> tuple[float, int]:
    """Return the operations of all students with their labels and tests, and the bytes of the largest one's batch."""
    section: Any = planned.resolved.recipe.evaluate
    # the last epoch is always tested
    tests = len({*range(section.test_from, section.epochs, section.test_every), section.epochs - 1})
    judging = _test_images(planned.resolved.recipe)
    labels = 0.0
    if not isinstance(section, HardLabelsSection):
        labelling = loop if section.protocol in (*LABELLED_ONCE, "dynamic-labels", "fkd-ensemble") else loop[:1]
        rounds = 1 if section.protocol in LABELLED_ONCE else section.epochs
        labels = rounds * images * sum(one.forward for one in labelling)
    stored = isinstance(section, FkdSection | FkdEnsembleSection)
    total, memory = labels if stored else 0.0, 0  # students share stored labels
    for name in section.students:
        one = count_pass(**_shared(planned), architecture=name)
        learned = section.epochs * images * one.both + tests * judging * one.forward
        total += section.per_synthesis * (learned + (0 if stored else labels))
        batch = section.batch_size // getattr(section, "accumulate", 1)
        memory = max(memory, batch * one.kept + one.weights)
    return total, memory


def _labels(recipe: Recipe, images: int) -> int:
    """Return the bytes of the labels that the protocol stores until the last student is finished."""
    section = recipe.evaluate
    if not isinstance(section, FkdSection | FkdEnsembleSection):
        return 0
    return section.epochs * epoch_bytes(images, -(-images // section.batch_size), recipe.squeeze.outputs)


def _teachers(planned: Run) -> float:
    """Return the operations of training the networks of the recipe that aren't loaded from a checkpoint."""
    recipe = planned.resolved.recipe
    images = _training_images(recipe)
    passes = [(one, _pass(planned, one)) for one in _in_loop(recipe)]
    independent = recipe.squeeze.independent
    passes.append(
        (
            independent,
            count_pass(
                **pass_of(planned, independent)
                | {"stem": INDEPENDENT_STEM, "outputs": class_count(recipe.dataset.name)}
            ),
        )
    )
    return sum(section.epochs * images * one.both for section, one in passes if section.checkpoint is None)


def _training_images(recipe: Recipe) -> int:
    section = recipe.dataset
    train, _, _ = SIZES[section.name]
    return (section.limit or train) - (section.validation or 0)


def _test_images(recipe: Recipe) -> int:
    """Return the number of images that students are tested on."""
    section = recipe.dataset
    judged = section.validation if recipe.evaluate.judge == "validation" else None
    _, test, _ = SIZES[section.name]
    return judged or test


def _in_loop(recipe: Recipe) -> list[TrainingSection]:
    return [recipe.squeeze.teacher, *recipe.squeeze.others.values()]


def _pass(planned: Run, training: TrainingSection) -> ImageCost:
    return count_pass(**pass_of(planned, training))


def pass_of(planned: Run, training: TrainingSection) -> dict[str, Any]:
    """Return the arguments of `count_pass` for a network in a planned run's loop."""
    return _shared(planned) | {"architecture": training.architecture, "flat": training.head == "flat"}


def _shared(planned: Run) -> dict[str, Any]:
    """Return what the networks of the loop and the students have in common."""
    recipe = planned.resolved.recipe
    stem = planned.adapter.scripts[recipe.recover.script].stem
    return {"outputs": recipe.squeeze.outputs, "stem": stem, "size": _size(planned)}


def _size(planned: Run) -> int:
    section = planned.resolved.recipe.dataset
    _, _, side = SIZES[section.name]
    return section.size or side
