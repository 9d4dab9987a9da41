"""The frame of a recipe: its sections, the types and bounds of their values. Defaults are stated here only."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UpstreamSection(Section):
    """The published repository and the commit that the recipe pins."""

    repository: str
    commit: Commit


class DatasetSection(Section):
    """The dataset, and how much of it at which size."""

    name: str
    size: Count | None = None
    """Height and width; None keeps the dataset's own."""
    limit: Count | None = None
    """The number of training images, class-balanced, the first of each class; None takes all."""


class TrainingSection(Section):
    """How one network is trained on the real images."""

    architecture: str
    epochs: Count
    batch_size: Count = 128
    lr: Positive = 0.1
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 5e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    augmentation: Literal["none", "crop", "crop_flip", "resized_crop_flip"] = "crop_flip"
    padding: Annotated[int, Field(ge=0)] = 4
    checkpoint: str | None = None
    """A file with trained weights to use instead, or `torchvision:<weights>`; nothing is trained then."""


class SqueezeSection(Section):
    """The teacher, in which the term works (T), and the independent network, in which it is judged too (I)."""

    outputs: Count
    """The width of the classification heads; upstream's script fixes it, the dataset may have fewer classes."""
    teacher: TrainingSection
    independent: TrainingSection


class RegroupSection(Section):
    """Several images of a class share a batch."""

    per_class: Count
    """Images of one class in a slot; the last pass may hold fewer."""


class RecoverSection(Section):
    """Upstream's synthesis script and its flags, in upstream's own spelling without the dashes."""

    script: str
    flags: dict[str, Any]
    plan: Literal["keep"] | RegroupSection = "keep"
    bank: bool = False
    start: Literal["noise", "real"] = "noise"


class RealSection(Section):
    """Which real images the regularizer sees."""

    per_class: Count | None = None
    """Real embeddings per class, the first ones in the dataset's order; None takes all."""
    order: Literal["by_class", "as_released"] = "by_class"
    """`as_released`: consecutive chunks of the unsorted training set in the place of classes."""
    mode: Literal["eval", "train"] = "eval"
    """The mode of the teacher while it embeds; the authors' release never leaves train mode."""


class EvaluateSection(Section):
    """How students are trained on the condensed images, and tested."""

    protocol: str
    students: tuple[str, ...] = Field(min_length=1)
    per_synthesis: Count = 1
    """Students of each architecture for one synthesis."""
    epochs: Count = 400
    batch_size: Count = 128
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    temperature: Positive = 30
    mixup: NonNegative = 0.8
    augmentation: Literal["none", "crop", "crop_flip", "resized_crop_flip"] = "crop_flip"
    padding: Annotated[int, Field(ge=0)] = 4
    test_from: Annotated[int, Field(ge=0)] = 0
    """The first epoch, from 0, after which the student is tested."""
    test_every: Count = 1
    """Test each so many epochs from `test_from` on; the last epoch is always tested."""
    teacher_mode: Literal["eval", "train"] = "eval"
    source: Literal["saved", "tensor"] = "saved"


class MeasureSection(Section):
    """The diversity metrics."""

    nearest_k: Count = 5


class ArmSection(Section):
    """What an arm changes in the recipe, and the regularizers that it adds, by name."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """The same sections and keys as the recipe's own."""
    regularizers: dict[str, dict[str, Any]] = Field(default_factory=dict)


class PaperSection(Section):
    """Where in the paper the figures of this recipe stand."""

    table: Count
    row: str
    figures: dict[int, dict[str, str]] = Field(default_factory=dict)
    """IPC → {baseline: "…", dire: "…"}, as printed."""
    diversity_table: Count | None = None
    diversity: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Arm → {coverage: "…", similarity: "…", vendi: "…"}, as printed; the paper doesn't say at which IPC."""


class Recipe(Section):
    """One method on one dataset, wholly specified."""

    name: Name
    title: str
    method: str
    demonstration: bool = False
    """True where the settings were tuned here to be shown in minutes; such a recipe may use the native engine."""
    upstream: UpstreamSection
    dataset: DatasetSection
    ipc: Count
    by_ipc: dict[int, dict[str, Any]] = Field(default_factory=dict)
    squeeze: SqueezeSection
    prepare: dict[str, Any] = Field(default_factory=dict)
    recover: RecoverSection
    real: RealSection = RealSection()
    evaluate: EvaluateSection
    measure: MeasureSection = MeasureSection()
    arms: dict[Name, ArmSection] = Field(default_factory=dict)
    presets: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Named sets of overrides, chosen by `--preset`."""
    paper: PaperSection | None = None
    sources: dict[str, str] = Field(default_factory=dict)
    """Dotted key → `published: where` or `chosen: from what`."""
