"""DELT's protocol: the teacher, in eval mode, labels each CutMix batch, and the cosine stops half way.

Follows DELT's `evaluation/validation/main.py` (after RDED's): KL(teacher ‖ student) at T = 20, or 4 with mixup, without
a factor T²; AdamW, whose learning rate falls by the first half of half a cosine, so to lr/2; norms and biases don't
decay. It prints the best of a test every ten epochs. Two habits of upstream's are settings: every batch passes the
student a second time, in train mode and without gradients, only to count how often it is right, which moves BatchNorm's
running statistics twice a step; and ImageNet's statistics normalise every dataset (the stage does that, the test crop,
and RandAugment, which its ImageNet-1K scripts ask for).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dire_plug.protocols.students import Place, StudentData, StudentResult, divergence, learn, mean_logits, own_copies
from dire_plug.protocols.training import Training


@dataclass(frozen=True)
class Delt:
    """The numbers of the protocol.

    Attributes:
        epochs, batch_size, test_from, test_every: see `students.Pace`.
        lr, weight_decay: of AdamW.
        temperature: by which the logits of both networks are divided.
        second_forward: whether a batch passes the student once more, before, without gradients.
    """

    epochs: int = 300
    batch_size: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.01
    temperature: float = 20
    second_forward: bool = True
    test_from: int = 0
    test_every: int = 10


def train_student(
    student: nn.Module, teachers: Sequence[nn.Module], data: StudentData, settings: Delt, place: Place
) -> StudentResult:
    """Train `student` in place with the labels of the first teacher, and return its accuracies."""
    teacher = own_copies(teachers[:1], student)
    images = data.images.to(next(student.parameters()).device)

    def losses(batch: Tensor, generator: Generator) -> Iterator[Tensor]:
        inputs, _, _ = data.mix(data.view(images[batch], generator), generator)
        if settings.second_forward:
            with torch.no_grad():
                student(inputs)
        targets = mean_logits(teacher, inputs)
        yield divergence(student(inputs), targets, settings.temperature)

    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        seed=place.seed,
        optimiser="adamw",
        schedule="half-cosine",
        decay="matrices",
    )
    return learn(student, data, losses=losses, pace=settings, training=training, place=place)
