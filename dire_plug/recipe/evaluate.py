"""The section `evaluate`: how students are trained on the condensed images; each protocol has keys of its own.

The defaults are those of the upstream script that a protocol comes from (docs/reference/protocols.md).
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from dire_plug.errors import DirePlugError, nearest
from dire_plug.recipe.values import (
    OPERATIONS,
    Count,
    FromZero,
    NonNegative,
    Operations,
    Positive,
    Rate,
    Section,
    check_warmup,
)

Augmentation = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
# left out of a dump at its default, so that it is part of a run's name only where a recipe sets it
Decay = Annotated[Literal["all", "matrices"], Field(exclude_if=lambda value: value == "all")]
"""The parameters that decay: all, or weights with more than one axis, so neither norms nor biases."""


class EvaluateSection(Section):
    """The keys of every protocol."""

    protocol: str
    students: tuple[str, ...] = Field(min_length=1)
    per_synthesis: Count = 1
    """Students of each architecture for one synthesis."""
    epochs: Count = 400
    batch_size: Count = 128
    test_from: FromZero = 0
    """The first epoch, from 0, after which the student is tested."""
    test_every: Count = 10
    """Test each so many epochs from `test_from` on; the last epoch is always tested."""
    source: Literal["saved", "tensor"] = "saved"
    """Read the files that upstream saves, or the tensors before saving."""
    judge: Literal["test", "validation"] = "test"
    """The images that students are tested on and real references come from: the test set, or `dataset.validation`'s."""


class _OneMixSection(EvaluateSection):
    mixup: NonNegative = 0
    cutmix: NonNegative = 1

    @model_validator(mode="after")
    def _mixes_one_way(self) -> Self:
        if self.mixup and self.cutmix:
            raise PydanticCustomError("two_mixes", "mixup and cutmix exclude each other; set one of them to 0")
        return self


class OnTheFlySection(_OneMixSection):
    """The teacher labels each augmented batch; SRe2L's and DWA's protocol for CIFAR, DWA's for ImageNet-1K."""

    protocol: Literal["on-the-fly"]
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    decay: Decay = "all"
    temperature: Positive = 30
    mixup: NonNegative = 0.8
    cutmix: NonNegative = 0
    augmentation: Augmentation = "crop_flip"
    padding: FromZero = 4
    teacher_mode: Literal["eval", "train"] = "eval"


class HardLabelsSection(EvaluateSection):
    """The class is the label, and DSA augments; the protocol of MTT and DM."""

    protocol: Literal["hard-labels"]
    epochs: Count = 1001
    batch_size: Count = 256
    test_from: FromZero = 1000  # of 1001 epochs: one test, after the last, as upstream's
    test_every: Count = 1
    source: Literal["saved", "tensor"] = "tensor"
    lr: Rate = 0.01
    """A number, or `learned`: the one that the synthesis learned."""
    lr_without: Positive = 0.01
    """Replaces `learned` where nothing was learned: in arms of real images."""
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 5e-4
    dsa: Operations = "_".join(OPERATIONS)
    """The operations, one of which is drawn for each batch, joined by `_`; or `none`."""
    forget_momentum: bool = True
    """Whether the momentum is lost where the learning rate falls: upstream makes a new optimiser there."""
    whiten: bool = False
    """Whether images and test set live in ZCA space."""


class _MeanLabelsSection(EvaluateSection):
    batch_size: Count = 64
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    temperature: Positive = 30
    mixup: NonNegative = 0.8
    augmentation: Augmentation = "crop_flip"
    padding: FromZero = 4


class StaticLabelsSection(_MeanLabelsSection):
    """The teachers' mean logits of the plain images, taken once and mixed as the images are; INFER."""

    protocol: Literal["static-labels"]


class DynamicLabelsSection(_MeanLabelsSection):
    """The teachers' mean logits of each augmented batch; INFER (D)."""

    protocol: Literal["dynamic-labels"]
    epochs: Count = 80  # 400/(M + 1) of M = 4 networks, since the folder holds M + 1 times as many images


class EnsembleLabelsSection(EvaluateSection):
    """The teachers' mean logits as a target of regression, and the class beside; G-VBSM."""

    protocol: Literal["ensemble-labels"]
    epochs: Count = 1000
    batch_size: Count = 100
    optimiser: Literal["adamw", "sgd"] = "adamw"  # upstream's for CIFAR-10; it takes SGD for the other two
    lr: Positive = 1e-3
    momentum: NonNegative = 0.9
    """For sgd only."""
    weight_decay: NonNegative = 0
    gamma: NonNegative = 0.15
    """The weight of the cross-entropy with the class."""
    cutmix: NonNegative = 1
    augmentation: Augmentation = "resized_crop_flip"
    padding: FromZero = 4
    half_labels: bool = True
    """Whether labels are rounded to half precision, as upstream stores them."""
    accumulate: Count = 1
    """The parts of a batch that go through the student one after the other, before one step."""


class RandAugmentSection(Section):
    """RandAugment as timm draws it; the defaults are what DELT takes for ImageNet-1K, rand-m6-n2-mstd1.0."""

    operations: Count = 2
    """The number of operations drawn for an image; each is applied with probability 1/2."""
    magnitude: Annotated[float, Field(ge=0, le=10)] = 6
    std: NonNegative = 1
    """The standard deviation of the magnitude."""


class DeltSection(_OneMixSection):
    """The teacher labels each CutMix batch, and the cosine stops half way; DELT."""

    protocol: Literal["delt"]
    epochs: Count = 300
    batch_size: Count = 100
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    temperature: Positive = 20
    """Upstream's for cutmix; it takes 4 for mixup."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    """The least share of an image's area that a random crop takes."""
    randaugment: RandAugmentSection | None = None
    """Augments an image before it is cropped; None doesn't."""
    statistics: Literal["imagenet", "teacher"] = "imagenet"
    """Whose mean and standard deviation normalise images: upstream takes ImageNet's for every dataset."""
    test_crop: bool = True
    """Whether test images are enlarged by 8/7 and cropped; at 32 px and below it changes nothing."""
    second_forward: bool = True
    """Whether a batch passes the student once more without gradients, which moves its batch statistics twice."""


class _TinySection(_OneMixSection):
    test_every: Count = 1  # as upstream's
    momentum: NonNegative = 0.9
    lr: Positive = 0.2  # the loss is multiplied by T²; without that this rate is no good
    weight_decay: NonNegative = 1e-4
    decay: Decay = "all"
    warmup_epochs: FromZero = 5
    temperature: Positive = 20
    augmentation: Augmentation = "resized_crop_flip"
    padding: FromZero = 4
    teacher_mode: Literal["eval", "train"] = "eval"

    _leaves_epochs = model_validator(mode="after")(check_warmup)


class Sre2lTinySection(_TinySection):
    """SGD with a warm-up, and a divergence times T²; SRe2L's and CDA's protocol for Tiny-ImageNet."""

    protocol: Literal["sre2l-tiny"]
    epochs: Count = 100
    batch_size: Count = 256
    cutmix: NonNegative = 0


class DwaTinySection(_TinySection):
    """The same with CutMix; DWA's protocol for Tiny-ImageNet."""

    protocol: Literal["dwa-tiny"]
    epochs: Count = 200
    batch_size: Count = 64


class StoredSection(EvaluateSection):
    """Of the protocols whose labels are stored: what makes and reads them asks this for what only some have."""

    epochs: Count = 300
    batch_size: Count = 1024
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    accumulate: Count = 2  # SRe2L accumulates gradients, G-VBSM trains on two GPUs
    """The parts of a batch that go through the student one after the other, before one step."""
    augmentation: Augmentation = "resized_crop_flip"
    padding: FromZero = 4
    cutmix: NonNegative = 1
    labels_kept: Annotated[float, Field(gt=0, le=1)] = 1
    """The share of all batches that is stored: below 1 each epoch draws its batches from them, as LPLD's do."""

    @property
    def mixes(self) -> tuple[float, float]:
        """α of MixUp and of CutMix; 0 where there is none."""
        return 0, self.cutmix

    @property
    def labels_by_batch(self) -> bool:
        """Whether the networks that label normalise a batch by its own statistics: in train mode."""
        return False


class _StoredLogitsSection(StoredSection, _OneMixSection):
    temperature: Positive = 20
    teacher_mode: Literal["eval", "train"] = "eval"

    @property
    def mixes(self) -> tuple[float, float]:
        """α of MixUp and of CutMix, one of which is 0."""
        return self.mixup, self.cutmix

    @property
    def labels_by_batch(self) -> bool:
        """Whether the networks that label normalise a batch by its own statistics: in train mode."""
        return self.teacher_mode == "train"


class FkdSection(_StoredLogitsSection):
    """The teacher's labels, stored with their crops; SRe2L's and CDA's protocol for ImageNet-1K."""

    protocol: Literal["fkd"]


class CVDDSection(_StoredLogitsSection):
    """The same with weighted logits of all networks in the loop, by statistics of the batch; CV-DD and SRe2L++."""

    protocol: Literal["cv-dd"]
    batch_size: Count = 16
    teacher_mode: Literal["eval", "train"] = "train"
    votes: tuple[float, ...] = ()
    """A number for each network of the loop, in the recipe's order: upstream's are accuracies in %. (): all alike."""
    vote_temperature: Positive = 10
    """Divides the votes before the softmax that makes them weights."""
    schedule: Literal["cosine", "half-cosine"] = "cosine"
    """How the learning rate falls: to 0, or to half; upstream's `eta` 1 and 2."""


class FkdEnsembleSection(StoredSection):
    """The same with the mean logits of all teachers, and the class beside; G-VBSM's protocol for ImageNet-1K."""

    protocol: Literal["fkd-ensemble"]
    gamma: NonNegative = 0.1
    """The weight of the cross-entropy with the class."""


Evaluate = Annotated[
    OnTheFlySection
    | HardLabelsSection
    | StaticLabelsSection
    | DynamicLabelsSection
    | EnsembleLabelsSection
    | DeltSection
    | Sre2lTinySection
    | DwaTinySection
    | FkdSection
    | FkdEnsembleSection
    | CVDDSection,
    Field(discriminator="protocol"),
]
"""The section as a recipe has it: `protocol` says which."""


# How students are trained on condensed images, by the name that a recipe gives.


PROTOCOLS: tuple[str, ...] = tuple(
    name
    for section in get_args(get_args(Evaluate)[0])  # the members of the union that is annotated
    for name in get_args(section.model_fields["protocol"].annotation)
)
"""Those for which a recipe has a section; `published` says what each does."""


def check_protocol(name: str) -> None:
    """Raise for an unknown protocol.

    Raises:
        DirePlugError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        hint, known = nearest(name, PROTOCOLS), ", ".join(PROTOCOLS)
        raise DirePlugError(f"evaluate.protocol: no protocol is named '{name}'{hint}; one of {known}")
