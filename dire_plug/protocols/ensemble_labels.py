"""G-VBSM's protocol: a student regresses on the mean logits of several networks, and learns the class beside.

Loss of a batch x̃ that CutMix made of x, with classes y: MSE(student(x̃), mean of the networks' logits of x̃) +
γ·CE(student(x̃), y). The classes are those of x, not mixed, as in `train_FKD.py` of every branch. AdamW without weight
decay on CIFAR-10, SGD on CIFAR-100 and Tiny-ImageNet; a cosine to 0; norms and biases don't decay. It prints the best
of a test every ten epochs.

Upstream stores, for every epoch, the crops, flips, boxes and labels in half precision (its
`generate_soft_label_with_db.py`) and reads them again while the student learns. Here the same labels are computed on
the fly, of other random crops, and rounded alike. The networks are in eval mode, so a label doesn't depend on its
batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dire_plug.protocols.students import Place, StudentData, StudentResult, learn, mean_logits, own_copies
from dire_plug.protocols.training import Training


@dataclass(frozen=True)
class EnsembleLabels:
    """The numbers of the protocol; the defaults are the CIFAR-10 branch's.

    Attributes:
        epochs, batch_size, test_from, test_every: see `students.Pace`.
        optimiser, lr, momentum, weight_decay: momentum is sgd's.
        gamma: weight of the cross-entropy with the class.
        half_labels: whether labels are rounded to half precision.
        accumulate: parts of a batch that pass the student one after the other; BatchNorm sees each alone.
    """

    epochs: int = 1000
    batch_size: int = 100
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    gamma: float = 0.15
    half_labels: bool = True
    accumulate: int = 1
    test_from: int = 0
    test_every: int = 10


def train_student(
    student: nn.Module, teachers: Sequence[nn.Module], data: StudentData, settings: EnsembleLabels, place: Place
) -> StudentResult:
    """Train `student` in place with the mean logits of all teachers and the classes, and return its accuracies."""
    device = next(student.parameters()).device
    own = own_copies(teachers, student)
    images, classes = data.images.to(device), data.labels.to(device)
    part = -(-settings.batch_size // settings.accumulate)

    def losses(batch: Tensor, generator: Generator) -> Iterator[Tensor]:
        inputs, _, _ = data.mix(data.view(images[batch], generator), generator)
        targets = mean_logits(own, inputs)
        if settings.half_labels:
            targets = targets.half().float()
        for some, target, label in zip(
            torch.split(inputs, part), torch.split(targets, part), torch.split(classes[batch], part), strict=True
        ):
            outputs = student(some)
            loss = F.mse_loss(outputs, target) + settings.gamma * F.cross_entropy(outputs, label)
            yield loss / settings.accumulate

    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        seed=place.seed,
        optimiser=settings.optimiser,
        momentum=settings.momentum,
        decay="matrices",
    )
    return learn(student, data, losses=losses, pace=settings, training=training, place=place)
