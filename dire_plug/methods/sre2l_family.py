"""The base of the adapters of SRe2L, CDA and DWA: a pass for each image of a class, over the classes in batches.

The label hook is answered where the plan differs from that: where several images of a class share a batch, or the
dataset has fewer classes than the number that a script hard-codes. The scripts size their images by the labels, so a
batch may be longer than upstream's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dire_plug.api.method import (
    RESERVED_IMAGES,
    RESERVED_PASSES,
    RESERVED_PATHS,
    RESERVED_TEACHER,
    RESERVED_VERIFIER,
    ChunkedPlan,
    DirePlugError,
    Flags,
    LoopInputs,
    PlannedAdapter,
    Script,
    ScriptInputs,
    build_plan,
    image_path,
    teacher_problems,
    write_network,
)
from dire_plug.files import make_folder

if TYPE_CHECKING:
    from torch import Tensor

TEACHER = "teacher.pt"
"""The teacher's checkpoint among the inputs."""
RESNETS = ("resnet-18", "resnet-small", "resnet-small-grey")
"""Teachers with the `conv1` and the `maxpool` that a script for small images replaces."""


class FamilyFlags(Flags):
    """The flags of all scripts of the family; the defaults are upstream's."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Classes in a batch; with a regrouped plan each holds several images."""
    iteration: int = Field(default=1000, ge=1)
    lr: float = Field(default=0.1, gt=0)
    jitter: int = Field(default=4, ge=0)
    """The largest shift, in pixels."""
    r_bn: float = Field(default=0.05, alias="r-bn", ge=0)
    first_bn_multiplier: float = Field(default=10.0, alias="first-bn-multiplier", ge=0)


class ImageNetFlags(FamilyFlags):
    """The flags of all scripts for ImageNet-1K; INFER's has no others."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1, le=1000)
    jitter: int = Field(default=32, ge=0)


class FamilyAdapter(PlannedAdapter):
    """The part of an adapter that the family's methods share."""

    title: str
    scripts: Mapping[str, Script]
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            "exp-name": RESERVED_PATHS,
            "syn-data-path": RESERVED_PATHS,
            "arch-path": RESERVED_TEACHER,
            "arch-name": RESERVED_TEACHER,
            "ipc-start": RESERVED_PASSES,
            "ipc-end": RESERVED_PASSES,
            "store-best-images": RESERVED_IMAGES,
            "verifier": RESERVED_VERIFIER,
            "verifier-arch": RESERVED_VERIFIER,
        }
    )
    architectures: ClassVar[Mapping[str, Sequence[str]]]
    """Script → the teachers that it can be given."""
    embeddings_are_nonnegative = True
    grows = True
    plan_key: ClassVar[str] = "recover.flags.batch-size"
    """The key of a recipe that is to be changed where there is no plan."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        script = recipe.recover.script
        found = self.network_problems(recipe)
        if recipe.prepare:
            found.append(("prepare", f"{self.title} needs nothing prepared; remove {', '.join(recipe.prepare)}"))
        if recipe.recover.embedder is not None:
            found.append(("recover.embedder", "the teacher is in the loop already; remove this"))
        try:
            self.plan(recipe.recover, classes=classes or self.scripts[script].classes, ipc=recipe.ipc)
        except DirePlugError as error:
            found.append((self.plan_key, str(error).removeprefix("plan: ")))
        return found

    def start_problems(self, recipe: Any) -> list[tuple[str, str]]:
        """Return that the start isn't of real images, for scripts that have no other."""
        start = recipe.recover.start
        message = (
            f"must be 'real' or 'rded': {self.title}'s scripts have no other start than real images (is '{start}')"
        )
        return [] if recipe.recover.is_given_a_start else [("recover.start", message)]

    def network_problems(self, recipe: Any) -> list[tuple[str, str]]:
        """Return what is wrong with the teacher, and others beside it."""
        return teacher_problems(recipe, self.architectures[recipe.recover.script])

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ChunkedPlan:
        """Return the plan that the recipe's `recover` section asks for.

        Raises:
            DirePlugError: the dataset has more classes than the script, for which there is no native loop, or fewer
                than the script has batches.
        """
        script, batch_size = self.scripts[recover.script], self.read_flags(recover).batch_size
        if classes > script.classes and not self.has_native(recover.script):
            raise DirePlugError(f"plan: the script '{recover.script}' knows {script.classes} classes, not {classes}")
        length = self.loop_length(recover.script)
        # with fewer classes the script still counts its own batches, so the classes are spread evenly over them
        own = classes >= length
        return build_plan(
            classes=classes,
            ipc=ipc,
            slots_per_pass=-(-max(length, classes) // batch_size),
            per_class=1 if recover.plan == "keep" else recover.plan.per_class,
            chunk_size=batch_size if own else None,
        )

    def loop_length(self, script: str) -> int:
        """Return the number of classes to which the script counts its batches."""
        return self.scripts[script].classes

    def pass_arguments(self, pass_index: int, script: str) -> tuple[str, ...]:
        """Return the arguments that make the script run one pass alone."""
        return ("--ipc-start", str(pass_index), "--ipc-end", str(pass_index + 1))

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, the script saves one image."""
        return image_path(label, image)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the teacher in the script's own layout."""
        layout = self.scripts[inputs.recipe.recover.script].checkpoint
        write_network(script_inputs.teachers["teacher"], inputs.folder / TEACHER, layout)


def saving_arguments(images: Path, switch: str = "--store-best-images") -> list[str]:
    """Return the arguments that make a script save its images below the folder `images`."""
    return ["--syn-data-path", str(images.parent), "--exp-name", images.name, switch]


def write_images(folder: Path, images: Tensor, names: Iterable[str], **options: Any) -> None:
    """Write images, [n, 3, H, W], uint8, into a new folder, by the names of their files; `options` are Pillow's."""
    from PIL import Image

    make_folder(folder)
    for name, pixels in zip(names, images.permute(0, 2, 3, 1).numpy(), strict=True):
        Image.fromarray(pixels).save(folder / name, **options)


def network_shims(inputs: LoopInputs) -> dict[str, dict[str, Any]]:
    """Return the shims that every script needs, and that for another network than the script's own."""
    shims: dict[str, dict[str, Any]] = {"device": {}, "torch_load": {}, "network": {}}
    architecture = inputs.recipe.squeeze.teacher.architecture
    if architecture != "resnet-18":
        shims["get_model"] = {"replace": "resnet18", "architecture": architecture}
    return shims


def common_shims(inputs: LoopInputs, script: Script) -> dict[str, dict[str, Any]]:
    """Return the same, and the shim for another image size than the script's own."""
    shims = network_shims(inputs)
    if inputs.size != script.size:
        shims["crop_size"] = {"from": script.size, "to": inputs.size}
    return shims
