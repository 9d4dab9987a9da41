"""Write a method's adapter: a base with the answers that all have in common, plans, flags and scripts.

Importing it imports no torch: an adapter is made wherever a recipe is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from dire_plug.api.checklist import FILL_IN, require_complete
from dire_plug.api.data_file import data
from dire_plug.api.patch_file import make_patch, read_patch
from dire_plug.api.plans import (
    ChunkedPlan,
    ListedPlan,
    build_plan,
    check_in_passes,
    class_by_class,
    cut_plan,
    group_by_group,
)
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.home import resource
from dire_plug.hookspecs import hookimpl
from dire_plug.recipe import check_recipe, read_yaml
from dire_plug.seeding import derive
from dire_plug.types import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TINY_IMAGENET_MEAN,
    TINY_IMAGENET_STD,
    Adapter,
    Invocation,
    LoopInputs,
    LoopWork,
    Plan,
    Preparation,
    Script,
    ScriptInputs,
    Slot,
    SlotKind,
    SlotPlan,
    StartImages,
    Synthesis,
    Upstream,
    VerifyCase,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.models.checkpoint import Network

__all__ = [
    "CIFAR_10",
    "CIFAR_100",
    "FILL_IN",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RESERVED_DATASET",
    "RESERVED_DEVICE",
    "RESERVED_IMAGES",
    "RESERVED_IPC",
    "RESERVED_PASSES",
    "RESERVED_PATHS",
    "RESERVED_START",
    "RESERVED_TEACHER",
    "RESERVED_UNREAD",
    "RESERVED_VERIFIER",
    "Adapter",
    "ChunkedPlan",
    "DirePlugError",
    "Flags",
    "Invocation",
    "ListedPlan",
    "LoopInputs",
    "LoopWork",
    "Plan",
    "PlannedAdapter",
    "Preparation",
    "Script",
    "ScriptInputs",
    "Slot",
    "SlotKind",
    "SlotPlan",
    "StartImages",
    "Synthesis",
    "Upstream",
    "VerifyCase",
    "build_plan",
    "check_in_passes",
    "check_recipe",
    "cifar_script",
    "cifar_scripts",
    "class_by_class",
    "cut_plan",
    "data",
    "group_by_group",
    "hookimpl",
    "image_path",
    "imagenet_script",
    "make_patch",
    "read_patch",
    "read_yaml",
    "require_complete",
    "teacher_problems",
    "tiny_imagenet_script",
    "to_arguments",
    "with_own_dataset",
    "with_slots",
    "write_network",
]

CIFAR_10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR_100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
"""Mean and standard deviation, as most scripts round them."""
RESERVED_PATHS = "the tool chooses where files lie"
RESERVED_IMAGES = "images are always stored"
RESERVED_IPC = "set `ipc`"
RESERVED_PASSES = f"the tool runs the passes one by one; {RESERVED_IPC}"
RESERVED_TEACHER = "the teacher is set in `squeeze.teacher`"
RESERVED_DATASET = "it goes with `recover.script`"
RESERVED_START = "set `recover.start` to real or noise"
RESERVED_DEVICE = "the run's --device chooses the device"
RESERVED_VERIFIER = "the verifier only prints; `measure` judges the images in an independent network"
RESERVED_UNREAD = "the script never reads it"
"""Reasons why a recipe can't set a flag, for `reserved_flags`."""


class Flags(BaseModel):
    """The base of a script's flags: a recipe may set these, of just these types, and no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PlannedAdapter:
    """Answers the plan and start hooks from the synthesis's plan and start images."""

    name: str
    flags: ClassVar[Mapping[str, type[BaseModel]]]
    """Script → the model of its flags."""
    saves_images = True
    learns_rate = False
    freezes_after_first_step = False
    grows = False
    network_names: Mapping[str, str] = MappingProxyType({})

    def patches(self) -> Path:
        """Return the folder of this method's patches."""
        return resource("patches") / self.name

    def recipes(self) -> Path:
        """Return the folder of this method's recipes."""
        return resource("recipes") / self.name

    def flags_model(self, script: str) -> type[BaseModel]:
        """Return the model of the flags that a recipe may set for a script."""
        return self.flags[script]

    def read_flags(self, recover: Any) -> Any:
        """Return a recipe's flags as the script's model."""
        return self.flags[recover.script].model_validate(recover.flags)

    def steps(self, recover: Any) -> int:
        """Return the number of iterations of one slot: upstream's flag `iteration`."""
        iterations: int = self.read_flags(recover).iteration
        return iterations

    def networks_in_step(self, recover: Any) -> int:
        """Return 1: of several networks one makes a step."""
        return 1

    def work(self, recipe: Any) -> LoopWork | None:
        """Return None: the loop inverts trained networks."""
        return None

    def pass_arguments(self, pass_index: int, script: str) -> tuple[str, ...]:
        """Return nothing: the script makes all of its images in one pass."""
        return ()

    def check_dataset(self, recipe: Any, dataset: Any) -> None:
        """Accept every dataset: the script takes any number of images."""

    def has_native(self, script: str) -> bool:
        """Return False: the native engine has no loop of this method."""
        return False

    def whitens(self, recover: Any) -> bool:
        """Return False: images are normalised, not whitened."""
        return False

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return nothing: upstream's own code makes nothing before the loop."""
        return ()

    def prepare_key(self, recipe: Any) -> Mapping[str, Any]:
        """Return the section `prepare` as it is: it names no files."""
        section: Mapping[str, Any] = recipe.prepare
        return section

    def expert(self, inputs: LoopInputs) -> tuple[str, Sequence[Tensor]]:
        """Raise: upstream's own code trains no network that could embed.

        Raises:
            DirePlugError: always.
        """
        raise DirePlugError(f"recover.embedder.network: {self.name} trains no experts; take teacher")

    @hookimpl
    def plan_labels(self, synthesis: Synthesis, slot: Slot, labels: Tensor) -> Tensor | None:
        """Return the plan's labels, [N]; None where they are upstream's own."""
        # upstream's own tensor is left alone where it agrees, so that a kept plan changes no bit
        planned = list(synthesis.plan.slot(slot).labels)
        return None if labels.tolist() == planned else labels.new_tensor(planned)

    @hookimpl
    def image_index(self, synthesis: Synthesis, slot: Slot, position: int) -> int:
        """Return which image of its class a position holds."""
        return synthesis.plan.slot(slot).images[position]

    @hookimpl
    def initial_images(self, synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return the start images, [N, 3, H, W]; None where upstream's own noise has the right size.

        Noise of another size is a function of (seed, class, image), whatever the plan, so that arms start alike.
        """
        # adapters are made wherever a recipe is read, so torch is imported in the loop only
        import torch

        from dire_plug.data.augmentation.batch import normalise

        start, planned = synthesis.start_images, synthesis.plan.slot(slot)
        rows = torch.tensor(planned.labels), torch.tensor(planned.images)
        if start.kind == "real":
            if start.images is None:
                raise DirePlugError("the start is 'real', but the synthesis was given no images to start from")
            return normalise(start.images[rows].to(images.device), start.mean, start.std).to(images.dtype)
        if start.shape is None or start.shape == tuple(images.shape[1:]):
            return None
        pairs = zip(planned.labels, planned.images, strict=True)
        # drawn image by image on the CPU: the same noise whatever the batch, the device and the IPC
        noise = [_noise(synthesis.seed, label, image, start.shape) for label, image in pairs]
        return torch.stack(noise).to(images.device, images.dtype)


def cifar_script(
    path: str,
    classes: int,
    *,
    checkpoint: str = "state_dict.module",
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None,
) -> Script:
    """Return a script of CIFAR at 32 pixels, for 10 or 100 classes.

    Args:
        statistics: mean and standard deviation; None takes those of its own dataset.
    """
    mean, std = statistics or (CIFAR_10 if classes == 10 else CIFAR_100)
    return Script(path, classes, 32, mean, std, stem="small", checkpoint=checkpoint)


def cifar_scripts(path: str) -> dict[str, Script]:
    """Return the two scripts of a file that serves CIFAR-10 and CIFAR-100, as DWA's and INFER's do."""
    return {"cifar-10": cifar_script(path, 10), "cifar-100": cifar_script(path, 100)}


def tiny_imagenet_script(path: str, *, checkpoint: str = "model") -> Script:
    """Return a script of Tiny-ImageNet: 200 classes at 64 pixels, as SRe2L, CDA, DWA and DELT normalise them."""
    return Script(path, 200, 64, TINY_IMAGENET_MEAN, TINY_IMAGENET_STD, stem="small", checkpoint=checkpoint)


def imagenet_script(path: str, *, checkpoint: str = "bare", suffix: str | None = None) -> Script:
    """Return a script of ImageNet-1K: 1000 classes at 224 pixels, normalised as torchvision's networks want them."""
    return Script(path, 1000, 224, IMAGENET_MEAN, IMAGENET_STD, stem="imagenet", checkpoint=checkpoint, suffix=suffix)


def with_slots(scripts: Mapping[str, Script], slots: SlotKind, carried: str = "") -> Mapping[str, Script]:
    """Return scripts with what their slots need of those before them; where they are stateful, `carried` says it."""
    return MappingProxyType({name: replace(one, slots=slots, carried=carried) for name, one in scripts.items()})


def with_own_dataset(scripts: Mapping[str, Script]) -> dict[str, Script]:
    """Return scripts that take just the number of classes and the image size that they hard-code."""
    return {name: replace(one, fewer=False, any_size=False) for name, one in scripts.items()}


def image_path(label: int, image: int, suffix: str = ".jpg") -> str:
    """Return the file of an image, below the image folder, as every method that saves files names it."""
    return f"new{label:03d}/class{label:03d}_id{image:03d}{suffix}"


def to_arguments(flags: BaseModel) -> list[str]:
    """Return a command line in upstream's spelling: `--name value`; a switch stands alone; None is left out.

    A list is followed by its values, `--name 1 2`, as `nargs="+"` reads them.
    """
    arguments: list[str] = []
    for name, value in flags.model_dump(by_alias=True, exclude_none=True).items():
        # store_true flags: False can only be said by leaving the flag out
        if isinstance(value, bool):
            arguments += [f"--{name}"] if value else []
        else:
            values = value if isinstance(value, list) else [value]
            arguments += [f"--{name}", *map(str, values)]
    return arguments


def teacher_problems(recipe: Any, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is wrong with the one teacher of a loop: another architecture than the script builds, or others."""
    found = []
    squeeze, script = recipe.squeeze, recipe.recover.script
    if squeeze.teacher.architecture not in known:
        message = f"the script '{script}' takes {' or '.join(known)} (is '{squeeze.teacher.architecture}')"
        found.append(("squeeze.teacher.architecture", message))
    if squeeze.others:
        found.append(("squeeze.others", f"the script has one teacher; remove {', '.join(squeeze.others)}"))
    return found


def write_network(network: Network, path: Path, layout: str, *, keys: Callable[[str], str] | None = None) -> None:
    """Write the weights of one of `ScriptInputs.teachers` as upstream's script reads them; makes the folder.

    Args:
        layout: `state_dict`: {"state_dict": …}; `state_dict.module`: likewise, with the prefix "module."; `model`:
            {"model": …}; `bare`: the state dict itself.
        keys: from our key of a weight to upstream's; None where they agree.

    Raises:
        DirePlugError: unknown layout.
    """
    from dire_plug.models.checkpoint import write_for_upstream

    make_folder(path.parent)
    write_for_upstream(network.model, path, layout, keys=keys)


def _noise(seed: int, label: int, image: int, shape: tuple[int, ...]) -> Tensor:
    """Return the Gaussian noise that one image starts from, [3, H, W]: the same at every IPC."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(derive(seed, "noise", label, image)))
