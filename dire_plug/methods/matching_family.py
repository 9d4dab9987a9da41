"""The base of the adapters of MTT and DM: all images in one batch, real images read as CIFAR, no trained network.

Both take their start from real images that they draw themselves, in every arm the same ones for one seed, so no hook is
answered: the plan is theirs. The embedding is that of a frozen network, beside the loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dire_plug.api.method import (
    RESERVED_DATASET,
    RESERVED_IPC,
    RESERVED_PATHS,
    DirePlugError,
    ListedPlan,
    LoopInputs,
    PlannedAdapter,
    Script,
    ScriptInputs,
    Slot,
    Synthesis,
    class_by_class,
    cut_plan,
    hookimpl,
    image_path,
)
from dire_plug.files import make_folder, write_atomically

DATA = "data.safetensors"
"""The images of the dataset among the inputs, as the shim `cifar` reads them."""
OWN_FILES = "upstream"
"""The folder below the images that gets what a script saves itself: its start images, its overview, its tensors."""
SIZE = 32
EMBEDDERS = ("convnet-3", "resnet-18", "convnet-3-w32", "resnet-small")
"""Architectures whose embeddings aren't negative, at the size of CIFAR."""
DATASETS: Mapping[str, str] = MappingProxyType({"cifar-10": "CIFAR10", "cifar-100": "CIFAR100"})
"""Script → upstream's name of its dataset."""

RESERVED_EVALUATION = "upstream's evaluations in the loop are off; `evaluate` trains students on the last images"
DSA = "color_crop_cutout_flip_scale_rotate"
"""Upstream's default of `dsa_strategy`: all of its operations."""


class MatchingAdapter(PlannedAdapter):
    """The part of an adapter that MTT and DM share."""

    title: str
    scripts: Mapping[str, Script]
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            "dataset": RESERVED_DATASET,
            "ipc": RESERVED_IPC,
            "data_path": RESERVED_PATHS,
            "eval_mode": RESERVED_EVALUATION,
            "num_eval": RESERVED_EVALUATION,
            "epoch_eval_train": RESERVED_EVALUATION,
            "batch_train": RESERVED_EVALUATION,
        }
    )
    embedders: Sequence[str]
    """The values that a recipe's `recover.embedder.network` may have."""
    saves_images = False
    embeddings_are_nonnegative = True

    @hookimpl
    def initial_images(self, synthesis: Synthesis, slot: Slot, images: Any, labels: Any) -> None:
        """Answer nothing: the script draws real images, or noise, itself."""
        return None

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        recover, squeeze, found = recipe.recover, recipe.squeeze, []
        if squeeze.teacher.architecture not in EMBEDDERS:
            message = f"embeds the images; take {', '.join(EMBEDDERS)} (is '{squeeze.teacher.architecture}')"
            found.append(("squeeze.teacher.architecture", message))
        if squeeze.others:
            found.append(("squeeze.others", f"one network embeds the images; remove {', '.join(squeeze.others)}"))
        if recover.embedder is None:
            message = "is missing: the loop holds no trained network, so squeeze.teacher embeds; {} embeds all classes"
            found.append(("recover.embedder", message))
        elif recover.embedder.network not in self.embedders:
            message = f"{self.title} has no such network; take {' or '.join(self.embedders)}"
            found.append(("recover.embedder.network", f"{message} (is '{recover.embedder.network}')"))
        elif recover.embedder.network == "loop":
            found += _loop_problems(recipe)
        if recover.start not in ("noise", "real"):
            message = f"must be 'real' or 'noise': the script draws its own real images (is '{recover.start}')"
            found.append(("recover.start", message))
        if recover.plan != "keep":
            found.append(("recover.plan", "all images share one batch already; set it to keep"))
        if recover.bank:
            found.append(("recover.bank", "all images of a class are in the loop at once; set it to false"))
        if recipe.dataset.size not in (None, SIZE):
            found.append(("dataset.size", f"the script reads images of {SIZE}×{SIZE}; set it to {SIZE}"))
        try:
            self.plan(recover, classes=classes or self.scripts[recover.script].classes, ipc=recipe.ipc)
        except DirePlugError as error:
            found.append(("dataset.name", str(error).removeprefix("plan: ")))
        return found

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ListedPlan:
        """Return the plan: one batch of all images, class by class.

        Raises:
            DirePlugError: the dataset has another number of classes than the script.
        """
        known = self.scripts[recover.script].classes
        if classes != known:
            raise DirePlugError(f"plan: the script '{recover.script}' knows {known} classes, the dataset has {classes}")
        return cut_plan(class_by_class(classes, ipc), classes=classes, batch_size=classes * ipc)

    def steps(self, recover: Any) -> int:
        """Return the number of iterations: upstream counts from 0 to `Iteration`."""
        last: int = self.read_flags(recover).Iteration
        return last + 1

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, the tool saves one image."""
        return image_path(label, image, ".png")

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the dataset for the shim `cifar`, and the folder that gets upstream's own files.

        Raises:
            DirePlugError: the images aren't of the size that the script reads.
        """
        if script_inputs.dataset.size != SIZE:
            raise DirePlugError(
                f"dataset.size: the images of {script_inputs.dataset.name} are {script_inputs.dataset.size} pixels "
                f"wide, {self.title}'s script reads {SIZE}; set dataset.size={SIZE}"
            )
        make_folder(inputs.images / OWN_FILES)
        make_folder(inputs.folder)
        write_atomically(inputs.folder / DATA, _pack(script_inputs.dataset))


def _loop_problems(recipe: Any) -> list[tuple[str, str]]:
    """Return what a recipe says in vain where the loop's own network embeds."""
    found = []
    if recipe.recover.embedder.classes_per_step is not None:
        message = "the loop embeds all classes in every step anyway; remove it"
        found.append(("recover.embedder.classes_per_step", message))
    if recipe.real != type(recipe.real)():
        found.append(("real", "the term sees the real images that the loop itself draws and embeds; remove this"))
    return found


def common_arguments(recover: Any, ipc: int) -> list[str]:
    """Return the arguments that both scripts share and the tool sets."""
    return ["--dataset", DATASETS[recover.script], "--ipc", str(ipc), "--eval_mode", "S", "--num_eval", "0"]


def common_shims(inputs: LoopInputs, *, seed: int) -> dict[str, dict[str, Any]]:
    """Return the shims that upstream's code of both needs; `seed` is that of its clock."""
    return {
        "device": {},
        "torch_load": {},
        "network": {},
        "cifar": {"file": str(inputs.folder / DATA)},
        "clock": {"seed": seed},
        "loader": {},
    }


def _pack(dataset: Any) -> bytes:
    """Return a dataset as the shim `cifar` reads it."""
    from safetensors.torch import save

    splits = {"train": dataset.train, "test": dataset.test}
    tensors = {f"{name}.images": split.images().cpu().contiguous() for name, split in splits.items()}
    tensors |= {f"{name}.labels": split.labels.cpu().clone() for name, split in splits.items()}
    return save(tensors, metadata={"classes": json.dumps(list(dataset.classes))})
