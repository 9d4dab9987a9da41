"""The base of the adapters of G-VBSM and EDC: several networks take turns, iteration by iteration.

The scripts go once through all images, in an order of their own; another plan is another order. The labels that they
hold are never changed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError

from dire_plug.api.method import (
    RESERVED_IMAGES,
    RESERVED_IPC,
    RESERVED_PATHS,
    RESERVED_UNREAD,
    RESERVED_VERIFIER,
    DirePlugError,
    Flags,
    Invocation,
    ListedPlan,
    LoopInputs,
    PlannedAdapter,
    Script,
    ScriptInputs,
    Slot,
    Synthesis,
    cut_plan,
    group_by_group,
    hookimpl,
    image_path,
    to_arguments,
)
from dire_plug.methods.gvbsm_inputs import STATISTICS, PrepareSection, teacher_problems, write_inputs
from dire_plug.recipe.messages import describe

if TYPE_CHECKING:
    from torch import Tensor

_RANKS = "the tool runs the script in one process, on the run's device"
_TEACHERS = "the teachers are set in `squeeze.teacher` and `squeeze.others`"


class TurnFlags(Flags):
    """The flags that all scripts for small images read."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Images in a batch."""
    iteration: int = Field(default=1000, ge=1)
    training_momentum: float = Field(default=0.8, alias="training-momentum", ge=0, le=1)
    """The momentum of the moving averages of the batches' statistics, α in the paper."""
    drop_rate: float = Field(default=0.4, alias="drop-rate", ge=0, le=1)
    """The share of convolutions that a step leaves out of the matching."""
    lr: float = Field(default=0.1, gt=0)
    r_loss: float = Field(default=0.05, alias="r-loss", ge=0)
    """The weight of the matched statistics."""
    first_multiplier: float = Field(default=10.0, alias="first-multiplier", ge=0)


class TurnsAdapter(PlannedAdapter):
    """The part of an adapter that both methods share, with the plugin that answers the order and start hooks."""

    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            "exp-name": RESERVED_PATHS,
            "syn-data-path": RESERVED_PATHS,
            "train-data-path": RESERVED_PATHS,
            "statistic-path": RESERVED_PATHS,
            "pre-train-path": _TEACHERS,
            "arch-name": _TEACHERS,
            "ipc-number": RESERVED_IPC,
            "store-best-images": RESERVED_IMAGES,
            "verifier": RESERVED_UNREAD,
            "verifier-arch": RESERVED_VERIFIER,
            "gpu-id": _RANKS,
            "world-size": _RANKS,
            "rank": _RANKS,
            "dist-backend": _RANKS,
        }
    )
    scripts: Mapping[str, Script]
    networks: ClassVar[Mapping[str, Sequence[str]]]
    """Script → the architectures that it builds, in its order."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        name = recipe.recover.script
        script, found = self.scripts[name], teacher_problems(recipe, self.networks[name])
        try:
            PrepareSection.model_validate(recipe.prepare)
        except ValidationError as error:
            found += [(one.location, one.message) for one in describe(error, PrepareSection, prefix="prepare")]
        if recipe.recover.embedder is not None:
            found.append(("recover.embedder", "the teachers are in the loop already; remove this"))
        if recipe.dataset.size not in (None, script.size):
            message = f"the script '{name}' hard-codes {script.size} pixels (is {recipe.dataset.size})"
            found.append(("dataset.size", message))
        try:
            self.plan(recipe.recover, classes=classes or script.classes, ipc=recipe.ipc)
        except DirePlugError as error:
            where, _, message = str(error).partition(": ")
            found.append((where, message))
        return found

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ListedPlan:
        """Return upstream's own order, or one in which `per_class` images of each class follow each other.

        Raises:
            DirePlugError: the script has another number of classes.
        """
        script = self.scripts[recover.script]
        if classes != script.classes:
            raise DirePlugError(
                f"recover.script: '{recover.script}' makes images of {script.classes} classes, not of {classes}"
            )
        per_class = None if recover.plan == "keep" else recover.plan.per_class
        batch_size = self.read_flags(recover).batch_size
        return self.build_order(recover.script, ipc=ipc, per_class=per_class, batch_size=batch_size)

    def build_order(self, name: str, *, ipc: int, per_class: int | None, batch_size: int) -> ListedPlan:
        """Return the plan of one script.

        Args:
            name: of the script.
            ipc: images of a class.
            per_class: images of a class that follow each other; None is upstream's own order: all of them.
            batch_size: images in a batch.

        Raises:
            DirePlugError: there are none.
        """
        if ipc < 1:
            raise DirePlugError(f"ipc: must be at least 1 (is {ipc})")
        classes = self.scripts[name].classes
        return cut_plan(group_by_group(classes, ipc, per_class or ipc), classes=classes, batch_size=batch_size)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the teachers in the script's layout, and the statistics, or the images to take them from.

        Raises:
            DirePlugError: the images haven't the size that the script hard-codes.
        """
        name = inputs.recipe.recover.script
        if inputs.size != (size := self.scripts[name].size):
            raise DirePlugError(
                f"dataset.size: the script '{name}' hard-codes {size} pixels, but the images have {inputs.size}; "
                f"set dataset.size={size}"
            )
        write_inputs(inputs, script_inputs, self.networks[name])

    @abstractmethod
    def shims(self, inputs: LoopInputs, *, seed: int) -> dict[str, dict[str, Any]]:
        """Return the shims that a script needs; `seed` is the loop's."""

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.png`, some with a suffix of their own.
        """
        recipe = inputs.recipe
        arguments = to_arguments(self.read_flags(recipe.recover)) + call_arguments(inputs, ipc=recipe.ipc)
        arguments += ["--statistic-path", str(inputs.folder / STATISTICS), "--store-best-images"]
        script = self.scripts[recipe.recover.script].path
        return Invocation(script, tuple(arguments), self.shims(inputs, seed=inputs.seed))

    def teachers_to_verify(self, script: str) -> dict[str, str]:
        """Return key → architecture of a script's networks, as a recipe names them."""
        return {name if number else "teacher": name for number, name in enumerate(self.networks[script])}

    def image_path(self, label: int, image: int) -> str:
        """Return where the scripts save one image; some have a suffix of their own."""
        return image_path(label, image, ".png")

    @hookimpl
    def plan_order(self, synthesis: Synthesis, slot: Slot, order: Tensor) -> Tensor | None:
        """Return the plan's order, [N]; None where it is upstream's own.

        An image's place in upstream's list is the number of its class plus its own number times the classes.
        """
        plan = synthesis.plan
        slots = [plan.slot(Slot(0, batch)) for batch in range(plan.slots_per_pass)]
        pairs = [pair for one in slots for pair in zip(one.labels, one.images, strict=True)]
        planned = [image * synthesis.classes + label for label, image in pairs]
        return None if order.tolist() == planned else order.new_tensor(planned)

    @hookimpl
    def plan_labels(self, synthesis: Synthesis, slot: Slot, labels: Tensor) -> None:
        """Answer nothing: labels follow from the order.

        Raises:
            DirePlugError: they aren't the plan's.
        """
        if labels.tolist() != list(synthesis.plan.slot(slot).labels):
            raise DirePlugError(f"{slot}: the script's labels aren't the plan's; does it cut its order otherwise?")


def call_arguments(inputs: LoopInputs, *, ipc: int) -> list[str]:
    """Return the arguments that the tool reserves, but for the statistics' folder and the switch that saves images."""
    arguments = ["--ipc-number", str(ipc), "--gpu-id", "0"]
    arguments += ["--syn-data-path", str(inputs.images.parent), "--exp-name", inputs.images.name]
    # on ImageNet-1K torchvision gives the networks
    by_path = inputs.recipe.recover.script != "imagenet"
    return [*arguments, "--pre-train-path", str(inputs.folder)] if by_path else arguments


def small_script(path: str, *, classes: int, statistics: tuple[Any, Any], size: int = 32, **facts: Any) -> Script:
    """Return a script of small images, normalised by these `statistics`."""
    return Script(path, classes, size, *statistics, stem="small", checkpoint="bare", **facts)


def common_shims() -> dict[str, dict[str, Any]]:
    """Return the shims that every script needs."""
    return {"device": {}, "torch_load": {}, "network": {}, "one_process": {}, "loader": {}}
