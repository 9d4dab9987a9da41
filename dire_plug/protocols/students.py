"""What all protocols share: what a student learns from, the loop over its epochs, its tests, and the divergence.

A protocol is a module with its numbers (a dataclass) and `train_student`, which says what a batch's losses are.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from dire_plug.protocols.testing import accuracy, in_batches
from dire_plug.protocols.training import Epoch, Progress, Training, shuffled, train

View = Callable[[Tensor, Generator], Tensor]
"""Turns images as they are stored into a batch as networks see it: cropped, flipped, normalised."""
Mix = Callable[[Tensor, Generator], tuple[Tensor, Tensor, float]]
"""Mixes a batch: the mixed images, the partner of each (int64, [n], on the images' device), the image's own share."""
Losses = Callable[[Tensor, Generator], Iterable[Tensor]]
"""Gives the losses of one step for the batch at the given indices, one by one: each is a scalar with its graph.

Their gradients are summed before the step.
"""

Steps = Callable[[int, Generator], Iterable[Iterable[Tensor]]]
"""Gives, for an epoch (from 0), the losses of each of its steps in turn, as `Losses` does."""
Stored = Callable[[int], Iterable[tuple[Tensor, Tensor, Tensor]]]
"""Gives, for an epoch (from 0), its batches: images as networks see them, mixed; the logits to learn; the classes."""


def unmixed(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Mix nothing and draw nothing."""
    return images, torch.arange(len(images), device=images.device), 1.0


class Pace(Protocol):
    """How long a student learns and when it is tested."""

    @property
    def epochs(self) -> int:
        """Passes over the images."""

    @property
    def batch_size(self) -> int:
        """Images in a batch; the last one of an epoch may be smaller, it is not dropped."""

    @property
    def test_from(self) -> int:
        """The first epoch, from 0, after which the student is tested."""

    @property
    def test_every(self) -> int:
        """Tested after each so many epochs from `test_from` on, and after the last."""


@dataclass(frozen=True)
class StudentData:
    """What a student learns from and is tested on.

    Attributes:
        images: [n, 3, H, W], uint8, or float in [0, 1]; where `view` expects it, as networks see them.
        labels: [n], int64; unused where teachers alone label.
        view: how a batch of `images` is augmented and normalised.
        test_images: [m, 3, H, W], as `test_view` takes them.
        test_labels: [m].
        mix: how an augmented batch is mixed.
        plain: how images are only normalised, [n, 3, H, W] → same shape.
        test_view: what brings a batch of `test_images` to what networks see; a large test set waits as grey levels.
        stored: the batches of each epoch, where they were labelled before.
    """

    images: Tensor
    labels: Tensor
    view: View
    test_images: Tensor
    test_labels: Tensor
    mix: Mix = unmixed
    plain: Callable[[Tensor], Tensor] = torch.Tensor.float
    test_view: Callable[[Tensor], Tensor] = torch.Tensor.float
    stored: Stored | None = None


@dataclass(frozen=True)
class Place:
    """Where and with which seed a student is trained.

    Attributes:
        seed: of order, augmentation and mixing; the student arrives with its initial weights.
        folder: for checkpoints; a training that was killed goes on from there.
        progress: see `training.train`.
    """

    seed: int
    folder: Path
    progress: Progress | None = None


@dataclass(frozen=True)
class StudentResult:
    """Test accuracies in percent.

    Attributes:
        last: after the last epoch.
        best: the highest of all tests: chosen on the test set, as some published numbers are.
        best_epoch: the first epoch, from 0, that reached it.
        curve: (epoch, accuracy) of every test.
    """

    last: float
    best: float
    best_epoch: int
    curve: tuple[tuple[int, float], ...]


def learn(  # the student, what it learns from, and three things that say how: each its own type
    student: nn.Module, data: StudentData, *, losses: Losses, pace: Pace, training: Training, place: Place
) -> StudentResult:
    """Train `student` in place, on its device, with batches in random order, and return its accuracies.

    Raises:
        DirePlugError: see `training.train`.
    """
    device = next(student.parameters()).device

    def steps(epoch: int, generator: Generator) -> Iterator[Iterable[Tensor]]:
        for batch in shuffled(len(data.images), pace.batch_size, generator):
            yield losses(batch.to(device), generator)

    return learn_steps(student, data, steps=steps, pace=pace, training=training, place=place)


def learn_steps(  # as `learn`
    student: nn.Module, data: StudentData, *, steps: Steps, pace: Pace, training: Training, place: Place
) -> StudentResult:
    """Train `student` in place, on its device, by the steps of each epoch, and return its accuracies.

    Raises:
        DirePlugError: see `training.train`.
    """
    device = next(student.parameters()).device

    def run_epoch(epoch: int, optimiser: Optimizer, generator: Generator) -> Epoch:
        student.train()
        seen = []
        for step in steps(epoch, generator):
            optimiser.zero_grad()
            parts = []
            for loss in step:
                loss.backward()  # type: ignore[no-untyped-call]
                parts.append(loss.detach())
            optimiser.step()
            seen.append(torch.stack(parts).sum())
        mean = torch.stack(seen).mean()
        if not is_tested(epoch, pace):
            return Epoch(mean)
        tests = in_batches(data.test_images, data.test_labels, device=device)
        return Epoch(mean, accuracy(student, ((data.test_view(images), labels) for images, labels in tests)))

    curve = train(student, run_epoch, training, folder=place.folder, progress=place.progress)
    best_epoch, best = max(curve, key=lambda point: (point[1], -point[0]))
    return StudentResult(last=curve[-1][1], best=best, best_epoch=best_epoch, curve=tuple(curve))


def is_tested(epoch: int, pace: Pace) -> bool:
    """Tell whether the student is tested after `epoch`, counted from 0."""
    after = epoch - pace.test_from
    return epoch == pace.epochs - 1 or (after >= 0 and after % pace.test_every == 0)


def own_copies(teachers: Sequence[nn.Module], student: nn.Module, *, training: bool = False) -> list[nn.Module]:
    """Return copies of the teachers on the student's device, in train or eval mode; the originals stay as they are.

    In train mode the running statistics of BatchNorm layers drift, and no student may see what another one left.
    """
    device = next(student.parameters()).device
    return [copy.deepcopy(teacher).to(device).train(training) for teacher in teachers]


@torch.no_grad()
def mean_logits(teachers: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Return the plain mean of the teachers' logits, [n, outputs]."""
    return torch.stack([teacher(inputs) for teacher in teachers]).mean(dim=0)


def divergence(outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return KL(targets ‖ outputs) of probabilities softened by the temperature: a mean over the batch, without T².

    Args:
        outputs: the student's logits, [n, K].
        targets: the logits to learn, [n, K].
    """
    soft = F.softmax(targets / temperature, dim=1)
    return F.kl_div(F.log_softmax(outputs / temperature, dim=1), soft, reduction="batchmean")
