"""The CIFAR protocol of SRe2L and of the authors: the teacher labels each augmented batch while the student learns.

Follows `relabel_cifar.py` of SRe2L's small-dataset code and of the authors' release: AdamW, a cosine to 0, and the
Kullback-Leibler divergence KL(teacher ‖ student) at temperature T, a mean over the batch, without a factor T².
Neither script ever puts the teacher in eval mode, so its labels depend on the batch: `teacher_mode="train"`.
SRe2L prints the accuracy of the last epoch; the authors print the best of a test after each epoch from 201 on.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from dire_plug.protocols.testing import accuracy, in_batches
from dire_plug.protocols.training import Epoch, Progress, Training, shuffled, train

View = Callable[[Tensor, Generator], Tensor]
"""Turns images as they are stored into a batch as networks see it: cropped, flipped, normalised, mixed."""


@dataclass(frozen=True)
class OnTheFly:
    """The numbers of the protocol; the defaults are the authors'.

    Attributes:
        epochs, batch_size: the last batch of an epoch may be smaller; it is not dropped.
        lr, weight_decay: of AdamW.
        temperature: by which the logits of both networks are divided.
        teacher_mode: `train` (batch statistics, as published) or `eval`.
        test_from, test_every: tested after the epochs test_from, test_from + test_every, … (from 0), and the last.
    """

    epochs: int = 400
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.01
    temperature: float = 30
    teacher_mode: Literal["train", "eval"] = "train"
    test_from: int = 201
    test_every: int = 1


@dataclass(frozen=True)
class StudentData:
    """What a student learns from and is tested on.

    Attributes:
        images: [n, 3, H, W], uint8, or float in [0, 1].
        labels: [n]; unused where the teacher labels.
        view: how a batch of `images` is augmented.
        test_images: [m, 3, H, W], normalised.
        test_labels: [m].
    """

    images: Tensor
    labels: Tensor
    view: View
    test_images: Tensor
    test_labels: Tensor


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


def train_student(
    student: nn.Module,
    teacher: nn.Module,
    data: StudentData,
    settings: OnTheFly,
    *,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
) -> StudentResult:
    """Train `student` in place, on its device, and return its accuracies.

    `teacher` stays as it is: a copy labels, since in train mode the running statistics of its BatchNorm layers drift.

    Args:
        seed: of order, augmentation and mixing; the student arrives with its initial weights.
        folder: for checkpoints; a training that was killed goes on from there.
        progress: see `training.train`.

    Raises:
        DirePlugError: see `training.train`.
    """
    device = next(student.parameters()).device
    own_teacher = copy.deepcopy(teacher).to(device).train(settings.teacher_mode == "train")
    images = data.images.to(device)

    def run_epoch(epoch: int, optimiser: Optimizer, generator: Generator) -> Epoch:
        student.train()
        losses = []
        for batch in shuffled(len(images), settings.batch_size, generator):
            inputs = data.view(images[batch.to(device)], generator)
            loss = _distill(student, own_teacher, inputs, settings.temperature)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean()
        if not is_tested(epoch, settings):
            return Epoch(mean)
        return Epoch(mean, accuracy(student, in_batches(data.test_images, data.test_labels, device=device)))

    training = Training(
        epochs=settings.epochs, lr=settings.lr, weight_decay=settings.weight_decay, seed=seed, optimiser="adamw"
    )
    curve = train(student, run_epoch, training, folder=folder, progress=progress)
    best_epoch, best = max(curve, key=lambda point: (point[1], -point[0]))
    return StudentResult(last=curve[-1][1], best=best, best_epoch=best_epoch, curve=tuple(curve))


def is_tested(epoch: int, settings: OnTheFly) -> bool:
    """Tell whether the student is tested after `epoch`, counted from 0."""
    after = epoch - settings.test_from
    return epoch == settings.epochs - 1 or (after >= 0 and after % settings.test_every == 0)


def _distill(student: nn.Module, teacher: nn.Module, inputs: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher ‖ student) of softened probabilities: a mean over the batch, with the student's graph."""
    with torch.no_grad():
        target = F.softmax(teacher(inputs) / temperature, dim=1)
    return F.kl_div(F.log_softmax(student(inputs) / temperature, dim=1), target, reduction="batchmean")
