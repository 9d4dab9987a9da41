"""G-VBSM: the recover scripts of its four branches, CIFAR-10, CIFAR-100, Tiny-ImageNet and ImageNet-1K.

Several networks take turns, iteration by iteration. The scripts go once through all images, in an order of their own;
another plan is another order. The labels that they hold are never changed: the nuclear-norm term reads them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from dire_plug.api.method import (
    CIFAR_100,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESERVED_IMAGES,
    RESERVED_IPC,
    RESERVED_PATHS,
    RESERVED_VERIFIER,
    DirePlugError,
    Flags,
    Invocation,
    ListedPlan,
    LoopInputs,
    PlannedAdapter,
    Preparation,
    Script,
    ScriptInputs,
    Slot,
    Synthesis,
    Upstream,
    VerifyCase,
    cut_plan,
    hookimpl,
    image_path,
    imagenet_script,
    to_arguments,
    with_own_dataset,
    with_slots,
)
from dire_plug.methods.gvbsm_inputs import (
    STATISTICS,
    TEACHERS,
    TRAINING,
    PrepareSection,
    teacher_path,
    teacher_problems,
    write_inputs,
)
from dire_plug.recipe.messages import describe

if TYPE_CHECKING:
    from torch import Tensor

# The order in which G-VBSM's scripts go through all images, and others that they can be given.


GROUPS = 10
"""The Tiny-ImageNet script splits the images of a class into so many groups, one after the other."""


def build_order(name: str, script: Script, *, ipc: int, per_class: int | None, batch_size: int) -> ListedPlan:
    """Return the plan of one script.

    Args:
        name: of the script.
        per_class: images of a class that follow each other; None is upstream's own order: all of them, and the tenth
            part on Tiny-ImageNet.

    Raises:
        DirePlugError: the Tiny-ImageNet script can't group the images, or the ImageNet-1K script can't reshape a batch.
    """
    if ipc < 1:
        raise DirePlugError(f"ipc: must be at least 1 (is {ipc})")
    if name == "tiny" and ipc % GROUPS:
        below, above = ipc // GROUPS * GROUPS, (ipc // GROUPS + 1) * GROUPS
        raise DirePlugError(
            f"ipc: the script 'tiny' splits the images of a class into {GROUPS} groups, so IPC must be a multiple of "
            f"{GROUPS}: {f'{below} or {above}' if below else above} (is {ipc})"
        )
    # its loop over groups is outside of that over classes
    own = ipc // GROUPS if name == "tiny" else ipc
    order = _group_by_group(script.classes, ipc, per_class or own)
    plan = cut_plan(order, classes=script.classes, batch_size=batch_size)
    if name == "imagenet":
        _check_reshape(plan, script, batch_size)
    return plan


def _group_by_group(classes: int, ipc: int, per_class: int) -> list[tuple[int, int]]:
    """Return every (class, image) pair: `per_class` images of class 0, of class 1, …, then the next ones."""
    groups = (range(first, min(first + per_class, ipc)) for first in range(0, ipc, per_class))
    return [(label, image) for group in groups for label in range(classes) for image in group]


def _check_reshape(plan: ListedPlan, script: Script, batch_size: int) -> None:
    images = len(plan.slots[-1].labels)
    if images * 3 * script.size**2 % batch_size:
        raise DirePlugError(
            f"recover.flags.batch-size: the ImageNet-1K script reshapes its images by --batch-size {batch_size}, which "
            f"the last batch, of {images} images, can't be; take a divisor of {plan.ipc * script.classes}"
        )


# The flags of G-VBSM's scripts: in upstream's spelling, with upstream's defaults.


_RANKS = "the tool runs the script in one process, on the run's device"
_TEACHERS = "the teachers are set in `squeeze.teacher` and `squeeze.others`"


class SmallFlags(Flags):
    """The flags of the CIFAR branches' scripts and of Tiny-ImageNet's; they ignore `tv-l2` and `l2-scale`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Images in a batch."""
    iteration: int = Field(default=1000, ge=1)
    training_momentum: float = Field(default=0.8, alias="training-momentum", ge=0, le=1)
    """The momentum of the moving averages of the batches' statistics, α in the paper."""
    drop_rate: float = Field(default=0.4, alias="drop-rate", ge=0, le=1)
    """The share of convolutions that a step leaves out of the matching."""
    lr: float = Field(default=0.1, gt=0)
    jitter: int = Field(default=32, ge=0)
    """The largest shift, in pixels."""
    r_loss: float = Field(default=0.05, alias="r-loss", ge=0)
    """The weight of the matched statistics."""
    first_multiplier: float = Field(default=10.0, alias="first-multiplier", ge=0)
    nuc_norm: float = Field(default=0.00001, alias="nuc-norm", ge=0)
    """The weight of the term on the nuclear norm of each class's images."""
    tau: float = Field(default=4.0, gt=0)


class FullImageNetFlags(SmallFlags):
    """The script of ImageNet-1K."""

    training_momentum: float = Field(default=0.4, alias="training-momentum", ge=0, le=1)
    drop_rate: float = Field(default=0.0, alias="drop-rate", ge=0, le=1)
    tv_l2: float = Field(default=0.0001, alias="tv-l2", ge=0)
    l2_scale: float = Field(default=0.00001, alias="l2-scale", ge=0)


FILE = "data_synthesis_with_svd_with_db_with_all_statistic.py"


def _small(branch: str, *, classes: int, size: int = 32, of_imagenet: bool = False) -> Script:
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if of_imagenet else CIFAR_100  # in the CIFAR-10 branch too
    return Script(f"{branch}/recover/{FILE}", classes, size, mean, std, stem="small", checkpoint="bare")


_PINS = {
    f"Branch_CIFAR_10/recover/{FILE}": "92012f6514dec5741f7d8291b30dd1930f7c01e2",
    "Branch_CIFAR_10/recover/utils.py": "553b91b1235cb84beafdf0f512f7dd57e6bd2598",
    "Branch_CIFAR_10/recover/baseline.py": "51f71e69bde23409ed13990fe598664627bb18a1",
    "Branch_CIFAR_10/recover/networks.py": "c096797238c3678da11ec0c3448b790bcab16146",
    "Branch_CIFAR_10/recover/models": "dd298381ae6d493a4c14920e04e8349b16d021a1",
    f"Branch_CIFAR_100/recover/{FILE}": "7d5a6303963f04e3b8b21fcfa307981261a0067c",
    "Branch_CIFAR_100/recover/utils.py": "553b91b1235cb84beafdf0f512f7dd57e6bd2598",
    "Branch_CIFAR_100/recover/baseline.py": "51f71e69bde23409ed13990fe598664627bb18a1",
    "Branch_CIFAR_100/recover/networks.py": "c096797238c3678da11ec0c3448b790bcab16146",
    "Branch_CIFAR_100/recover/models": "dd298381ae6d493a4c14920e04e8349b16d021a1",
    f"Branch_Tiny_ImageNet/recover/{FILE}": "12c056379e677a51731504dba051d68b6fbfa4a2",
    "Branch_Tiny_ImageNet/recover/utils.py": "16935e7da31bfb3820269cb5ab342ce125fa3d50",
    "Branch_Tiny_ImageNet/recover/baseline.py": "c1adf2b402c2cfd07f1f2239dbc74e571848ce0d",
    "Branch_Tiny_ImageNet/recover/networks.py": "405d52fb740b9cafa32688f91d3509cdaa8ace96",
    "Branch_Tiny_ImageNet/recover/models": "730abd12f567a70cac1ffee3d6d816b93f737794",
    "Branch_Tiny_ImageNet/recover/tiny_in_dataset.py": "f82d29e8f54e48e4f27e522fd75710b9d0ad83d0",
    f"Branch_full_ImageNet_1k/recover/{FILE}": "c493e996dba61b711464d62aff4f588a1e51e1f6",
    "Branch_full_ImageNet_1k/recover/utils.py": "388ecdeaeef83283d3c776c8ca74253d81cb37c4",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class GVBSM(PlannedAdapter):
    """The adapter of G-VBSM, and the plugin that answers its order and start hooks."""

    name = "g-vbsm"
    title = "G-VBSM"
    upstream = Upstream(
        repository="https://github.com/shaoshitong/G_VBSM_Dataset_Condensation",
        commit="1ed80b0ed0bdde206ac61f5b0b9e70f8e8a5d30e",
        paths=tuple(_PINS),
        licence="none",
        packages=("einops", "kornia", "tqdm"),
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        with_own_dataset(
            {
                "cifar-10": _small("Branch_CIFAR_10", classes=10),
                "cifar-100": _small("Branch_CIFAR_100", classes=100),
                "tiny": _small("Branch_Tiny_ImageNet", classes=200, size=64, of_imagenet=True),
                "imagenet": imagenet_script(f"Branch_full_ImageNet_1k/recover/{FILE}", suffix=".jpg"),
            }
        ),
        "stateful",
        carried="the moving averages of its convolutions' statistics, and the count by which networks take turns",
    )
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
            "verifier": "the script never reads it; its verifier only prints",
            "verifier-arch": RESERVED_VERIFIER,
            "gpu-id": _RANKS,
            "world-size": _RANKS,
            "rank": _RANKS,
            "dist-backend": _RANKS,
            "average_grad_ratio": "above 0 the script crashes as published",
        }
    )
    flags = MappingProxyType(
        {"cifar-10": SmallFlags, "cifar-100": SmallFlags, "tiny": SmallFlags, "imagenet": FullImageNetFlags}
    )
    embeddings_are_nonnegative = False
    """Those of EfficientNet, one of the four on ImageNet-1K, have both signs."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        name = recipe.recover.script
        script, found = self.scripts[name], teacher_problems(recipe)
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
            DirePlugError: the script has another number of classes, the Tiny-ImageNet script can't group the images,
                or the ImageNet-1K script can't reshape a batch.
        """
        script = self.scripts[recover.script]
        if classes != script.classes:
            raise DirePlugError(
                f"recover.script: '{recover.script}' makes images of {script.classes} classes, not of {classes}"
            )
        per_class = None if recover.plan == "keep" else recover.plan.per_class
        batch_size = self.read_flags(recover).batch_size
        return build_order(recover.script, script, ipc=ipc, per_class=per_class, batch_size=batch_size)

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return the statistics of the recipe's own teachers: the script makes them where its folder holds none."""
        name = inputs.recipe.recover.script
        wanted = PrepareSection.model_validate(inputs.recipe.prepare).statistics.images
        least = GROUPS if name == "tiny" else 1
        flags = self.flags[name].model_validate({"batch-size": 1, "iteration": 1})
        arguments = [*to_arguments(flags), *_paths(inputs, ipc=least), "--statistic-path", str(inputs.images)]
        served = {"file": str(inputs.folder / TRAINING)}
        shims = {**_shims(inputs, seed=0), "cifar" if name.startswith("cifar") else "image_folder": served}
        return (
            Preparation(
                STATISTICS,
                Invocation(self.scripts[name].path, tuple(arguments), shims),
                key={"images": wanted},
                stop_after_steps=1,
                estimate=f"a pass of {wanted or 'all'} training images through each teacher",
            ),
        )

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
        write_inputs(inputs, script_inputs, TEACHERS[name])

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.png` (ImageNet-1K: `.jpg`).
        """
        recover = inputs.recipe.recover
        arguments = to_arguments(self.read_flags(recover)) + _paths(inputs, ipc=inputs.recipe.ipc)
        arguments += ["--statistic-path", str(inputs.folder / STATISTICS)]
        return Invocation(self.scripts[recover.script].path, tuple(arguments), _shims(inputs, seed=inputs.seed))

    def image_path(self, label: int, image: int) -> str:
        """Return where the scripts save one image; that of ImageNet-1K has its own suffix."""
        return image_path(label, image, ".png")

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, so that it is saved, and the first step of the next batch.

        The answered run goes through the images in another order.
        """
        batch, images = (2, 4) if script == "imagenet" else (4, 20)
        return VerifyCase(
            recover={"script": script, "flags": {"batch-size": batch, "iteration": 2}},
            teachers={"teacher" if not number else name: name for number, name in enumerate(TEACHERS[script])},
            prepare={STATISTICS: {"images": images}},
            ipc=GROUPS if script == "tiny" else 1,
            answered={"start": "real", "plan": {"per_class": 2 if script == "tiny" else 1}},
            answered_ipc=GROUPS if script == "tiny" else 2,
        )

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


def _paths(inputs: LoopInputs, *, ipc: int) -> list[str]:
    """Return the arguments that the tool reserves, but for the statistics' folder."""
    arguments = ["--ipc-number", str(ipc), "--store-best-images", "--gpu-id", "0"]
    arguments += ["--syn-data-path", str(inputs.images.parent), "--exp-name", inputs.images.name]
    if inputs.recipe.recover.script != "imagenet":
        arguments += ["--pre-train-path", str(inputs.folder)]
    return arguments


def _shims(inputs: LoopInputs, *, seed: int) -> dict[str, dict[str, Any]]:
    name = inputs.recipe.recover.script
    shims: dict[str, dict[str, Any]] = {"device": {}, "torch_load": {}, "network": {}, "one_process": {}, "loader": {}}
    if name == "imagenet":
        files = {architecture: inputs.folder / teacher_path(name, architecture) for architecture in TEACHERS[name]}
        return shims | {"hub_weights": {"files": {file.stem: str(file) for file in files.values()}}}
    shims["clock"] = {"seed": seed}
    return shims | ({"prefetch": {}} if name == "tiny" else {})
