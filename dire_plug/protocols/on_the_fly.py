"""The CIFAR protocol of SRe2L and of the authors: the teacher labels each augmented batch while the student learns.

Follows `relabel_cifar.py` of SRe2L's small-dataset code and of the authors' release: AdamW, a cosine to 0, and the
Kullback-Leibler divergence KL(teacher ‖ student) at temperature T, a mean over the batch, without a factor T².
Neither script ever puts the teacher in eval mode, so its labels depend on the batch: `teacher_mode="train"`.
SRe2L prints the accuracy of the last epoch; the authors print the best of a test after each epoch from 201 on.
DWA's protocol for CIFAR (`validation_cifar.py`) is the same with a test every ten epochs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor, nn

from dire_plug.protocols.students import Place, StudentData, StudentResult, divergence, learn, mean_logits, own_copies
from dire_plug.protocols.training import Training


@dataclass(frozen=True)
class OnTheFly:
    """The numbers of the protocol; the defaults are the authors'.

    Attributes:
        epochs, batch_size, test_from, test_every: see `students.Pace`.
        lr, weight_decay: of AdamW.
        temperature: by which the logits of both networks are divided.
        teacher_mode: `train` (batch statistics, as published) or `eval`.
    """

    epochs: int = 400
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.01
    temperature: float = 30
    teacher_mode: Literal["train", "eval"] = "train"
    test_from: int = 201
    test_every: int = 1


def train_student(
    student: nn.Module, teachers: Sequence[nn.Module], data: StudentData, settings: OnTheFly, place: Place
) -> StudentResult:
    """Train `student` in place with the labels of a copy of the first teacher, and return its accuracies."""
    teacher = own_copies(teachers[:1], student, training=settings.teacher_mode == "train")
    images = data.images.to(next(student.parameters()).device)

    def losses(batch: Tensor, generator: Generator) -> Iterator[Tensor]:
        inputs, _, _ = data.mix(data.view(images[batch], generator), generator)
        targets = mean_logits(teacher, inputs)
        yield divergence(student(inputs), targets, settings.temperature)

    training = Training(
        epochs=settings.epochs, lr=settings.lr, weight_decay=settings.weight_decay, seed=place.seed, optimiser="adamw"
    )
    return learn(student, data, losses=losses, pace=settings, training=training, place=place)
