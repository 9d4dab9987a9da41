"""INFER's two protocols: a student learns the mean logits of several networks, stored once or taken on the fly.

Both follow UFC's validation scripts: AdamW, a cosine to 0, batches of 64, mixup .8, KL(labels ‖ student) at T = 30
without a factor T², all networks in eval mode. They print the best of a test every ten epochs.

`static`, INFER (`val_static.py`): the labels are those of the plain images, without crop or flip, taken once; in a
batch they are mixed with the images' own λ. 400 epochs.
`dynamic`, INFER (D) (`val_dyn.py`): the labels are those of each augmented, mixed batch. 80 epochs, which is
400/(M + 1) with M = 4 networks, since the folder holds M + 1 times as many images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dire_plug.protocols.students import Place, StudentData, StudentResult, divergence, learn, mean_logits, own_copies
from dire_plug.protocols.training import Training

LABELLED_AT_ONCE = 500
"""Images in a batch whose static labels are taken."""


@dataclass(frozen=True)
class MeanLabels:
    """The numbers of both protocols.

    Attributes:
        static: whether the labels are taken once, of the plain images.
        epochs, batch_size, test_from, test_every: see `students.Pace`.
        lr, weight_decay: of AdamW.
        temperature: by which labels and the student's logits are divided.
    """

    static: bool = True
    epochs: int = 400
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    temperature: float = 30
    test_from: int = 0
    test_every: int = 10


def train_student(
    student: nn.Module, teachers: Sequence[nn.Module], data: StudentData, settings: MeanLabels, place: Place
) -> StudentResult:
    """Train `student` in place with the mean labels of all teachers, and return its accuracies."""
    own = own_copies(teachers, student)
    images = data.images.to(next(student.parameters()).device)
    stored = label_once(own, images, data) if settings.static else None

    def losses(batch: Tensor, generator: Generator) -> Iterator[Tensor]:
        inputs, partners, share = data.mix(data.view(images[batch], generator), generator)
        if stored is None:
            targets = mean_logits(own, inputs)
        else:
            targets = share * stored[batch] + (1 - share) * stored[batch][partners]
        yield divergence(student(inputs), targets, settings.temperature)

    training = Training(
        epochs=settings.epochs, lr=settings.lr, weight_decay=settings.weight_decay, seed=place.seed, optimiser="adamw"
    )
    return learn(student, data, losses=losses, pace=settings, training=training, place=place)


def label_once(teachers: Sequence[nn.Module], images: Tensor, data: StudentData) -> Tensor:
    """Return the teachers' mean logits of the plain images, [n, outputs]."""
    parts = torch.split(images, LABELLED_AT_ONCE)
    return torch.cat([mean_logits(teachers, data.plain(part)) for part in parts])
