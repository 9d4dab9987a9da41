"""LPLD: the recover scripts of its Tiny-ImageNet and ImageNet-1K experiments.

A batch holds one class, and its batch statistics are matched with those of the class's real images. Upstream's own
code takes these in a pass over the training images, before the loop. A call of a script makes all images of a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from dire_plug.api.method import (
    RESERVED_DATASET,
    RESERVED_IMAGES,
    RESERVED_IPC,
    RESERVED_PASSES,
    RESERVED_TEACHER,
    RESERVED_UNREAD,
    RESERVED_VERIFIER,
    DirePlugError,
    Invocation,
    ListedPlan,
    LoopInputs,
    Script,
    Upstream,
    VerifyCase,
    class_by_class,
    cut_plan,
    imagenet_script,
    tiny_imagenet_script,
    to_arguments,
    with_slots,
)
from dire_plug.methods.gvbsm_inputs import STATISTICS
from dire_plug.methods.lpld_inputs import ClassStatisticsAdapter
from dire_plug.methods.sre2l_family import RESNETS, saving_arguments
from dire_plug.methods.sre2l_family import FamilyFlags as TinyImageNetFlags


class In1kFlags(TinyImageNetFlags):
    """`recover/data_synthesis_class.py`; a batch holds so many images of one class in both scripts."""

    jitter: int = Field(default=32, ge=0)
    tv_l2: float = Field(default=1e-4, alias="tv-l2", ge=0)
    l2_scale: float = Field(default=1e-5, alias="l2-scale", ge=0)


_TINY, _IN1K = "recover/data_synthesis_tiny_class.py", "recover/data_synthesis_class.py"
_PINS = {
    _TINY: "e5e43319ed7941adea623058ad9146ac7350f65e",
    _IN1K: "3ef3b433e697c15b3ad1ed6a214ff8200e3a5512",
    "recover/utils_tiny.py": "90ed6a59be22f90eeb6163029fb33097b12ea846",
    "recover/utils_recover.py": "06e7fcf6c59fd7ac63762ef1a0ca16ad8bbec31b",
    "recover/models": "bea044be13fdb8288c7dcbfbbab367bc13d9641d",
    "recover/tiny_forward": "c6283d528fe21d975c9f29da8d594f6bb8783863",
    "recover/imagenet1k_forward": "fafe4adb7cf9c3cf036164dcadaf8d071988a646",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class LPLD(ClassStatisticsAdapter):
    """The adapter of LPLD, and the plugin that answers its start hook."""

    name = "lpld"
    title = "LPLD"
    upstream = Upstream(
        repository="https://github.com/he-y/soft-label-pruning-for-dataset-distillation",
        commit="63eee186e15e09a6889dda07805ce921c439aef4",
        paths=tuple(_PINS),
        licence="none",
        packages=("tqdm",),
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = MappingProxyType(
        {
            **with_slots({"tiny": tiny_imagenet_script(_TINY)}, "none"),
            **with_slots({"imagenet": imagenet_script(_IN1K)}, "independent"),
        }
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **ClassStatisticsAdapter.reserved_flags,
            **dict.fromkeys(("class-start", "class-end"), RESERVED_PASSES),
            **dict.fromkeys(("verifier-checkpoint", "verifier-arch-path"), RESERVED_VERIFIER),
            "ipc": RESERVED_IPC,
            "dataset": RESERVED_DATASET,
            "arch-checkpoint": RESERVED_TEACHER,
            "store-last-images": RESERVED_IMAGES,
            "class-guide": RESERVED_UNREAD,
            "bn-hook-type": "statistics of classes, `class_stats_training`, are the method",
        }
    )
    flags = MappingProxyType({"tiny": TinyImageNetFlags, "imagenet": In1kFlags})
    grows = False
    architectures = MappingProxyType({"tiny": RESNETS, "imagenet": ("resnet-18",)})

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ListedPlan:  # type: ignore[override]
        """Return upstream's own plan: a pass for each class, over its images in batches.

        Raises:
            DirePlugError: the dataset has more classes than the script, or a batch would overwrite another's files.
        """
        known, size = self.scripts[recover.script].classes, min(self.read_flags(recover).batch_size, ipc)
        if classes > known:
            raise DirePlugError(f"plan: the script '{recover.script}' knows {known} classes, not {classes}")
        if ipc % size or (recover.script == "tiny" and size < ipc):
            fits = "hold" if recover.script == "tiny" else "divide"
            raise DirePlugError(f"plan: must {fits} the {ipc} images of a class, or files are lost (is {size})")
        return cut_plan(class_by_class(classes, ipc), classes=classes, batch_size=size, pass_size=ipc)

    def pass_arguments(self, pass_index: int, script: str) -> tuple[str, ...]:
        """Return the arguments that make a script go through one class alone: the Tiny script calls it IPC."""
        kind = "ipc" if script == "tiny" else "class"
        return (f"--{kind}-start", str(pass_index), f"--{kind}-end", str(pass_index + 1))

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, without the arguments of a pass, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.jpg`.
        """
        recover = inputs.recipe.recover
        kind, teacher = ("last", "--arch-path") if recover.script == "tiny" else ("best", "--arch-checkpoint")
        arguments = to_arguments(self.read_flags(recover)) + saving_arguments(inputs.images, f"--store-{kind}-images")
        arguments += ["--ipc", str(inputs.recipe.ipc), "--bn-hook-type", "class_stats_training"]
        arguments += [teacher, str(self.teacher(inputs))]
        return Invocation(self.scripts[recover.script].path, tuple(arguments), self.shims(inputs))

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, and of ImageNet-1K's the first step of the class's next batch."""
        tiny = script == "tiny"
        return VerifyCase(
            recover={"script": script, "flags": {"batch-size": 2 if tiny else 1, "iteration": 2}},
            teachers={"teacher": "resnet-18"},
            prepare={STATISTICS: {"images": 4, "batch_size": 2}},
            ipc=2,
            classes=2,
            real_per_class=2,
            steps=None if tiny else 3,
        )
