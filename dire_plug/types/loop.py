"""Define what a plugin sees in the loop: synthesis, plan and steps. Imports torch for type checkers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
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


CORESET = "coreset."
"""The prefix of a coreset's keys in a file of real embeddings."""
LOOP = "loop"
"""The loop's own: its networks in a recipe; in images.safetensors its tensors, in the space in which it works."""
EXTRAS = "extras.json"
"""The file, in a run and in the folder of its passes, of what a script learned beside the images."""
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
