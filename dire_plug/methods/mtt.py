"""MTT, matching training trajectories: `distill.py` for CIFAR-10 and CIFAR-100, with or without ZCA whitening.

Upstream's `buffer.py` trains the experts before. The loop trains a student on the synthetic images from a snapshot of
an expert, and matches its parameters with the expert's some epochs later; it learns the student's learning rate too.
Upstream keeps the images that were best on the test set; the tool keeps the last ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dire_plug.api.method import (
    CIFAR_10,
    RESERVED_IMAGES,
    RESERVED_PATHS,
    RESERVED_START,
    RESERVED_UNREAD,
    DirePlugError,
    Flags,
    Invocation,
    LoopInputs,
    LoopWork,
    Preparation,
    Script,
    ScriptInputs,
    Upstream,
    VerifyCase,
    cifar_script,
    to_arguments,
    with_own_dataset,
    with_slots,
)
from dire_plug.files import digest, digest_unchanged, expand_user, make_folder, read_json, write_json
from dire_plug.methods.matching_family import (
    DATASETS,
    DSA,
    OWN_FILES,
    RESERVED_EVALUATION,
    SIZE,
    MatchingAdapter,
    common_arguments,
    common_shims,
)
from dire_plug.recipe.messages import describe
from dire_plug.recipe.values import Operations

if TYPE_CHECKING:
    from torch import Tensor


# MTT's experts: where they lie, how large they get, and whether a given folder holds those that a recipe needs.
#
# Upstream keeps ten experts a file, `replay_buffer_N.pt`; an expert is a list of snapshots, one
# before its first epoch and one after each, and a snapshot the list of the network's parameters.
# Nothing in a file says what it was trained on, so `experts.json` beside it does.


FIRST_FILE = "replay_buffer_0.pt"
LABEL = "experts.json"
"""{"dataset", "zca", "model"} and, where the tool wrote it, "digest": that of the images."""
BLOCKS = 3
WIDTHS: Mapping[str, int] = {"ConvNet": 128, "ConvNetD3": 128, "ConvNetW32": 32, "ConvNetW64": 64}
"""Model → its channels."""
OURS: Mapping[str, str] = MappingProxyType(
    {"ConvNet": "convnet-3", "ConvNetD3": "convnet-3", "ConvNetW32": "convnet-3-w32"}
)
"""Model → our name of the same network, whose parameters come in the same order."""
NARROWEST = "convnet-3-w32"
"""Our network that stands, in estimates, for a model that isn't ours."""
MOST_IN_A_FILE = 10
SECONDS = {"ConvNet": 1.1e-2, "ConvNetD3": 1.1e-2, "ConvNetW32": 1.5e-3, "ConvNetW64": 3.5e-3}
"""Model → seconds for one training image in one epoch, on one thread of a busy CPU; for the estimate alone."""


def expert_folder(script: str, flags: MTTFlags) -> str:
    """Return where upstream looks for experts, below its `buffer_path`."""
    return f"{DATASETS[script]}{'' if flags.zca else '_NO_ZCA'}/{flags.model}"


def save_interval(experts: int) -> int:
    """Return the number of experts a file: upstream drops those of a file that isn't full, so it divides all."""
    return next(count for count in range(min(experts, MOST_IN_A_FILE), 0, -1) if experts % count == 0)


def parameter_shapes(model: str, classes: int) -> list[tuple[int, ...]]:
    """Return the shapes of a snapshot, in upstream's order."""
    width, side = WIDTHS[model], SIZE // 2**BLOCKS
    shapes: list[tuple[int, ...]] = []
    for block in range(BLOCKS):
        shapes += [(width, width if block else 3, 3, 3), (width,), (width,), (width,)]
    return [*shapes, (classes, width * side * side), (classes,)]


def estimate(flags: MTTFlags, *, classes: int, experts: int, epochs: int, images: int) -> str:
    """Return how much disk and, if the number of images is known, time on one thread the experts take, in words."""
    numbers = sum(math.prod(shape) for shape in parameter_shapes(flags.model, classes))
    size = numbers * 4 * (epochs + 1) * experts
    disk = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    said = f"{experts} experts × {epochs} epochs, {disk} on disk"
    if images:
        seconds = SECONDS[flags.model] * images * epochs * experts
        time = f"{seconds / 3600:.0f} h" if seconds >= 7200 else f"{max(seconds / 60, 1):.0f} min"
        said += f", about {time} on one thread of a CPU"
    return said


def label(folder: Path, *, dataset: Any, flags: MTTFlags) -> None:
    """Write what the experts of a folder are trained on."""
    make_folder(folder)
    known = {"dataset": dataset.name, "zca": flags.zca, "model": flags.model, "digest": dataset.digest}
    write_json(folder / LABEL, known)


def label_problem(folder: Path, *, dataset: str, flags: MTTFlags) -> str | None:
    """Return what is wrong with a folder of experts, by its files and its label, or None."""
    if not (folder / FIRST_FILE).is_file():
        return f"{folder}: holds no {FIRST_FILE}; name the folder that MTT's buffer.py wrote its files into"
    wanted = {"dataset": dataset, "zca": flags.zca, "model": flags.model}
    if not (folder / LABEL).is_file():
        return f"{folder}: lacks {LABEL}, which says what the experts were trained on; it should hold {wanted}"
    found: Any = read_json(folder / LABEL)
    if not isinstance(found, dict):
        return f"{folder / LABEL}: must hold {wanted}"
    different = [f"{key} {found.get(key)!r}, not {value!r}" for key, value in wanted.items() if found.get(key) != value]
    if different:
        return f"{folder}: these experts are of {' and '.join(different)}; train others or change the recipe"
    return None


def check_experts(folder: Path, *, dataset: Any, flags: MTTFlags) -> None:
    """Check a given folder of experts against the dataset and the loop, by its first file.

    Raises:
        DirePlugError: they are of other images, another network, or too short for the loop.
    """
    if problem := label_problem(folder, dataset=dataset.name, flags=flags):
        raise DirePlugError(f"prepare.buffers: {problem}")
    digest = read_json(folder / LABEL).get("digest", dataset.digest)
    if digest != dataset.digest:
        raise DirePlugError(
            f"prepare.buffers: {folder}: these experts saw other images of {dataset.name} (another size, limit or "
            "copy); train others or change `dataset`"
        )
    snapshots = _read_first(folder / FIRST_FILE)
    classes = len(dataset.classes)
    shapes = [tuple(tensor.shape) for tensor in snapshots[0]]
    if shapes != parameter_shapes(flags.model, classes):
        raise DirePlugError(
            f"prepare.buffers: {folder / FIRST_FILE}: isn't of {flags.model} with {classes} classes: its last "
            f"parameter has the shape {list(shapes[-1]) if shapes else 'of none'}"
        )
    needed = flags.max_start_epoch + flags.expert_epochs
    if len(snapshots) < needed:
        raise DirePlugError(
            f"prepare.buffers: {folder / FIRST_FILE}: has {len(snapshots) - 1} epochs; max_start_epoch "
            f"{flags.max_start_epoch} and expert_epochs {flags.expert_epochs} need {needed - 1}"
        )


def experts_content(folder: Path) -> str:
    """Return what identifies the experts of a folder: a sha256 of its files' names and contents."""
    files = [one for one in (folder / LABEL, *folder.glob("replay_buffer_*.pt")) if one.is_file()]
    return digest({one.name: digest_unchanged(one) for one in files})


def last_snapshot(folder: Path) -> Sequence[Tensor]:
    """Return the parameters of the first expert after its last epoch.

    Raises:
        DirePlugError: the file can't be read.
    """
    parameters: Sequence[Tensor] = _read_first(folder / FIRST_FILE)[-1]
    return parameters


def _read_first(path: Path) -> Any:
    """Return the snapshots of the first expert of a file."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)[0]
    except Exception as error:  # torch's reader may raise anything for other bytes
        raise DirePlugError(f"prepare.buffers: {path}: isn't a file of MTT's buffer.py: {error}") from error


# The flags of MTT's scripts: in upstream's spelling, with upstream's defaults; and the section `prepare`.


_DSA = "set `dsa_strategy`; none turns it off"
_TEXTURE = "the tool condenses images, not textures"
_IMAGENET = "for upstream's ImageNet subsets, which the tool doesn't run"

Rate = Annotated[float, Field(gt=0)]


class MTTFlags(Flags):
    """`distill.py`."""

    model: Literal["ConvNet", "ConvNetD3", "ConvNetW32", "ConvNetW64"] = "ConvNet"
    """The network of the experts, and of the student in the loop."""
    Iteration: int = Field(default=5000, ge=1)
    lr_img: Rate = 1000.0
    lr_lr: Rate = 1e-5
    lr_teacher: Rate = 0.01
    """The initial value of the learned learning rate."""
    batch_syn: int | None = Field(default=None, ge=1)
    """None takes all images in each step of the student."""
    expert_epochs: int = Field(default=3, ge=1)
    syn_steps: int = Field(default=20, ge=1)
    max_start_epoch: int = Field(default=25, ge=1)
    zca: bool = False
    load_all: bool = False
    max_files: int | None = Field(default=None, ge=1)
    max_experts: int | None = Field(default=None, ge=1)
    dsa_strategy: Operations = DSA


class BufferFlags(Flags):
    """`buffer.py`, which trains the experts; `model`, `zca` and `dataset` are those of the loop."""

    lr_teacher: Rate = 0.01
    batch_train: int = Field(default=256, ge=1)
    dsa_strategy: Operations = DSA
    decay: bool = False
    mom: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)


class Prepare(Flags):
    """A recipe's section `prepare`: experts to train by upstream's buffer.py, or a folder with trained ones."""

    experts: int = Field(default=100, ge=1)
    epochs: int = Field(default=50, ge=1)
    flags: BufferFlags = BufferFlags()
    buffers: str | None = None
    """A folder with replay_buffer_0.pt, … and experts.json, which says what they were trained on."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        set_too = sorted(self.model_fields_set - {"buffers"})
        if self.buffers is not None and set_too:
            raise PydanticCustomError("two_sources", f"buffers are trained already; remove {', '.join(set_too)}")
        return self


EXPERTS = "experts"
BUFFERS = "buffers"
"""The folder of experts among the inputs."""
BUFFERS_KEY = "prepare.buffers"
CLOCK = 0
"""The seed of the clock while experts are trained: runs share them."""

_PINS = {
    "buffer.py": "745978a413844ce09e0a08f2a3f0472c9535b968",
    "distill.py": "d65af72b511f1da182c39404846de1467f04e020",
    "utils.py": "51f71e69bde23409ed13990fe598664627bb18a1",
    "networks.py": "7139ba82103837025717663ec173bf978df87f74",
    "reparam_module.py": "ddd3bd9a9f4e7e0fcca293124298d24159423310",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class MTT(MatchingAdapter):
    """The adapter of MTT, and the plugin that answers its plan and start hooks."""

    name = "mtt"
    title = "MTT"
    upstream = Upstream(
        repository="https://github.com/GeorgeCazenavette/mtt-distillation",
        commit="50dccea47ba48b9cfb3b9c59375d7da92e4e603b",
        paths=tuple(_PINS),
        licence="MIT",
        packages=("kornia", "scipy", "tqdm"),
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        with_own_dataset(
            {
                name: replace(
                    cifar_script("distill.py", classes, checkpoint="bare", statistics=CIFAR_10), several_gpus=True
                )
                for name, classes in (("cifar-10", 10), ("cifar-100", 100))
            }
        ),
        "none",
    )
    """Upstream normalises CIFAR-100 by CIFAR-10's numbers."""
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **MatchingAdapter.reserved_flags,
            "subset": _IMAGENET,
            "res": _IMAGENET,
            "eval_it": RESERVED_EVALUATION,
            "lr_init": RESERVED_UNREAD,
            "batch_real": "the script reads it for its ImageNet subsets alone",
            "pix_init": RESERVED_START,
            "dsa": _DSA,
            "no_aug": _DSA,
            "buffer_path": f"{RESERVED_PATHS}; `prepare.buffers` names a folder with experts",
            "texture": _TEXTURE,
            "canvas_size": _TEXTURE,
            "canvas_samples": _TEXTURE,
            "force_save": RESERVED_IMAGES,
        }
    )
    flags = MappingProxyType({"cifar-10": MTTFlags, "cifar-100": MTTFlags})
    embedders = ("teacher", "expert")
    learns_rate = True

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        found = super().problems(recipe, classes=classes)
        flags: MTTFlags = self.read_flags(recipe.recover)
        try:
            found += _prepare_problems(recipe, Prepare.model_validate(recipe.prepare), flags)
        except ValidationError as error:
            found += [(one.location, one.message) for one in describe(error, Prepare, prefix="prepare")]
        if getattr(recipe.recover.embedder, "network", None) == "expert" and flags.model not in OURS:
            message = f"experts of {flags.model} can't embed; take {', '.join(OURS)}, or `teacher`"
            found.append(("recover.embedder.network", message))
        whiten = getattr(recipe.evaluate, "whiten", None)
        if whiten is not None and recipe.evaluate.source == "tensor" and whiten != flags.zca:
            are, want = ("whitened", "true") if flags.zca else ("normalised, not whitened", "false")
            found.append(("evaluate.whiten", f"the loop's images are {are}; set it to {want}"))
        return found

    def check_dataset(self, recipe: Any, dataset: Any) -> None:
        """Raise where given experts don't fit the dataset or the loop.

        Raises:
            DirePlugError: see `check_experts`.
        """
        if (given := Prepare.model_validate(recipe.prepare).buffers) is not None:
            folder = expand_user(given, where=BUFFERS_KEY).absolute()
            check_experts(folder, dataset=dataset, flags=self.read_flags(recipe.recover))

    def work(self, recipe: Any) -> LoopWork:
        """Return that an iteration keeps the graph of `syn_steps` training steps, after the training of the experts."""
        flags, prepare = self.read_flags(recipe.recover), Prepare.model_validate(recipe.prepare)
        epochs = prepare.experts * prepare.epochs if prepare.buffers is None else 0
        return LoopWork(
            OURS.get(flags.model, NARROWEST), unrolled=flags.syn_steps, batch=flags.batch_syn, prepared_epochs=epochs
        )

    def whitens(self, recover: Any) -> bool:
        """Return whether the loop's images live in ZCA space."""
        flags: MTTFlags = self.read_flags(recover)
        return flags.zca

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return the training of the experts, unless the recipe names trained ones."""
        recipe = inputs.recipe
        prepare, flags = Prepare.model_validate(recipe.prepare), self.read_flags(recipe.recover)
        if prepare.buffers is not None:
            return ()
        settings = {"dataset": recipe.recover.script, "model": flags.model, "zca": flags.zca, **prepare.model_dump()}
        size = estimate(
            flags,
            classes=inputs.classes,
            experts=prepare.experts,
            epochs=prepare.epochs,
            images=inputs.training_images,
        )
        call = _buffer_call(inputs, prepare, flags)
        return (Preparation(EXPERTS, call, settings, estimate=size, asks_teachers=False),)

    def prepare_key(self, recipe: Any) -> Mapping[str, Any]:
        """Return the section `prepare`; of given experts their content instead of their folder, and what loads them."""
        given, flags = Prepare.model_validate(recipe.prepare).buffers, self.read_flags(recipe.recover)
        if given is None:
            return super().prepare_key(recipe)
        content = experts_content(expand_user(given, where=BUFFERS_KEY))
        return {"buffers": content, "model": flags.model, "zca": flags.zca}

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the dataset; link the experts to where the script looks for them, or label those that it will make.

        Raises:
            DirePlugError: images have another size.
        """
        super().write_inputs(inputs, script_inputs)
        recover = inputs.recipe.recover
        flags, folder = self.read_flags(recover), expert_folder(recover.script, self.read_flags(recover))
        given = Prepare.model_validate(inputs.recipe.prepare).buffers
        if given is not None:
            source = expand_user(given, where=BUFFERS_KEY).absolute()
        elif EXPERTS in inputs.prepared:
            source = inputs.prepared[EXPERTS].absolute() / folder
        else:
            label(inputs.images / folder, dataset=script_inputs.dataset, flags=flags)
            return
        link = inputs.folder / BUFFERS / folder
        make_folder(link.parent)
        # linked, not copied: a set of experts is several GB
        link.symlink_to(source, target_is_directory=True)

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's distill.py, and the shims that it needs.

        It evaluates at iteration 0 alone, with no network, and saves its start images then.
        """
        recover = inputs.recipe.recover
        flags: MTTFlags = self.read_flags(recover)
        arguments = [*to_arguments(flags), *common_arguments(recover, inputs.recipe.ipc)]
        # one more than the iterations, so that its evaluation runs at iteration 0 alone
        arguments += ["--eval_it", str(flags.Iteration + 1), "--pix_init", recover.start, "--dsa", "True"]
        arguments += ["--data_path", str(inputs.folder), "--buffer_path", str(inputs.folder / BUFFERS)]
        links = {"logged_files": str(inputs.images / OWN_FILES)}
        shims = {**common_shims(inputs, seed=inputs.seed), "wandb": {}, "files": {"links": links}}
        return Invocation("distill.py", tuple(arguments), shims)

    def expert(self, inputs: LoopInputs) -> tuple[str, Sequence[Tensor]]:
        """Return our name of the experts' network, and the last snapshot of the first of them.

        Raises:
            DirePlugError: the experts are of an architecture that isn't ours, or their file can't be read.
        """
        recover, given = inputs.recipe.recover, Prepare.model_validate(inputs.recipe.prepare).buffers
        flags: MTTFlags = self.read_flags(recover)
        if given is not None:
            folder = expand_user(given, where=BUFFERS_KEY)
        else:
            folder = inputs.prepared[EXPERTS] / expert_folder(recover.script, flags)
        return OURS[flags.model], last_snapshot(folder)

    def verify_case(self, script: str) -> VerifyCase:
        """Return three whole iterations after one expert of two epochs."""
        flags = {"Iteration": 2, "model": "ConvNetW32", "syn_steps": 2, "expert_epochs": 1, "max_start_epoch": 2}
        return VerifyCase(
            recover={"script": script, "flags": flags, "start": "real", "embedder": {"classes_per_step": 5}},
            teachers={"teacher": "convnet-3"},
            prepare={"experts": 1, "epochs": 2},
            steps=None,
            answered={},
            answered_ipc=1,
        )


def _prepare_problems(recipe: Any, prepare: Prepare, flags: MTTFlags) -> list[tuple[str, str]]:
    if prepare.buffers is not None:
        problem = label_problem(
            expand_user(prepare.buffers, where=BUFFERS_KEY), dataset=recipe.dataset.name, flags=flags
        )
        return [(BUFFERS_KEY, problem)] if problem else []
    needed = flags.max_start_epoch + flags.expert_epochs - 1
    if needed > prepare.epochs:
        message = (
            f"max_start_epoch {flags.max_start_epoch} and expert_epochs {flags.expert_epochs} reach to epoch {needed} "
            f"(is {prepare.epochs})"
        )
        return [("prepare.epochs", message)]
    return []


def _buffer_call(inputs: LoopInputs, prepare: Prepare, flags: MTTFlags) -> Invocation:
    arguments = [*to_arguments(prepare.flags), "--dataset", DATASETS[inputs.recipe.recover.script]]
    arguments += ["--model", flags.model, *(["--zca"] if flags.zca else [])]
    arguments += ["--num_experts", str(prepare.experts), "--train_epochs", str(prepare.epochs)]
    arguments += ["--save_interval", str(save_interval(prepare.experts)), "--dsa", "True"]
    arguments += ["--data_path", str(inputs.folder), "--buffer_path", str(inputs.images)]
    shims = {**common_shims(inputs, seed=CLOCK), "wandb": {}, "cpu_copy": {"files": ["buffer.py"]}}
    return Invocation("buffer.py", tuple(arguments), shims)
