"""Define the sections of a recipe: the types, bounds and defaults of their values, which stand here only."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from dire_plug.errors import DirePlugError
from dire_plug.files import expand_user
from dire_plug.recipe.evaluate import Evaluate
from dire_plug.recipe.values import Commit, Count, FromZero, Name, NonNegative, Positive, Section, check_warmup
from dire_plug.types import LOOP

FROZEN, SEVERAL = "frozen:", "several"
RDED = "rded"
"""The name of an arm of real images, of a start, and of the section that says how their images are made."""
LARGE = 128
"""Pixels a side from which on RDED puts 2 × 2 patches into an image."""


def _read_networks(value: object) -> object:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise PydanticCustomError("networks", "must be loop, frozen:<architecture>, several, or a list of them")
    for name in names:
        if name not in (LOOP, SEVERAL) and not (name.startswith(FROZEN) and name != FROZEN):
            raise PydanticCustomError(
                "networks", "'{name}' is none of loop, frozen:<architecture>, several", {"name": name}
            )
    if len(set(names)) < len(names) or (SEVERAL in names and len(names) > 1):
        raise PydanticCustomError("networks", "names a network twice; name each once, and several by itself")
    return tuple(names)


Networks = Annotated[tuple[str, ...], BeforeValidator(_read_networks)]  # before: one name needs no list


def _absolute(path: str) -> str:
    # at once: a run's own recipe.yaml is used from other folders
    try:
        return str(expand_user(path).absolute())
    except DirePlugError as error:
        raise PydanticCustomError("no_home", "{why}", {"why": str(error)}) from error


class UpstreamSection(Section):
    """The published repository and the commit that the recipe pins."""

    repository: str
    commit: Commit


class DatasetSection(Section):
    """The dataset, and how much of it at which size."""

    name: str
    """One of ours, a package's, or `folder`: the user's own images, one folder a class, at `path`."""
    path: Annotated[str, AfterValidator(_absolute)] | None = None
    """The dataset's own folder, from the working folder; None looks below the data folder."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of each class that is drawn as test images of a `folder` without test/ or val/; None: .2."""
    split_seed: FromZero | None = None
    """Of that draw; None: 0."""
    size: Count | None = None
    """Height and width; None keeps the dataset's own."""
    limit: Count | None = None
    """The number of training images, class-balanced, the first of each class; None takes all."""
    validation: Count | None = None
    """The number of those to hold out, class-balanced, by a fixed draw: nothing learns from them, and
    `evaluate.judge: validation` tests on them; None holds out none."""


class TrainingSection(Section):
    """The training of one network on the real images."""

    architecture: str
    head: Literal["averaged", "flat"] = "averaged"
    """The input of a ConvNet's head: the last map averaged, so that the embedding is as wide at every size, or flat, as
    in the published ConvNets. Other architectures average."""
    epochs: Count
    batch_size: Count = 128
    lr: Positive = 0.1
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 5e-4
    warmup_epochs: FromZero = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    """The learning rate's schedule, after the warm-up."""
    augmentation: Literal["none", "crop", "crop_flip", "resized_crop_flip"] = "crop_flip"
    padding: FromZero = 4
    checkpoint: str | None = None
    """A file with trained weights to use instead, or `torchvision:<weights>`; nothing is trained then."""

    _leaves_epochs = model_validator(mode="after")(check_warmup)


class SqueezeSection(Section):
    """The teacher, in which the term works (T), and the independent network, in which it is judged too (I)."""

    outputs: Count
    """The width of the classification heads; upstream's script fixes it, the dataset may have fewer classes."""
    teacher: TrainingSection
    others: dict[Name, TrainingSection] = Field(default_factory=dict)
    """Further networks in the loop, by the key under which a term sees them; T is `teacher`."""
    frozen: dict[Name, TrainingSection] = Field(default_factory=dict)
    """The training of a network outside of the loop, in which `term.network` computes the terms, by architecture; one
    that isn't named here is trained as `teacher` is, from other initial weights."""
    independent: TrainingSection
    labeller: TrainingSection | None = None
    """The network that labels for students, of the dataset's own classes and normalisation; None: T, or all networks in
    the loop, as the protocol says."""

    @field_validator("others", "frozen")
    @classmethod
    def _names_no_other_role(cls, value: dict[str, TrainingSection]) -> dict[str, TrainingSection]:
        if taken := sorted(value.keys() & {"teacher", "independent", "labeller"}):
            raise PydanticCustomError("role", "'{name}' is another network's name; choose another", {"name": taken[0]})
        return value


class RegroupSection(Section):
    """Several images of a class share a batch."""

    per_class: Count
    """Images of one class in a slot; the last pass may hold fewer."""


class EmbedderSection(Section):
    """The network that embeds the images where the loop holds no trained one."""

    network: Literal["teacher", "expert", "loop"] = "teacher"
    """`teacher`: the frozen `squeeze.teacher`; `expert`: the frozen last snapshot of MTT's first expert; `loop`: DM's
    own network, new in each iteration, with the real images that the loop itself embeds."""
    classes_per_step: Count | None = None
    """The classes whose images are embedded in one step; None embeds all."""


class RecoverSection(Section):
    """Upstream's synthesis script and its flags, in upstream's own spelling without the dashes."""

    script: str
    flags: dict[str, Any]  # the adapter's model of them checks these
    plan: Literal["keep"] | RegroupSection = "keep"
    bank: bool = False
    start: Literal["noise", "real", "rded", "own"] = "noise"
    """`real`: real images, drawn at random; `rded`: the images of the arm `rded`; `own`: the script's own start, such
    as DELT's ranked selection, left as it is."""
    embedder: EmbedderSection | None = None

    @property
    def is_given_a_start(self) -> bool:
        """Whether the loop starts from images that the tool gives to it."""
        return self.start in ("real", RDED)


class TermSection(Section):
    """The networks whose embeddings the terms are computed in."""

    network: Networks = (LOOP,)
    """`loop`: the loop's own; `frozen:<architecture>`: another one, trained and frozen, that embeds the images too;
    several of them in a list: the mean over their terms. `several` is loop and a second network of the teacher's
    architecture."""

    def names(self, squeeze: SqueezeSection) -> tuple[str, ...]:
        """Return the networks with `several` spelled out."""
        second = f"{FROZEN}{squeeze.teacher.architecture}"
        return (LOOP, second) if self.network == (SEVERAL,) else self.network

    def in_loop(self, squeeze: SqueezeSection) -> bool:
        """Return whether the terms are computed in the loop's own networks."""
        return LOOP in self.names(squeeze)

    def frozen(self, squeeze: SqueezeSection) -> dict[str, TrainingSection]:
        """Return name → how it is trained, of the networks outside of the loop."""
        found = {}
        for name in self.names(squeeze):
            if name != LOOP:
                architecture = name.removeprefix(FROZEN)
                # T's checkpoint, where it has one, is of T's architecture
                changed = {"architecture": architecture, "checkpoint": None}
                found[name] = squeeze.frozen.get(architecture, squeeze.teacher.model_copy(update=changed))
        return found


class RealSection(Section):
    """The real images that the regularizer compares with."""

    per_class: Count | None = None
    """Real embeddings per class, the first ones in the dataset's order; None takes all."""
    order: Literal["by_class", "as_released"] = "by_class"
    """`as_released`: consecutive chunks of the unsorted training set instead of classes."""
    mode: Literal["eval", "train"] = "eval"
    """The mode of the teacher while it embeds; the authors' release never leaves train mode."""
    coreset: Count | None = None
    """Centres of a class that stand for its real embeddings in EDM's sums of distances; None takes all of them."""


class RdedSection(Section):
    """Images of real patches, as RDED makes them: the arm `rded`, and `recover.start: rded`."""

    factor: Count | None = None
    """Patches a side of an image; None: 1 below 128 pixels, 2 from there on, as in RDED's scripts."""
    num_crop: Count = 5
    """Crops of a real image, of which the best is kept."""
    mipc: Count = 300
    """Real images of a class that are cropped: as many, at least IPC·factor², or all that there are."""

    def factor_at(self, size: int) -> int:
        """Return the patches a side of an image of this size."""
        return self.factor or (1 if size < LARGE else 2)

    def patches(self, ipc: int, size: int) -> int:
        """Return how many patches the images of a class are made of."""
        return ipc * self.factor_at(size) ** 2

    def candidates(self, ipc: int, size: int) -> int:
        """Return how many real images of a class are cropped, where there are as many."""
        return max(self.mipc, self.patches(ipc, size))


class MeasureSection(Section):
    """The diversity metrics."""

    nearest_k: Count = 5


class ArmSection(Section):
    """An arm's changes of the recipe, and the regularizers that it adds, by name."""

    overrides: dict[str, Any] = Field(default_factory=dict)  # checked as part of the recipe that they are laid over
    """The same sections and keys as the recipe's own."""
    regularizers: dict[str, dict[str, Any]] = Field(default_factory=dict)


class PaperSection(Section):
    """The place of this recipe's figures in the paper."""

    table: Count
    row: str
    figures: dict[int, dict[str, str]] = Field(default_factory=dict)  # text, because a figure has its ± with it
    """IPC → {baseline: "…", dire: "…"}, as printed."""
    diversity_table: Count | None = None
    diversity: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Arm → {coverage: "…", similarity: "…", vendi: "…"}, as printed; the paper doesn't say at which IPC."""


MOST_IPC = 10_000
"""More images of a class than any real set here has; plans list them one by one."""


class Recipe(Section):
    """One method on one dataset, wholly specified."""

    name: Name
    title: str
    method: str
    demonstration: bool = False
    """True where the settings were tuned here to be shown in minutes; such a recipe may use the native engine."""
    upstream: UpstreamSection
    dataset: DatasetSection
    ipc: Count = Field(le=MOST_IPC)
    by_ipc: dict[int, dict[str, Any]] = Field(default_factory=dict)
    squeeze: SqueezeSection
    prepare: dict[str, Any] = Field(default_factory=dict)
    recover: RecoverSection
    term: TermSection = TermSection()
    real: RealSection = RealSection()
    evaluate: Evaluate
    measure: MeasureSection = MeasureSection()
    rded: RdedSection = RdedSection()
    arms: dict[Name, ArmSection] = Field(default_factory=dict)
    presets: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Named sets of overrides, chosen by `--preset`."""
    paper: PaperSection | None = None
    sources: dict[str, str] = Field(default_factory=dict)
    """Dotted key → `published: where` or `chosen: from what`."""
