"""DELT: early-late recovery from a ranked selection of real images, by one script for all of its datasets.

The script goes through the images class by class, in batches of `batch-size`, so that a batch holds several images of a
class already; it can't start in the middle. With `use-early-late` an image joins in a later round than those before it
in its class, so a step sees a part of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from dire_plug.api.method import (
    RESERVED_DATASET,
    RESERVED_DEVICE,
    RESERVED_IMAGES,
    RESERVED_IPC,
    RESERVED_PATHS,
    RESERVED_TEACHER,
    DirePlugError,
    Flags,
    Invocation,
    ListedPlan,
    LoopInputs,
    PlannedAdapter,
    Preparation,
    Script,
    ScriptInputs,
    Upstream,
    VerifyCase,
    cifar_script,
    class_by_class,
    cut_plan,
    image_path,
    imagenet_script,
    teacher_problems,
    tiny_imagenet_script,
    to_arguments,
    with_slots,
    write_network,
)
from dire_plug.files import make_folder
from dire_plug.methods.sre2l_family import RESNETS, TEACHER, FamilyFlags, common_shims, saving_arguments, write_images
from dire_plug.recipe.messages import describe

if TYPE_CHECKING:
    from dire_plug.data import Dataset


# The images among which DELT's `data_selection.py` selects: written as the image folder that it ranks.


COMPRESSION = 1
"""The least compression of PNG: the files are deleted once the selection is made."""


def candidates_needed(ipc: int, criteria: str) -> int:
    """Return the number of images of a class that a selection of `ipc` needs.

    `medium` steps away from the middle of the ranking, ⌈n/2⌉, in turns, ⌊ipc/2⌋ places towards its end; with fewer
    images than this it reads past the end (`data_selection.py` 254-259).
    """
    return 2 * (ipc // 2 + 1) if criteria == "medium" else ipc


def candidates_problem(name: str, count: int, *, ipc: int, criteria: str) -> str | None:
    """Return what is wrong where a class has `count` images, or None."""
    if count >= (needed := candidates_needed(ipc, criteria)):
        return None
    return (
        f"{name} has {count} images, but DELT's '{criteria}' selection needs {needed} candidates of each class for "
        f"IPC {ipc}; take more training images or a lower IPC"
    )


def check_candidates(dataset: Dataset, *, ipc: int, criteria: str) -> None:
    """Raise for a dataset that has too few candidates in some class.

    Raises:
        DirePlugError: one line for each such class.
    """
    counts = dataset.train.labels.bincount(minlength=len(dataset.classes)).tolist()
    named = zip(dataset.classes, counts, strict=True)
    found = [candidates_problem(f"class '{name}'", count, ipc=ipc, criteria=criteria) for name, count in named]
    if problems := [problem for problem in found if problem]:
        raise DirePlugError("\n".join(f"prepare: {dataset.name}: {problem}" for problem in problems))


def write_candidates(folder: Path, dataset: Dataset) -> None:
    """Write the training images as `folder/<label>/<index>.png`, so that sorted class folders are the labels.

    Images that the dataset reads on demand are linked: upstream's script resizes and crops the files itself.
    """
    from dire_plug.data.folders import FolderSplit

    split = dataset.train
    for label in range(len(dataset.classes)):
        class_folder = folder / f"{label:05d}"
        indices = (split.labels == label).nonzero().squeeze(1)
        if isinstance(split, FolderSplit):
            make_folder(class_folder)
            for index in indices.tolist():
                path = split.files[index].path.absolute()
                (class_folder / f"{index:07d}{path.suffix}").symlink_to(path)
        else:
            names = [f"{index:07d}.png" for index in indices.tolist()]
            write_images(class_folder, split.images(indices).cpu(), names, compress_level=COMPRESSION)


# The flags of DELT's scripts: in upstream's spelling, with upstream's defaults.


class RecoverFlags(FamilyFlags):
    """`recover/recover.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Images in a batch, class by class."""
    jitter: int = Field(default=32, ge=0)
    use_early_late: bool = Field(default=False, alias="use-early-late")
    """Whether the images of a class join round by round, so that the first are optimised longest."""
    round_iterations: int = Field(default=0, alias="round-iterations", ge=0)
    easy2hard_mode: Literal["step", "linear", "cosine"] = Field(default="cosine", alias="easy2hard-mode")
    """The schedule by which the least crop falls from the whole image to 8 % of it, until `milestone`."""
    milestone: float = Field(default=0.0, ge=0, le=1)
    """The share of the iterations until which the least crop falls."""


class SelectionFlags(Flags):
    """The section `prepare`: `data_selection.py`, which chooses the start images."""

    selection_criteria: Literal["medium", "top", "min"] = Field(default="medium", alias="selection-criteria")
    """Around the median of the teacher's probability of the true class; the highest; the lowest."""


def round_problems(flags: RecoverFlags) -> list[tuple[str, str]]:
    """Return (dotted key, message) of rounds that the published script can't run."""
    if not flags.use_early_late:
        return []
    if flags.round_iterations == 0:
        return [("recover.flags.round-iterations", "must be given with use-early-late: the length of a round")]
    if flags.iteration % flags.round_iterations:
        message = (
            f"must be a multiple of round-iterations ({flags.round_iterations}) with use-early-late: the published "
            f"script reads past its last round otherwise (is {flags.iteration})"
        )
        return [("recover.flags.iteration", message)]
    return []


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
"""Path to fetch → git's hash of it at the pinned commit."""


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
    scripts: Mapping[str, Script] = with_slots(
        {
            "cifar-10": cifar_script(RECOVER, 10, checkpoint="model"),
            "tiny-imagenet": tiny_imagenet_script(RECOVER),
            "imagenet-1k": imagenet_script(RECOVER, checkpoint="model"),
        },
        "independent",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            "exp-name": RESERVED_PATHS,
            "syn-data-path": RESERVED_PATHS,
            "arch-name": RESERVED_TEACHER,
            "arch-path": RESERVED_TEACHER,
            "store-best-images": RESERVED_IMAGES,
            "init-data-path": "upstream's own selection makes the start images; see `prepare`",
            "ipc": RESERVED_IPC,
            "dataset": RESERVED_DATASET,
            "input-size": RESERVED_DATASET,
            "num-classes": RESERVED_DATASET,
            "workers": "images are loaded in the process itself",
            "gpu-device": RESERVED_DEVICE,
            "min-iterations": "the published script reads past its rounds where no class of a batch draws all of them",
            "round-lr-reset": "it changes nothing: the published script overwrites the rate in its next line",
        }
    )
    flags = MappingProxyType(dict.fromkeys(scripts, RecoverFlags))
    embeddings_are_nonnegative = True
    architectures: Mapping[str, Sequence[str]] = MappingProxyType(
        {
            "cifar-10": RESNETS,
            "tiny-imagenet": RESNETS,
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

    def check_dataset(self, recipe: Any, dataset: Any) -> None:
        """Raise for a dataset that has too few candidates in some class.

        Raises:
            DirePlugError: one line for each such class.
        """
        check_candidates(dataset, ipc=recipe.ipc, criteria=_read_selection(recipe).selection_criteria)

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
        # its images are read in order and nothing is drawn: threads change no bit
        shims = {**self._shims(inputs), "sorted_listing": {}, "loader": {"threads": True}}
        return (
            Preparation(
                SELECTION,
                Invocation(SELECT, tuple(arguments), shims),
                key={"ipc": recipe.ipc, "dataset": script, **selection.model_dump(by_alias=True)},
                estimate="the teacher ranks every training image once, and IPC of each class are copied",
            ),
        )

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the teacher in upstream's layout and, before the selection is made, the images to select from."""
        recipe = inputs.recipe
        layout = self.scripts[recipe.recover.script].checkpoint
        if SELECTION not in inputs.prepared:
            write_candidates(inputs.folder / CANDIDATES, script_inputs.dataset)
        write_network(script_inputs.teachers["teacher"], inputs.folder / TEACHER, layout)

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
