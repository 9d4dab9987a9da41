"""FADRM: the networks take turns, and after each stage of a batch's iterations its real images are mixed in again.

A stage may have images of a size of its own, so the script makes another leaf and another optimizer for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import Field

from dire_plug.api.method import (
    RESERVED_TEACHER,
    RESERVED_UNREAD,
    Invocation,
    LoopInputs,
    Script,
    Upstream,
    VerifyCase,
    image_path,
    with_slots,
)
from dire_plug.methods.cvdd_family import LARGE, NAMES, SMALL, CommitteeAdapter, StepFlags
from dire_plug.methods.fadrm_inputs import KIND, REAL, RealImagesAdapter

_PINS = {
    "recover/recover.py": "63862b6647b46c7c6ae17911c99fb165b7c6e59a",
    "recover/utils_recover.py": "dd73033ed617f6d5b1a5014cfa3b75beed78a894",
    "models": "3e394d32c92bb8942ca136926b714a6a12f10e0c",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class StageFlags(StepFlags):
    """`recover/recover.py`; upstream has no defaults of these three: a recipe gives the last two."""

    alpha: float = Field(default=0.5, ge=0, le=1)
    """The part of the images in each mixture; the rest is real."""
    input_size_lis: list[int] | None = Field(default=None, alias="input-size-lis")
    """Height and width of the images in each stage; none: in turn 200/224 of the size, as for ImageNet, and all."""
    optimization_budgets: list[int] = Field(default=[], alias="optimization-budgets")
    """Iterations of each stage."""


def alternating_sizes(stages: int, size: int) -> list[int]:
    """Return height and width of the images in each stage where a recipe names none; the last has the whole size."""
    return [size if later % 2 == 0 else size * 200 // 224 for later in reversed(range(stages))]


class FADRM(RealImagesAdapter):
    """The adapter of FADRM, and the plugin that answers its plan hooks."""

    name = "fadrm"
    title = "FADRM"
    upstream = Upstream(
        repository="https://github.com/Jiacheng8/FADRM",
        commit="f445e38d43e35e54f9459823adf9ec45c0fcdb54",
        paths=tuple(_PINS),
        licence="MIT",
        packages=("cv2",),
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        {name: replace(one, autocast=True) for name, one in CommitteeAdapter.scripts.items() if name != "cifar-10"},
        "stateful",
        carried="the scale of the loss",
    )
    flags = MappingProxyType(dict.fromkeys(scripts, StageFlags))
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **{flag: why for flag, why in CommitteeAdapter.reserved_flags.items() if flag != "sre2l-model"},
            **dict.fromkeys(("initialisation-method", "patch-dir", "patch-diff"), "set `recover.start` to real, rded"),
            **dict.fromkeys(("initialisation-dir", "store-initialised-images"), "they only show the start"),
            **dict.fromkeys(("iteration", "weight-temperature"), RESERVED_UNREAD),
            "teacher-model-list": RESERVED_TEACHER,
        }
    )

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return the family's problems, a start that isn't of real images, and stages that don't fit."""
        found, known = super().problems(recipe, classes=classes), self.scripts[recipe.recover.script].size
        flags, size = self.read_flags(recipe.recover), recipe.dataset.size or known
        if size > known:
            found.append(("dataset.size", f"must be at most the script's own, {known} (is {size})"))
        sizes = flags.input_size_lis
        if sizes is not None and (sizes[-1:] != [size] or max(sizes) != size or min(sizes) < 1):
            message = f"must end with its largest, the images' size {size} (is {sizes})"
            found.append(("recover.flags.input-size-lis", message))
        budgets = flags.optimization_budgets
        if min(budgets, default=0) < 1 or len(budgets) != len(sizes or budgets):
            many = "" if sizes is None else f"{len(sizes)} "
            message = f"must be {many}numbers above 0, one for each stage (is {budgets})"
            found.append(("recover.flags.optimization-budgets", message))
        plan, held = recipe.recover.plan, min(flags.batch_size, self.scripts[recipe.recover.script].classes)
        if plan != "keep" and min(plan.per_class, recipe.ipc) > held:
            found.append(
                ("recover.plan.per_class", f"must be at most the {held} images of a batch (is {plan.per_class})")
            )
        return found + self.start_problems(recipe)

    def steps(self, recover: Any) -> int:
        """Return the iterations of all stages."""
        return sum(self.read_flags(recover).optimization_budgets)

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, the script saves one image."""
        return image_path(label, image, ".png")

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, without the arguments of a pass, and its shims."""
        call, flags = super().invocation(inputs), self.read_flags(inputs.recipe.recover)
        networks = [NAMES[key] for key in ("teacher", *inputs.recipe.squeeze.others)]
        start = ("--initialisation-method", "Patches", "--patch-dir", str(inputs.folder / REAL), "--patch-diff", KIND)
        arguments = (*call.arguments, "--teacher-model-list", *networks, *start)
        if flags.input_size_lis is None:
            sizes = alternating_sizes(len(flags.optimization_budgets), inputs.size)
            arguments = (*arguments, "--input-size-lis", *map(str, sizes))
        return replace(call, arguments=arguments, shims={**call.shims, "empty_modules": {"names": ["pandas"]}})

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two stages, so that it is saved, and the first step of the next batch.

        Each stage has a size and a network of its own. The answered run has three, in batches of two classes.
        """
        size, large = self.scripts[script].size, self.scripts[script].stem == "imagenet"
        flags = {"batch-size": 2 if large else 5, "apply-data-augmentation": True}
        stages = {"input-size-lis": [size - 8, size], "optimization-budgets": [1, 1]}
        longer = {"input-size-lis": [size, size - 8, size], "optimization-budgets": [1, 1, 1], "batch-size": 4}
        built, keys = LARGE if large else SMALL, ("teacher", "mobilenet" if large else "shufflenet")
        return VerifyCase(
            recover={"script": script, "start": "real", "flags": flags | stages},
            teachers={key: built[key] for key in keys},
            answered={"plan": {"per_class": 2}, "flags": longer},
            answered_classes=500 if script == "imagenet" else None,  # fewer files: one pass of the script
            answered_steps=4,
        )
