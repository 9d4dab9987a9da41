"""DELT: early-late recovery from a ranked selection of real images, by one script for all of its datasets.

The script goes through the images class by class, in batches of `batch-size`, so that a batch holds several images of a
class already; it can't start in the middle. With `use-early-late` an image joins in a later round than those before it
in its class, so a step sees a part of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from dire_plug.adapters.delt_flags import OWNED, RecoverFlags, SelectionFlags, round_problems
from dire_plug.adapters.delt_selection import candidates_problem, check_candidates, write_candidates
from dire_plug.adapters.sre2l_family import TEACHER, common_shims, saving_arguments
from dire_plug.api.method import (
    DirePlugError,
    Invocation,
    ListedPlan,
    LoopInputs,
    Materials,
    PlannedAdapter,
    Preparation,
    Script,
    Upstream,
    VerifyCase,
    cifar_script,
    class_by_class,
    cut_plan,
    image_path,
    imagenet_script,
    teacher_problems,
    tiny_script,
    to_arguments,
    write_network,
)
from dire_plug.recipe.messages import describe

RECOVER = "recover/recover.py"
SELECT = "data_selection.py"
SELECTION = "selection"
"""The name of the preparation; its folder holds `selected/` and the ranking of all images."""
SELECTED = "selected"
CANDIDATES = "candidates"
"""The image folder, among the inputs of the selection, that is ranked."""
_NAMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cifar-10": ("cifar10", "cifar10"),
        "tiny-imagenet": ("tinyimagenet", "tiny-imagenet"),
        "imagenet-1k": ("imagenet-1k", "imagenet-1k"),
    }
)
"""Script → what the recover script, and the selection, call its dataset."""

_PINS = {
    SELECT: "8aebd2ee1c1cd941f62cac4662a47f264e9e060a",
    RECOVER: "f94884defc56435310a51be6f52d9eb82029b80f",
    "recover/models.py": "7e33cff245b22ea294e405a475e7b239c76c554f",
    "recover/utils.py": "f302f40440effb5c799391e75d4c188111730f7e",
}
"""What is fetched, and git's hash of each at the pinned commit."""


class DELT(PlannedAdapter):
    """The adapter of DELT, and the plugin that answers its plan hooks."""

    name = "delt"
    title = "DELT"
    upstream = Upstream(
        repository="https://github.com/VILA-Lab/DELT",
        commit="f2f81cad0e259fbd9409920bd1a62b084986b8e6",
        paths=tuple(_PINS),
        licence="none",
        packages=("pandas", "tqdm"),
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = MappingProxyType(
        {
            "cifar-10": cifar_script(RECOVER, 10, checkpoint="model"),
            "tiny-imagenet": tiny_script(RECOVER),
            "imagenet-1k": imagenet_script(RECOVER, checkpoint="model"),
        }
    )
    owned_flags: Mapping[str, str] = OWNED
    flags = MappingProxyType(dict.fromkeys(scripts, RecoverFlags))
    embeddings_are_nonnegative = True
    architectures: Mapping[str, Sequence[str]] = MappingProxyType(
        {
            "cifar-10": ("resnet-18", "resnet-small"),
            "tiny-imagenet": ("resnet-18", "resnet-small"),
            "imagenet-1k": ("resnet-18",),
        }
    )

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        recover = recipe.recover
        found = teacher_problems(recipe, self.architectures[recover.script])
        found += [*round_problems(self.read_flags(recover)), *_section_problems(recover)]
        try:
            criteria = _read_selection(recipe).selection_criteria
        except ValidationError as error:
            described = describe(error, SelectionFlags, prefix="prepare")
            return found + [(problem.location, problem.message) for problem in described]
        known = self.scripts[recover.script].classes
        if classes is not None and classes > known:
            found.append(("recover.script", f"the script '{recover.script}' knows {known} classes, not {classes}"))
        if (limit := recipe.dataset.limit) and classes:
            problem = candidates_problem("a class", limit // classes, ipc=recipe.ipc, criteria=criteria)
            found += [("dataset.limit", problem)] if problem else []
        return found

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ListedPlan:
        """Return upstream's own plan: all images of class 0, then those of class 1, …, cut into batches.

        Raises:
            DirePlugError: the dataset has more classes than the script.
        """
        if classes > (known := self.scripts[recover.script].classes):
            raise DirePlugError(f"plan: the script '{recover.script}' knows {known} classes, not {classes}")
        batch_size = self.read_flags(recover).batch_size
        return cut_plan(class_by_class(classes, ipc), classes=classes, batch_size=batch_size)

    def preparations(self, inputs: LoopInputs) -> tuple[Preparation, ...]:
        """Return the ranked selection of real images from which the loop starts."""
        recipe = inputs.recipe
        script, selection = recipe.recover.script, _read_selection(recipe)
        arguments = [*to_arguments(selection), "--dataset", _NAMES[script][1], "--ipc", str(recipe.ipc)]
        arguments += ["--data-path", str(inputs.folder / CANDIDATES), "--output-path", str(inputs.images / SELECTED)]
        arguments += ["--ranker-arch", "resnet18", "--ranker-path", str(inputs.folder / TEACHER)]
        arguments += ["--store-rank-file", "--ranking-file", str(inputs.images / "ranking.csv")]
        shims = {**self._shims(inputs), "sorted_listing": {}}
        return (
            Preparation(
                SELECTION,
                Invocation(SELECT, tuple(arguments), shims),
                key={"ipc": recipe.ipc, "dataset": script, **selection.model_dump(by_alias=True)},
                estimate="the teacher ranks every training image once, and IPC of each class are copied",
            ),
        )

    def lay_out(self, inputs: LoopInputs, materials: Materials) -> None:
        """Write the teacher in upstream's layout and, before the selection is made, the images to select from.

        Raises:
            DirePlugError: a class has too few images for the selection.
        """
        recipe = inputs.recipe
        layout = self.scripts[recipe.recover.script].checkpoint
        if SELECTION not in inputs.prepared:
            criteria = _read_selection(recipe).selection_criteria
            check_candidates(materials.dataset, ipc=recipe.ipc, criteria=criteria)
            write_candidates(inputs.folder / CANDIDATES, materials.dataset)
        write_network(materials.teachers["teacher"], inputs.folder / TEACHER, layout)

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.jpg`.
        """
        recipe = inputs.recipe
        arguments = to_arguments(self.read_flags(recipe.recover)) + saving_arguments(inputs.images)
        arguments += ["--dataset", _NAMES[recipe.recover.script][0], "--ipc", str(recipe.ipc)]
        arguments += ["--init-data-path", str(self._selected(inputs))]
        arguments += ["--arch-name", "resnet18", "--arch-path", str(inputs.folder / TEACHER)]
        return Invocation(RECOVER, tuple(arguments), self._shims(inputs))

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, the script saves one image."""
        return image_path(label, image)

    def verify_case(self, script: str) -> VerifyCase:
        """Return one batch in two rounds, so that it is saved, and the first step of the next batch.

        A batch has two classes, at 224 pixels one. The ranked images are those of three; the script goes by the folders
        that it finds. The answered run has no rounds.
        """
        batch_size = 2 if script == "imagenet-1k" else 4
        flags = {"batch-size": batch_size, "iteration": 4, "use-early-late": True, "round-iterations": 2, "jitter": 2}
        return VerifyCase(
            recover={"script": script, "flags": flags, "start": "own"},
            teachers={"teacher": "resnet-18"},
            ipc=2,
            classes=3,
            real_per_class=4,
            steps=5,
            answered={"flags": {"use-early-late": False, "round-iterations": 0}},
        )

    def _shims(self, inputs: LoopInputs) -> dict[str, dict[str, Any]]:
        script = self.scripts[inputs.recipe.recover.script]
        shims = {**common_shims(inputs, script), "loader": {}}
        if inputs.size != script.size:
            shims["centre_crop"] = {"from": script.size, "to": inputs.size}
        return shims

    def _selected(self, inputs: LoopInputs) -> Path:
        return inputs.prepared[SELECTION] / SELECTED


def _read_selection(recipe: Any) -> SelectionFlags:
    return SelectionFlags.model_validate(recipe.prepare)


def _section_problems(recover: Any) -> list[tuple[str, str]]:
    """Return what of the section `recover` this script has no place for."""
    found = []
    if recover.plan != "keep":
        message = "must be 'keep': a batch holds several images of a class already, in the order of early and late"
        found.append(("recover.plan", message))
    if recover.start != "own":
        message = f"must be 'own': the images that upstream's own selection ranks, see `prepare` (is '{recover.start}')"
        found.append(("recover.start", message))
    if recover.embedder is not None:
        found.append(("recover.embedder", "the teacher is in the loop already; remove this"))
    return found
