"""The Tiny-ImageNet protocols of SRe2L (and CDA) and of DWA: SGD with a warm-up, and a divergence times T².

Follows `train_kd.py` of zeyuanyin/tiny-imagenet, where SRe2L and CDA send for it, and DWA's `validation_tiny.py`, both
after torchvision's reference training: five epochs of linear warm-up, then a cosine to 0, weight decay on all
parameters, the teacher in eval mode, T²·KL(teacher ‖ student) at T = 20 (so don't carry the learning rate of .2 to a
protocol without T²). SRe2L: 100 epochs, batches of 256, no mixing. DWA: 200 epochs, batches of 64, CutMix 1;
torchvision's mixes each image with its neighbour in the shuffled batch, which is as random as a permutation. Both print
the best of a test after every epoch; SRe2L's published numbers are those of the last one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor, nn

from dire_plug.protocols.students import Place, StudentData, StudentResult, divergence, learn, mean_logits, own_copies
from dire_plug.protocols.training import Training


@dataclass(frozen=True)
class Tiny:
    """The numbers of both protocols; the defaults are SRe2L's.

    Attributes:
        epochs, batch_size, test_from, test_every: see `students.Pace`.
        lr, momentum, weight_decay: of SGD.
        warmup_epochs: of linear warm-up, from a hundredth of lr.
        temperature: by which the logits of both networks are divided.
        teacher_mode: `eval` (as published) or `train`.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: int = 5
    temperature: float = 20
    teacher_mode: Literal["train", "eval"] = "eval"
    test_from: int = 0
    test_every: int = 1


def train_student(
    student: nn.Module, teachers: Sequence[nn.Module], data: StudentData, settings: Tiny, place: Place
) -> StudentResult:
    """Train `student` in place with the labels of a copy of the first teacher, and return its accuracies."""
    teacher = own_copies(teachers[:1], student, training=settings.teacher_mode == "train")
    images = data.images.to(next(student.parameters()).device)

    def losses(batch: Tensor, generator: Generator) -> Iterator[Tensor]:
        inputs, _, _ = data.mix(data.view(images[batch], generator), generator)
        targets = mean_logits(teacher, inputs)
        yield divergence(student(inputs), targets, settings.temperature) * settings.temperature**2

    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        seed=place.seed,
        momentum=settings.momentum,
        warmup_epochs=settings.warmup_epochs,
    )
    return learn(student, data, losses=losses, pace=settings, training=training, place=place)
