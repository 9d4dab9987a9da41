"""What hooks receive and what adapters and plans must offer. Imports torch for type checkers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Slot:
    """Where in upstream's loop we are: the pass (an image per class, or several) and the batch in it."""

    pass_index: int
    batch_index: int


@dataclass(frozen=True)
class Batch:
    """One step of the synthesis loop.

    Attributes:
        images: the optimised leaf, [N, 3, H, W], in the space that the network sees (normalised).
        loss: upstream's scalar, with its graph.
        labels: [N], int64; those in use in this step.
        embeddings: [N, D], the input of the watched network's last linear layer in upstream's own forward pass.
        teacher: the key under which that network is watched.
        step: iteration within the slot, from 0.
        slot: the slot.
    """

    images: Tensor
    loss: Tensor
    labels: Tensor
    embeddings: Tensor
    teacher: str
    step: int
    slot: Slot


@dataclass(frozen=True)
class RealEmbeddings:
    """Embeddings of real images in one teacher, sorted by class.

    Attributes:
        values: [M, D], float32.
        labels: [M], int64, ascending.
    """

    values: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SlotPlan:
    """What one slot holds: for each position its class, and which image of that class it is."""

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
        """A CPU generator for plugins: drawing from it leaves upstream's random streams alone. Re-seeded every pass."""

    @property
    def start_images(self) -> StartImages:
        """How the recipe starts each image."""

    def real(self, teacher: str) -> RealEmbeddings:
        """Return the real embeddings of one watched network, on the synthesis's device."""

    def state(self, plugin: object) -> dict[str, Tensor]:
        """Return the tensors that this plugin keeps; they are saved with each finished pass and restored on resume."""


@dataclass(frozen=True)
class StartImages:
    """How images start.

    Attributes:
        kind: `noise` (upstream's own, where sizes agree; else Gaussian noise of `shape`) or `real`.
        shape: (3, H, W) of one image, or None where upstream's own start is left alone.
        images: [C, ipc, 3, H, W], uint8, on the CPU, where kind is `real`.
        mean, std: the normalisation that the script expects of real images.
    """

    kind: str
    shape: tuple[int, ...] | None = None
    images: Tensor | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Upstream:
    """A published repository at one commit, and what of it is needed."""

    repository: str
    commit: str
    paths: tuple[str, ...]
    licence: str


@dataclass(frozen=True)
class Script:
    """One synthesis script of a method.

    Attributes:
        path: below the root of the repository.
        classes: the number of classes that the script hard-codes.
        size: the height and width of the images that the script draws.
        mean, std: the normalisation that the script hard-codes.
        stem: the stem that the script gives its network (`small`: 3×3, no pooling; `imagenet`).
        checkpoint: the layout in which the script reads its teacher.
    """

    path: str
    classes: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stem: str
    checkpoint: str


@dataclass(frozen=True)
class Invocation:
    """How the child calls a script: arguments (without those of a pass), and what the shims need to know."""

    script: str
    arguments: tuple[str, ...]
    shims: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Adapter(Protocol):
    """What one method needs. An adapter is also a plugin: it answers the plan and start hooks."""

    name: str
    title: str
    upstream: Upstream
    scripts: Mapping[str, Script]
    owned_flags: Mapping[str, str]
    embeddings_are_nonnegative: bool

    def patches(self) -> Path:
        """Return the folder of this method's patches."""

    def recipes(self) -> Path:
        """Return the folder of this method's recipes."""

    def flags_model(self, script: str) -> type[BaseModel]:
        """Return the typed model of one script's flags, by upstream's spelling."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> Sequence[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""

    def steps(self, recover: Any) -> int:
        """Return the number of iterations of one slot."""

    def has_native(self, script: str) -> bool:
        """Tell whether the native engine knows this script."""

    def plan(self, recover: Any, *, classes: int, ipc: int) -> Plan:
        """Return the plan that the recipe's `recover` section asks for."""

    def invocation(self, recover: Any, *, teacher: Path, images: Path, architecture: str) -> Invocation:
        """Turn a recipe's `recover` section into the command line of upstream's script, and the shims that it needs."""

    def pass_arguments(self, pass_index: int) -> Sequence[str]:
        """Return the arguments that make the script run one pass alone."""

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, the script saves one image."""
