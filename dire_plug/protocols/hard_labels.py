"""The protocol of MTT and DM: a student learns the classes themselves, of images that DSA augments.

Follows `evaluate_synset` in the `utils.py` of both: cross-entropy, SGD with momentum .9 and weight decay 5e-4, batches
of 256, 1001 epochs. The learning rate, .01 or the one that MTT learned, falls to a tenth after epoch 501 of 0 … 1000; a
new optimiser is made there, so that the momentum is lost. The student is tested once, after the last epoch. MTT prints
the maximum, over its evaluations, of the mean of five students; DM the last evaluation.

Images are as the network sees them, normalised or whitened (`data.whitening`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dire_plug.protocols.students import Place, StudentData, StudentResult, learn
from dire_plug.protocols.training import Training


@dataclass(frozen=True)
class HardLabels:
    """The numbers of the protocol.

    Attributes:
        epochs, batch_size, test_from, test_every: see `students.Pace`.
        lr, momentum, weight_decay: of SGD.
        forget_momentum: whether the momentum is lost where the learning rate falls.
    """

    epochs: int = 1001
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    forget_momentum: bool = True
    test_from: int = 1000
    test_every: int = 1


def train_student(
    student: nn.Module, teachers: Sequence[nn.Module], data: StudentData, settings: HardLabels, place: Place
) -> StudentResult:
    """Train `student` in place with the classes alone, and return its accuracies; `teachers` aren't asked."""
    device = next(student.parameters()).device
    images, classes = data.images.to(device), data.labels.to(device)

    def losses(batch: Tensor, generator: Generator) -> Iterator[Tensor]:
        inputs, _, _ = data.mix(data.view(images[batch], generator), generator)
        yield F.cross_entropy(student(inputs), classes[batch])

    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        seed=place.seed,
        momentum=settings.momentum,
        schedule="step",
        step_at=first_epoch_at_a_tenth(settings.epochs),
        forget_momentum=settings.forget_momentum,
    )
    return learn(student, data, losses=losses, pace=settings, training=training, place=place)


def first_epoch_at_a_tenth(epochs: int) -> int:
    """Return the epoch, from 0, from which the learning rate is a tenth: 502 of 1001."""
    return (epochs - 1) // 2 + 2
