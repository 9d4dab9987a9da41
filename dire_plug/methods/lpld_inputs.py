"""Let LPLD's own code take what its loop matches: the batch statistics of each class in the teacher.

Upstream's `forward_once.py` passes the training images through the teacher once, in eval mode, and writes it with a
moving average of each class's means and variances at each BatchNorm layer. The loop reads that file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, ValidationError

from dire_plug.api.method import Flags, Invocation, LoopInputs, Preparation, ScriptInputs
from dire_plug.methods.gvbsm_inputs import STATISTICS, TRAINING, StatisticsSection, choose_images, write_training
from dire_plug.methods.sre2l_family import TEACHER, FamilyAdapter, common_shims
from dire_plug.recipe.messages import describe

_FORWARD: Mapping[str, tuple[str, tuple[str, ...], str]] = MappingProxyType(
    {
        "tiny": ("recover/tiny_forward/forward_once.py", ("--model", "resnet18"), "resnet18_tiny_0.pth"),
        "imagenet": ("recover/imagenet1k_forward/forward_once.py", ("--epochs", "1"), "checkpoint.pth"),
    }
)
"""Script → what takes its statistics, the arguments by which it does, the file that it writes."""


class ClassStatistics(StatisticsSection):
    """`prepare.statistics`; a class's average moves by a tenth with each batch that holds one of its images."""

    batch_size: int = Field(default=256, ge=1)


class PrepareSection(Flags):
    """A recipe's section `prepare`."""

    statistics: ClassStatistics = ClassStatistics()


class ClassStatisticsAdapter(FamilyAdapter):
    """The part of LPLD's adapter that is about the statistics."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        found = super().problems(recipe.model_copy(update={"prepare": {}}), classes=classes)
        try:
            _read(recipe)
        except ValidationError as error:
            found += [(one.location, one.message) for one in describe(error, PrepareSection, prefix="prepare")]
        if recipe.recover.plan != "keep":
            found.append(("recover.plan", "must be 'keep': a batch holds images of one class alone already"))
        return found

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return the pass over the training images."""
        path, arguments, _ = _FORWARD[inputs.recipe.recover.script]
        wanted = _read(inputs.recipe)
        call = (*arguments, "--batch-size", str(wanted.batch_size), "--output-dir", str(inputs.images))
        said = f"a pass of {wanted.images or 'all'} training images through the teacher"
        invocation = Invocation(path, call, self.shims(inputs))
        return (Preparation(STATISTICS, invocation, key=wanted.model_dump(), estimate=said),)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the teacher and, before the statistics are taken, the training images."""
        super().write_inputs(inputs, script_inputs)
        if STATISTICS not in inputs.prepared:
            train = script_inputs.dataset.train
            write_training(inputs.folder / TRAINING, train, choose_images(len(train), _read(inputs.recipe).images))

    def teacher(self, inputs: LoopInputs) -> Path:
        """Return the file of the teacher with the statistics."""
        return inputs.prepared[STATISTICS] / _FORWARD[inputs.recipe.recover.script][2]

    def shims(self, inputs: LoopInputs) -> dict[str, dict[str, Any]]:
        """Return the shims of the pass, and of the loop, whose networks know classes too."""
        name, teacher = inputs.recipe.recover.script, str(inputs.folder / TEACHER)
        images = {"file": str(inputs.folder / TRAINING), "classes": self.scripts[name].classes}
        shims = {**common_shims(inputs, self.scripts[name]), "loader": {}, "class_networks": {}}
        if "get_model" in shims:
            shims["class_networks"] = {**shims["get_model"], "replace": "resnet18_class"}
        if name == "imagenet":
            return shims | {"image_folder": images, "hub_weights": {"teacher": teacher, "untrained": True}}
        images["also"] = "tiny_imagenet_dataset.TinyImageNet"
        return shims | {"image_folder": images, "files": {"links": {"resnet18_tiny_ep50.pth": teacher}}}


def _read(recipe: Any) -> ClassStatistics:
    return PrepareSection.model_validate(recipe.prepare).statistics
