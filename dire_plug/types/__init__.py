"""Define what a plugin sees in the loop, and what an adapter must offer. Imports torch for type checkers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

# adapters and `--help` read this module, and must not wait for torch: tests/test_layering.py looks
if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Slot:
    """A position in upstream's loop: the pass (an image per class, or several) and the batch in it."""

    pass_index: int
    batch_index: int


@dataclass(frozen=True)
class Batch:
    """One step of the synthesis loop.

    Attributes:
        images: the optimised leaf, or what is computed from it (INFER's perturbation, which a batch shares),
            [N, 3, H, W], in the space that the network sees (normalised).
        loss: upstream's scalar, with its graph; None where the patch calls `bridge.term`, since it has no name there.
        labels: [N], int64; those in use in this step.
        embeddings: [N, D], the input of the watched network's last linear layer in upstream's own forward pass.
        teacher: the key under which that network is watched.
        step: iteration within the slot, from 0.
        slot: the slot.
    """

    images: Tensor
    loss: Tensor | None
    labels: Tensor
    embeddings: Tensor
    teacher: str
    step: int
    slot: Slot


CORESET = "coreset."
"""The prefix of a coreset's keys in a file of real embeddings."""
LOOP = "loop"
"""The loop's own: its networks in a recipe; in images.safetensors its tensors, in the space in which it works."""
EXTRAS = "extras.json"
"""The file, in a run and in the folder of its passes, of what a script learned beside the images."""
EDGE = 4
"""Every so many columns the start images of `verify` lie where clipping acts: there it may move what no step has."""
LEARNED_LR = "learned_lr"
"""The key, in it, of the student's learning rate that MTT learns."""


@dataclass(frozen=True)
class Coreset:
    """Centres that represent the real embeddings of one teacher in sums of distances, sorted by class.

    Attributes:
        centres: [K, D], float32.
        labels: [K], int64, ascending.
        weights: [K], the number of real rows of each.
        variances: [K], their mean squared distance from it.
    """

    centres: Tensor
    labels: Tensor
    weights: Tensor
    variances: Tensor


@dataclass(frozen=True)
class RealEmbeddings:
    """Embeddings of real images in one teacher, sorted by class.

    Attributes:
        values: [M, D], float32.
        labels: [M], int64, ascending.
        coreset: where the recipe's `real.coreset` asks for one; a term may use it instead of sums over `values`.
    """

    values: Tensor
    labels: Tensor
    coreset: Coreset | None = None


@dataclass(frozen=True)
class SlotPlan:
    """The content of one slot: for each position its class, and which image of that class it is."""

    labels: tuple[int, ...]
    images: tuple[int, ...]


class Plan(Protocol):
    """Which class, and which image of it, each position of each slot holds."""

    @property
    def passes(self) -> int:
        """The number of passes."""

    @property
    def slots_per_pass(self) -> int:
        """The number of batches in a pass."""

    @property
    def ipc(self) -> int:
        """The images of a class that all slots hold together; INFER's are more than the recipe's IPC."""

    @property
    def regrouped(self) -> bool:
        """Whether a slot holds other images than in upstream's own order."""

    def slot(self, slot: Slot) -> SlotPlan:
        """Return what `slot` holds; raise DirePlugError when the plan has no such slot."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plan.json holds it."""


class Synthesis(Protocol):
    """One running synthesis, as a plugin sees it."""

    @property
    def plan(self) -> Plan:
        """The plan."""

    @property
    def classes(self) -> int:
        """The number of classes."""

    @property
    def ipc(self) -> int:
        """Images per class."""

    @property
    def steps(self) -> int:
        """Iterations of one slot."""

    @property
    def seed(self) -> int:
        """The seed of the run."""

    @property
    def bank(self) -> bool:
        """Whether the recipe turns the bank on: CD also against the finished images of the class."""

    @property
    def nonnegative(self) -> bool:
        """Whether embeddings can't be negative, as after ReLU and average pooling: the adapter says it."""

    @property
    def generator(self) -> Generator:
        """A CPU generator for plugins: drawing from it leaves upstream's random streams alone.

        It is seeded again every pass, and every batch where those are seeded by themselves.
        """

    @property
    def start_images(self) -> StartImages:
        """How the recipe starts each image."""

    def real(self, teacher: str) -> RealEmbeddings:
        """Return the real embeddings of one watched network, on the synthesis's device.

        The same object in every step, but where the loop's own network embeds (DM): there it is of this step alone.
        """

    def state(self, plugin: object) -> dict[str, Tensor]:
        """Return the tensors that this plugin keeps; they are saved with each finished pass and restored on resume."""

    def record(self, name: str, value: Tensor | float, *, component: bool = False) -> None:
        """Keep a scalar of this step, such as a weight, beside the losses in losses.json: as `<plugin>/<name>`.

        Call it in `loss_term` or `step_done`. Only some hundred steps of a slot are kept; a tensor stays on its device.

        Args:
            component: whether it is a component of the term that `loss_term` is about to return, and is multiplied as
                the term is: by its weight and the synthesis's other factors. So the record's components add up to it.
        """


@dataclass(frozen=True)
class StartImages:
    """The start of the images.

    Attributes:
        kind: `noise` (upstream's own, where sizes agree; else Gaussian noise of `shape`), `real`, or `own`: what the
            script starts from by itself, left alone.
        shape: (3, H, W) of one image, or None where upstream's own start is left alone.
        images: [C, ipc, 3, H, W], uint8, on the CPU, where kind is `real`.
        mean, std: the normalisation that the script expects of real images.
    """

    kind: str
    shape: tuple[int, ...] | None = None
    images: Tensor | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The normalisation that torchvision's networks want."""
TINY_IMAGENET_MEAN, TINY_IMAGENET_STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)
"""The normalisation of Tiny-ImageNet in SRe2L, CDA, DWA and DELT."""


IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
"""The suffixes of the formats in which images are saved and opened again."""

SlotKind = Literal["independent", "stateful", "none"]
"""What a script's slots need of those before them: `independent`: the random state alone, so that finished ones can be
left out; `stateful`: more, such as a network that changed; `none`: a pass is one slot."""


@dataclass(frozen=True)
class Upstream:
    """A published repository at one commit, what of it is needed, and the packages that it imports beside torch.

    Attributes:
        paths: files and folders below the root of the repository.
        pins: path → git's hash of that blob or tree (`git rev-parse COMMIT:PATH`); the vendored tree is compared with
            them at each use. Without pins it is compared with its own record only, which lies beside it.
    """

    repository: str
    commit: str
    paths: tuple[str, ...]
    licence: str
    packages: tuple[str, ...] = ()
    # a dict has no hash, and the commit decides the pins anyway
    pins: Mapping[str, str] = field(default_factory=dict, hash=False)


CheckpointLayout = Literal["bare", "model", "state_dict", "state_dict.module"]
"""The layouts of a checkpoint that a script may read: `models.checkpoint.write_for_upstream`."""
TORCHVISION_NAMES = {
    "resnet-18": "resnet18",
    "resnet-50": "resnet50",
    "resnet-101": "resnet101",
    "mobilenet-v2": "mobilenet_v2",
    "efficientnet-b0": "efficientnet_b0",
    "shufflenet-v2-x0.5": "shufflenet_v2_x0_5",
    "shufflenet-v2-x1.0": "shufflenet_v2_x1_0",
    "vgg-16": "vgg16",
    "densenet-121": "densenet121",
}
"""Architecture → torchvision's name of it, with the imagenet stem."""


@dataclass(frozen=True)
class Script:
    """One synthesis script of a method.

    Attributes:
        path: below the root of the repository.
        classes: the number of classes that the script hard-codes.
        size: the height and width of the images that the script draws.
        fewer: whether the dataset may have fewer classes, since the label hook answers.
        any_size: whether its images may have another size.
        mean, std: the normalisation that the script hard-codes.
        stem: the stem that the script gives its network (`small`: 3×3, no pooling; `imagenet`).
        checkpoint: the layout in which the script reads its teacher.
        suffix: of the saved images, where it isn't that of the adapter's `image_path`.
        several_gpus: whether the script itself spreads a step over all GPUs that it sees.
        autocast: whether its networks' forward pass runs under autocast, so that a GPU keeps activations of two bytes.
        slots: what a slot needs of those before it; `verify` cuts a run of independent ones. A patch of such a script
            calls `bridge.steps`.
        carried: where they are stateful, what goes from slot to slot.
        optimized: the variables, or attributes of variables, that hold what the script updates by its own rule, without
            an optimiser of torch's: `images`, `self.images`. `verify` takes for its step each `backward` and each
            `torch.autograd.grad` that reaches them.
        accelerates: the components of `--accelerate fast` that act in the script, by their names in
            `acceleration.COMPONENTS`; for our own methods the table there counts.
    """

    path: str
    classes: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stem: str
    checkpoint: str
    suffix: str | None = None
    several_gpus: bool = False
    autocast: bool = False
    slots: SlotKind = "stateful"
    carried: str = ""
    optimized: tuple[str, ...] = ()
    accelerates: tuple[str, ...] = ()
    fewer: bool = True
    any_size: bool = True

    def takes(self, classes: int, size: int | None = None) -> bool:
        """Return whether upstream's script can run on a dataset of so many classes, at a size where it is known."""
        fits = classes == self.classes or (self.fewer and classes < self.classes)
        return fits and (size is None or self.any_size or size == self.size)


@dataclass(frozen=True)
class LoopInputs:
    """One run, as known before its script is called.

    Attributes:
        recipe: a `recipe.model.Recipe`, resolved.
        classes, size: of the dataset; size is the height and width.
        seed: of the run.
        folder: the adapter's own, absolute: `write_inputs` writes there what the script reads.
        images: the folder, absolute, that receives what the script saves.
        prepared: name of a preparation → its folder.
        training_images: of the dataset; 0 where it isn't known.
    """

    recipe: Any  # a recipe's model, which can't be named: `recipe` imports this module
    classes: int
    size: int
    seed: int
    folder: Path
    images: Path
    prepared: Mapping[str, Path] = field(default_factory=dict)
    training_images: int = 0


@dataclass(frozen=True)
class ScriptInputs:
    """Networks, data and start images that an adapter writes for its script.

    Attributes:
        teachers: key → `models.checkpoint.Network` on the CPU, in the recipe's order; `teacher` is the first.
        dataset: a `data.Dataset`.
        start: [C, n, 3, H, W], uint8: real images to start from, where the recipe's start is `real`.
    """

    # Any in both: `models` and `data` stand above this module
    teachers: Mapping[str, Any]
    dataset: Any
    start: Tensor | None = None


@dataclass(frozen=True)
class Invocation:
    """The child's call of a script: arguments, without those of a pass, and the settings of shims."""

    script: str
    arguments: tuple[str, ...]
    shims: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparation:
    """A step of upstream's own code, unpatched, before the loop; its result is cached.

    Attributes:
        name: under which the loop finds the folder in `LoopInputs.prepared`.
        invocation: the call; the script writes into `LoopInputs.images`.
        key: what determines the result besides dataset, teachers, commit and the invocation's script.
        stop_after_steps: ends the script after so many optimiser steps; None lets it end.
        estimate: what is said before it starts: time and disk.
        asks_teachers: whether the result depends on the recipe's teachers.
    """

    name: str
    invocation: Invocation
    key: Mapping[str, Any]
    stop_after_steps: int | None = None
    estimate: str = ""
    asks_teachers: bool = True


@dataclass(frozen=True)
class LoopWork:
    """What a loop computes that inverts no trained network, for estimates of time and GPU memory.

    Attributes:
        network: our name of the network that the loop makes itself.
        unrolled: training steps of that network whose graph one iteration keeps; 0 where it isn't trained.
        batch: synthetic images in each of them; None: all.
        real: real images of a class that pass through the network in an iteration, without a graph.
        prepared_epochs: epochs of the same network on the real images that a preparation trains, in all.
    """

    network: str
    unrolled: int = 0
    batch: int | None = None
    real: int = 0
    prepared_epochs: int = 0


@dataclass(frozen=True)
class VerifyCase:
    """One script at reduced size, for `dire-plug verify`.

    Attributes:
        recover: the recipe's section of that name.
        teachers: key → architecture, in the loop's order; seeded and untrained.
        prepare: the recipe's section of that name.
        ipc: images per class.
        classes: of the generated images; None: as many as the script knows.
        real_per_class: generated images of each class.
        steps: optimiser steps after which each run is stopped; None lets it end.
        answered: what changes in the recipe's section `recover` for the run in which hooks are answered; flags are
            merged. A start or a plan that the adapter's `problems` refuse is left out.
        answered_ipc, answered_classes, answered_steps: likewise; None takes those of the other runs.
        comparable_steps: how many steps of a run with the term, from the first, have upstream's own networks and images
            while the learning rate is 0; None: all.
        images_are_leaf: whether the images handed to bridge are what the optimiser holds; INFER's are made of it.
    """

    recover: Mapping[str, Any]
    teachers: Mapping[str, str]
    prepare: Mapping[str, Any] = field(default_factory=dict)
    ipc: int = 1
    classes: int | None = None
    real_per_class: int = 1
    steps: int | None = 3
    # other start images, and batches that the script wouldn't make: an answer that gets lost shows
    answered: Mapping[str, Any] = field(default_factory=lambda: {"start": "real", "plan": {"per_class": 2}})
    answered_ipc: int = 2
    answered_classes: int | None = None
    answered_steps: int | None = None
    # DWA's teacher moves along gradients that the step before left, the term's among them
    comparable_steps: int | None = None
    images_are_leaf: bool = True


class Adapter(Protocol):
    """The protocol of a method's adapter, which is also a plugin: it answers the plan and start hooks."""

    name: str
    title: str
    upstream: Upstream
    scripts: Mapping[str, Script]
    """By the name that a recipe gives; two names may stand for one file, with another dataset."""
    reserved_flags: Mapping[str, str]
    embeddings_are_nonnegative: bool
    """Whether no network in the loop has negative embeddings, as after ReLU and average pooling."""
    freezes_after_first_step: bool
    """Whether the script computes gradients of its networks' weights that it never uses after the first step of a slot:
    `--accelerate exact` then freezes them in a pass's last batch, which leaves the images' bits as they are."""
    grows: bool
    """Whether a pass is the same whatever the number of images per class, so that IPC 50 goes on from IPC 10."""
    learns_rate: bool
    """Whether the patch keeps a learning rate for students as `learned_lr`: `evaluate.lr` may be `learned`."""
    saves_images: bool
    """Whether the script saves each image as a file; else the tool does, from the tensors."""
    network_names: Mapping[str, str]
    """What the script calls a network → its key in the recipe, where the patch hands names to `bridge.watch`."""

    def patches(self) -> Path:
        """Return the folder of this method's patches."""

    def recipes(self) -> Path:
        """Return the folder of this method's recipes."""

    def flags_model(self, script: str) -> type[BaseModel]:
        """Return the typed model of one script's flags, by upstream's spelling."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> Sequence[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""

    def check_dataset(self, recipe: Any, dataset: Any) -> None:
        """Raise where the images that are here are too few, or other ones, for what the script will do."""

    def steps(self, recover: Any) -> int:
        """Return the number of iterations of one slot."""

    def networks_in_step(self, recover: Any) -> int:
        """Return how many of the recipe's networks an iteration inverts together."""

    def work(self, recipe: Any) -> LoopWork | None:
        """Return what an iteration computes; None: its batch passes through a trained network and back."""

    def has_native(self, script: str) -> bool:
        """Return whether the native engine knows this script."""

    def plan(self, recover: Any, *, classes: int, ipc: int) -> Plan:
        """Return the plan that the recipe's `recover` section asks for."""

    def whitens(self, recover: Any) -> bool:
        """Return whether the loop's images live in ZCA space."""

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return what upstream's own code makes before the loop, in order."""

    def prepare_key(self, recipe: Any) -> Mapping[str, Any]:
        """Return what the recipe's section `prepare` decides, JSON-like: files that it names by their content."""

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write what the script reads into `inputs.folder`: teachers in upstream's layout, start images, data."""

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, and the shims that it needs; writes nothing."""

    def pass_arguments(self, pass_index: int, script: str) -> Sequence[str]:
        """Return the arguments that make the script run one pass alone."""

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, one image lies; its suffix, one of `IMAGE_SUFFIXES`, is its format."""

    def expert(self, inputs: LoopInputs) -> tuple[str, Sequence[Tensor]]:
        """Return the architecture and the parameters, in its order, of a network that a preparation trained.

        Raises:
            DirePlugError: the method trains none, or of an architecture that isn't ours.
        """

    def verify_case(self, script: str) -> VerifyCase:
        """Return the script at reduced size."""
