"""The ImageNet-1K protocols of SRe2L (and CDA) and of G-VBSM: labels stored with their crops, for all students.

Before the first student, every epoch's batches are drawn once (order, crops, flips, partners and boxes of CutMix) and
labelled, and all of that is stored; a student then rebuilds the same batches. That is `stages.relabel`; here is what a
label is, and how a student learns from it.

`fkd` follows SRe2L's `relabel/generate_soft_label.py` and `validate/train_FKD.py`, where CDA sends too: the teacher's
logits, and KL(teacher ‖ student) at T = 20, a mean over the batch, without a factor T².
`fkd-ensemble` follows the two scripts of G-VBSM's ImageNet-1K branch, `generate_soft_label_with_db.py` and
`train_FKD_parallel.py`: the mean of several networks' logits, first scaled to one norm, and MSE(student, mean) +
γ·CE(student, class); the class is that of the image before CutMix.

Both: AdamW, a cosine to 0, norms and biases don't decay, labels in half precision, a test every ten epochs, of which
the scripts keep the best. A batch of 1024 passes the student as 2 × 512 (SRe2L accumulates gradients, G-VBSM trains on
two cards), and BatchNorm sees each part alone. A last, smaller batch has fewer parts; each still counts by 1/2.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dire_plug.protocols.students import Place, StudentData, StudentResult, divergence, learn_steps, mean_logits
from dire_plug.protocols.training import Training


@dataclass(frozen=True)
class Fkd:
    """The numbers of `fkd`.

    Attributes:
        epochs, batch_size, test_from, test_every: see `students.Pace`.
        lr, weight_decay: of AdamW.
        accumulate: parts of a batch that pass the student one after the other.
        temperature: by which labels and the student's logits are divided.
    """

    epochs: int = 300
    batch_size: int = 1024
    lr: float = 1e-3
    weight_decay: float = 0.01
    accumulate: int = 2
    temperature: float = 20
    test_from: int = 0
    test_every: int = 10

    def label(self, teachers: Sequence[nn.Module], inputs: Tensor) -> Tensor:
        """Return the first teacher's logits, [n, outputs]."""
        return mean_logits(teachers[:1], inputs)

    def loss(self, outputs: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
        """Return the divergence of the student's logits from the stored ones; classes aren't asked."""
        return divergence(outputs, targets, self.temperature)


@dataclass(frozen=True)
class FkdEnsemble:
    """The numbers of `fkd-ensemble`: as `Fkd`'s, but for gamma, the weight of the cross-entropy with the class."""

    epochs: int = 300
    batch_size: int = 1024
    lr: float = 1e-3
    weight_decay: float = 0.01
    accumulate: int = 2
    gamma: float = 0.1
    test_from: int = 0
    test_every: int = 10

    def label(self, teachers: Sequence[nn.Module], inputs: Tensor) -> Tensor:
        """Return the mean of all teachers' logits, scaled to one norm, [n, outputs]."""
        return equal_norm_mean(teachers, inputs)

    def loss(self, outputs: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
        """Return the squared error of the student's logits, plus γ times the cross-entropy with the classes."""
        return F.mse_loss(outputs, targets) + self.gamma * F.cross_entropy(outputs, classes)


@torch.no_grad()
def equal_norm_mean(teachers: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Return the mean of the teachers' logits, each scaled so that its norm is the mean of all norms, [n, outputs].

    A norm is that of a teacher's logits of the whole batch, so a label depends a little on its batch, as upstream.
    """
    logits = torch.stack([teacher(inputs) for teacher in teachers])
    norms: Tensor = torch.linalg.vector_norm(logits, dim=(1, 2), keepdim=True)
    return (logits / norms * norms.mean(dim=0)).mean(dim=0)


def train_student(
    student: nn.Module, teachers: Sequence[nn.Module], data: StudentData, settings: Fkd | FkdEnsemble, place: Place
) -> StudentResult:
    """Train `student` in place with the stored labels, and return its accuracies; `teachers` aren't asked any more.

    `data` has `stored` batches.

    Raises:
        DirePlugError: a stored epoch can't be read; see also `training.train`.
    """
    assert data.stored is not None
    batches = data.stored
    part = -(-settings.batch_size // settings.accumulate)

    def losses(inputs: Tensor, targets: Tensor, classes: Tensor) -> Iterator[Tensor]:
        parts = (torch.split(values, part) for values in (inputs, targets, classes))
        for some, target, label in zip(*parts, strict=True):
            yield settings.loss(student(some), target, label) / settings.accumulate

    def steps(epoch: int, generator: Generator) -> Iterator[Iterator[Tensor]]:
        for batch in batches(epoch):
            yield losses(*batch)

    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        seed=place.seed,
        optimiser="adamw",
        decay="matrices",
    )
    return learn_steps(student, data, steps=steps, pace=settings, training=training, place=place)
