"""Set up the published protocols: what labels a batch, the loss, and how the student is optimised.

Each function sets one protocol up for one student, from the section of the recipe, which has its numbers
(`recipe.evaluate`); docs/reference/protocols.md has them all in a table. No protocol multiplies its divergence by
T² unless it says so. Upstream prints the best of all tests, except where another number is named.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dire_plug.recipe.evaluate import (
    CVDDSection,
    DeltSection,
    DwaTinySection,
    DynamicLabelsSection,
    EnsembleLabelsSection,
    EvaluateSection,
    FkdEnsembleSection,
    FkdSection,
    HardLabelsSection,
    OnTheFlySection,
    Sre2lTinySection,
    StaticLabelsSection,
    StoredSection,
)
from dire_plug.training.loop import Curve, Progress, Training
from dire_plug.training.students import Label, Loss, Protocol, StudentData, learn, own_copies

LABELLED_AT_ONCE = 500
"""Images in a batch whose static labels are taken."""

Teachers = Sequence[nn.Module]


def train_student(
    student: nn.Module,
    teachers: Teachers,
    *,
    data: StudentData,
    section: EvaluateSection,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
) -> Curve:
    """Train `student` in place under the protocol that `section` names; return the (epoch, accuracy) of each test.

    Args:
        student: arrives with its initial weights, on the device where it is trained.
        teachers: the networks that label, the first of which is the teacher; they stay as they are.
        section: its learning rate is a number: `learned` was replaced before.
        seed: of order, augmentation and mixing.
        folder: for checkpoints; a training that was killed resumes from there.
        progress: see `training.train`.

    Raises:
        DirePlugError: a stored epoch can't be read; see also `training.train`.
    """
    protocol = SET_UP[section.protocol](student, teachers, data=data, section=section, seed=seed)
    return learn(student, data, section=section, protocol=protocol, folder=folder, progress=progress)


# A teacher labels each mixed batch.


def on_the_fly(
    student: nn.Module, teachers: Teachers, *, data: StudentData, section: OnTheFlySection, seed: int
) -> Protocol:
    """Set up SRe2L's, the authors' and DWA's protocol for CIFAR: the teacher labels each mixed batch.

    Follows `relabel_cifar.py` of SRe2L's small-dataset code and of the authors' release: AdamW, a cosine to 0. Neither
    script ever puts the teacher in eval mode, so its labels depend on the batch: `teacher_mode: train`. SRe2L prints
    the accuracy of the last epoch; the authors the best of a test after each epoch from 201 on. DWA's
    `validation_cifar.py` is the same with a test every ten epochs, and its `validation_imgnet.py` spares norms and
    biases from weight decay: `decay: matrices`.
    """
    return Protocol(
        label=_label_by(own_copies(teachers[:1], student, training=section.teacher_mode == "train")),
        loss=_diverge_at(section.temperature),
        training=Training(
            section.epochs, section.lr, section.weight_decay, seed, optimiser="adamw", decay=section.decay
        ),
    )


def tiny(
    student: nn.Module,
    teachers: Teachers,
    *,
    data: StudentData,
    section: Sre2lTinySection | DwaTinySection,
    seed: int,
) -> Protocol:
    """Set up SRe2L's (and CDA's) or DWA's protocol for Tiny-ImageNet: SGD with a warm-up, a divergence times T².

    Follows `train_kd.py` of zeyuanyin/tiny-imagenet, where SRe2L and CDA send for it, and DWA's `validation_tiny.py`,
    both after torchvision's reference training: linear warm-up, then a cosine to 0, weight decay on all parameters,
    T²·KL (so don't carry the learning rate of .2 to a protocol without T²). LPLD's `train_FKD_label_pruning_batch.py`
    trains so on Tiny-ImageNet, but spares norms and biases: `decay: matrices`. DWA's CutMix mixes each image with its
    neighbour in the shuffled batch, which is as random as a permutation. SRe2L's published numbers are those of the
    last epoch.
    """
    return Protocol(
        label=_label_by(own_copies(teachers[:1], student, training=section.teacher_mode == "train")),
        loss=lambda outputs, targets, _: divergence(outputs, targets, section.temperature) * section.temperature**2,
        training=Training(
            section.epochs,
            section.lr,
            section.weight_decay,
            seed,
            momentum=section.momentum,
            warmup_epochs=section.warmup_epochs,
            decay=section.decay,
        ),
    )


def delt(student: nn.Module, teachers: Teachers, *, data: StudentData, section: DeltSection, seed: int) -> Protocol:
    """Set up DELT's protocol: the teacher labels each CutMix batch, and the cosine stops half way.

    Follows DELT's `evaluation/validation/main.py` (after RDED's): AdamW, whose learning rate falls by the first half of
    half a cosine, so to lr/2; norms and biases don't decay. Upstream passes every batch through the student a second
    time, in train mode and without gradients, only to count how often it is right, which moves BatchNorm's running
    statistics twice a step: `second_forward`.
    """
    teacher = own_copies(teachers[:1], student)

    def label(inputs: Tensor, *_: object) -> Tensor:
        if section.second_forward:
            with torch.no_grad():  # the student is in train mode: its running statistics move, nothing else
                student(inputs)
        return mean_logits(teacher, inputs)

    return Protocol(
        label=label,
        loss=_diverge_at(section.temperature),
        training=Training(
            section.epochs,
            section.lr,
            section.weight_decay,
            seed,
            optimiser="adamw",
            schedule="half-cosine",
            decay="matrices",
        ),
    )


# The mean of several networks labels.


def mean_labels(
    student: nn.Module,
    teachers: Teachers,
    *,
    data: StudentData,
    section: StaticLabelsSection | DynamicLabelsSection,
    seed: int,
) -> Protocol:
    """Set up INFER's protocol: the mean logits of all networks, in eval mode.

    Follows UFC's validation scripts. Static, INFER (`val_static.py`): the labels are those of the plain images, without
    crop or flip, taken once; in a batch they are mixed with the images' own λ. Dynamic, INFER (D) (`val_dyn.py`): the
    labels are those of each mixed batch, in 400/(M + 1) epochs with M = 4 networks, since the folder holds M + 1 times
    as many images.
    """
    own = own_copies(teachers, student)
    return Protocol(
        label=_label_once(own, student, data) if isinstance(section, StaticLabelsSection) else _label_by(own),
        loss=_diverge_at(section.temperature),
        training=Training(section.epochs, section.lr, section.weight_decay, seed, optimiser="adamw"),
    )


def ensemble_labels(
    student: nn.Module, teachers: Teachers, *, data: StudentData, section: EnsembleLabelsSection, seed: int
) -> Protocol:
    """Set up G-VBSM's protocol: regression on the mean logits of several networks, and the class beside.

    The classes are those of the images before CutMix, as in `train_FKD.py` of every branch. AdamW without weight decay
    on CIFAR-10, SGD on CIFAR-100 and Tiny-ImageNet; a cosine to 0; norms and biases don't decay.

    Upstream stores, for every epoch, the crops, flips, boxes and labels in half precision (its
    `generate_soft_label_with_db.py`) and reads them again while the student learns. Here the same labels are computed
    on the fly, of other random crops, and rounded alike. The networks are in eval mode, so a label doesn't depend on
    its batch.
    """
    own = own_copies(teachers, student)

    def label(inputs: Tensor, *_: object) -> Tensor:
        logits = mean_logits(own, inputs)
        return logits.half().float() if section.half_labels else logits  # what a stored label would have lost

    return Protocol(
        label=label,
        loss=partial(regression, gamma=section.gamma),
        training=Training(
            section.epochs,
            section.lr,
            section.weight_decay,
            seed,
            optimiser=section.optimiser,
            momentum=section.momentum,
            decay="matrices",
        ),
        accumulate=section.accumulate,
    )


# The classes are the labels.


def hard_labels(
    student: nn.Module, teachers: Teachers, *, data: StudentData, section: HardLabelsSection, seed: int
) -> Protocol:
    """Set up the protocol of MTT and DM: the classes themselves, of images that DSA augments.

    Follows `evaluate_synset` in the `utils.py` of both: SGD; the learning rate, .01 or the one that MTT learned, falls
    to a tenth after epoch 501 of 0 … 1000; a new optimiser is made there, so that the momentum is lost. The student is
    tested once, after the last epoch. MTT prints the maximum, over its evaluations, of the mean of five students; DM
    the last evaluation.
    """
    return Protocol(
        label=None,
        loss=lambda outputs, _, classes: F.cross_entropy(outputs, classes),
        training=Training(
            section.epochs,
            float(section.lr),  # `learned` was replaced before
            section.weight_decay,
            seed,
            momentum=section.momentum,
            schedule="step",
            step_at=first_epoch_at_a_tenth(section.epochs),
            forget_momentum=section.forget_momentum,
        ),
    )


def first_epoch_at_a_tenth(epochs: int) -> int:
    """Return the epoch, from 0, from which the learning rate is a tenth: 502 of 1001."""
    return (epochs - 1) // 2 + 2  # upstream counts 0 … E, E = epochs − 1, and lowers the rate after epoch E // 2 + 1


# Labels stored with their crops, for all students: `training.soft_labels` makes them.


def fkd(
    student: nn.Module, teachers: Teachers, *, data: StudentData, section: FkdSection | FkdEnsembleSection, seed: int
) -> Protocol:
    """Set up the ImageNet-1K protocol of SRe2L (and CDA) or of G-VBSM; the labels in `data.stored` are `stored_label`s.

    `fkd` follows SRe2L's `validate/train_FKD.py`, where CDA sends too: the divergence from the teacher's logits.
    `fkd-ensemble` follows `train_FKD_parallel.py` of G-VBSM's ImageNet-1K branch: regression on the mean of several
    networks' logits, and the class of the image before CutMix beside.

    Both: AdamW, a cosine to 0, norms and biases don't decay, and the scripts keep the best of a test every ten epochs.
    A batch of 1024 passes the student as 2 × 512 (SRe2L accumulates gradients, G-VBSM trains on two GPUs), and
    BatchNorm sees each part alone. A last, smaller batch has fewer parts; each still counts by 1/2.
    """
    return Protocol(
        label=None,
        loss=(
            partial(regression, gamma=section.gamma)
            if isinstance(section, FkdEnsembleSection)
            else _diverge_at(section.temperature)
        ),
        training=Training(section.epochs, section.lr, section.weight_decay, seed, optimiser="adamw", decay="matrices"),
        accumulate=section.accumulate,
    )


def vote(student: nn.Module, teachers: Teachers, *, data: StudentData, section: CVDDSection, seed: int) -> Protocol:
    """Set up CV-DD's protocol, which SRe2L++ has with one network; the labels in `data.stored` are `stored_label`s.

    Follows `validate/train_fkd.py`: as `fkd`, in batches of 16 as 2 × 8, and the cosine of the learning rate may stop
    half way. Upstream prints the best of a test every ten epochs.
    """
    training = Training(
        section.epochs,
        section.lr,
        section.weight_decay,
        seed,
        optimiser="adamw",
        schedule=section.schedule,
        decay="matrices",
    )
    loss = _diverge_at(section.temperature)
    return Protocol(label=None, loss=loss, training=training, accumulate=section.accumulate)


def stored_label(section: StoredSection, teachers: Teachers, inputs: Tensor) -> Tensor:
    """Return the label of a batch that is stored, [n, outputs].

    `fkd`: the first teacher's logits, as SRe2L's `relabel/generate_soft_label.py`; `fkd-ensemble`: the mean of all
    teachers' logits, scaled to one norm, as G-VBSM's `generate_soft_label_with_db.py`; `cv-dd`: see `voted_logits`.
    """
    if isinstance(section, CVDDSection):
        return voted_logits(section, teachers, inputs)
    if isinstance(section, FkdEnsembleSection):
        return equal_norm_mean(teachers, inputs)
    return mean_logits(teachers[:1], inputs)


SET_UP: dict[str, Callable[..., Protocol]] = {
    "on-the-fly": on_the_fly,
    "hard-labels": hard_labels,
    "static-labels": mean_labels,
    "dynamic-labels": mean_labels,
    "ensemble-labels": ensemble_labels,
    "delt": delt,
    "sre2l-tiny": tiny,
    "dwa-tiny": tiny,
    "fkd": fkd,
    "fkd-ensemble": fkd,
    "cv-dd": vote,
}


# Labels and losses.


@torch.no_grad()
def mean_logits(teachers: Teachers, inputs: Tensor) -> Tensor:
    """Return the plain mean of the teachers' logits, [n, outputs]."""
    return torch.stack([teacher(inputs) for teacher in teachers]).mean(dim=0)


@torch.no_grad()
def equal_norm_mean(teachers: Teachers, inputs: Tensor) -> Tensor:
    """Return the mean of the teachers' logits, each scaled so that its norm is the mean of all norms, [n, outputs].

    A norm is that of a teacher's logits of the whole batch, so a label depends a little on its batch, as upstream.
    """
    logits = torch.stack([teacher(inputs) for teacher in teachers])
    norms: Tensor = torch.linalg.vector_norm(logits, dim=(1, 2), keepdim=True)
    return (logits / norms * norms.mean(dim=0)).mean(dim=0)


@torch.no_grad()
def voted_logits(section: CVDDSection, teachers: Teachers, inputs: Tensor) -> Tensor:
    """Return Σ w_t · logits_t, [n, outputs], with w = softmax(votes / `vote_temperature`).

    As CV-DD's `relabel/relabel.py`: the two halves of a batch pass each network apart, which in train mode normalises
    each by its own statistics (batch-specific soft labels).
    """
    votes = section.votes or (0.0,) * len(teachers)
    weights = torch.softmax(torch.tensor(votes, dtype=torch.float64) / section.vote_temperature, dim=0).tolist()
    halves = [half for half in (inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]) if len(half)]
    logits = [
        weight * torch.cat([teacher(half) for half in halves])
        for weight, teacher in zip(weights, teachers, strict=True)
    ]
    return torch.stack(logits).sum(dim=0)


def divergence(outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return KL(targets ‖ outputs) of probabilities softened by the temperature: a mean over the batch, without T².

    Args:
        outputs: the student's logits, [n, K].
        targets: the logits to learn, [n, K].
    """
    soft = F.softmax(targets / temperature, dim=1)
    # `mean` would divide by the number of classes, too
    return F.kl_div(F.log_softmax(outputs / temperature, dim=1), soft, reduction="batchmean")


def regression(outputs: Tensor, targets: Tensor, classes: Tensor, *, gamma: float) -> Tensor:
    """Return MSE(outputs, targets) + γ·CE(outputs, classes), of logits, [n, K], and classes, [n]."""
    return F.mse_loss(outputs, targets) + gamma * F.cross_entropy(outputs, classes)


def _diverge_at(temperature: float) -> Loss:
    return lambda outputs, targets, _: divergence(outputs, targets, temperature)


def _label_by(teachers: Teachers) -> Label:
    """Return what labels a batch with the teachers' mean logits of what the student sees."""
    return lambda inputs, *_: mean_logits(teachers, inputs)


def _label_once(teachers: Teachers, student: nn.Module, data: StudentData) -> Label:
    """Return what mixes the labels of the plain images, taken here and now, as the batch is mixed."""
    device = next(student.parameters()).device
    parts = torch.split(data.images, LABELLED_AT_ONCE)
    logits = torch.cat([mean_logits(teachers, data.plain_transform(part.to(device))) for part in parts])

    def label(inputs: Tensor, indices: Tensor, partners: Tensor, share: float) -> Tensor:
        own = logits[indices]
        return share * own + (1 - share) * own[partners]

    return label
