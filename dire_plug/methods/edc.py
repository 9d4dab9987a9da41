"""EDC: the recover scripts of its CIFAR branches, by G-VBSM's author and with its turns of several networks.

Statistics are matched with those of the batch's classes, too, and images start from real ones: the script itself draws
them from all training images. With `flatness` the current images are also held to their moving average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import Field

from dire_plug.api.method import (
    CIFAR_100,
    RESERVED_UNREAD,
    DirePlugError,
    Invocation,
    LoopInputs,
    Preparation,
    Script,
    ScriptInputs,
    Upstream,
    VerifyCase,
    with_own_dataset,
    with_slots,
)
from dire_plug.methods.gvbsm_family import TurnFlags, TurnsAdapter, call_arguments, common_shims, small_script
from dire_plug.methods.gvbsm_inputs import SMALL, STATISTICS, TRAINING, choose_images, wanted_images, write_training


class EdcFlags(TurnFlags):
    """`recover/recover.py` of both branches."""

    flatness: bool = False
    """Whether a step also compares its outputs with those for the images' moving average; no published command does."""
    flatness_weight: float = Field(default=1.0, alias="flatness-weight", ge=0)
    ema_alpha: float = Field(default=0.99, alias="ema_alpha", ge=0, le=1)
    """What the moving average keeps of itself in a step."""


_PINS = {
    "Branch_CIFAR_10/recover/recover.py": "fe96777e603964d4c625b7f1c361e5a2bbcf282f",
    "Branch_CIFAR_10/recover/utils.py": "e5724b033e0f480b3a328d713303c93ada883c42",
    "Branch_CIFAR_10/recover/baseline.py": "51f71e69bde23409ed13990fe598664627bb18a1",
    "Branch_CIFAR_10/recover/networks.py": "c096797238c3678da11ec0c3448b790bcab16146",
    "Branch_CIFAR_10/recover/models": "d4f2cf798f59b61a75c51083553ef9247e63201c",
    "Branch_CIFAR_100/recover/recover.py": "d38b61a37d9ef51794dccc5391393698191b9f7f",
    "Branch_CIFAR_100/recover/utils.py": "588693756c982cf49d55d8f86d6cca41ac91a9a9",
    "Branch_CIFAR_100/recover/baseline.py": "51f71e69bde23409ed13990fe598664627bb18a1",
    "Branch_CIFAR_100/recover/networks.py": "c096797238c3678da11ec0c3448b790bcab16146",
    "Branch_CIFAR_100/recover/models": "dd298381ae6d493a4c14920e04e8349b16d021a1",
}
"""Path to fetch → git's hash of it at the pinned commit."""
_RECOVER = "Branch_CIFAR_{}/recover/recover.py"


class EDC(TurnsAdapter):
    """The adapter of EDC, and the plugin that answers its order and start hooks."""

    name = "edc"
    title = "EDC"
    upstream = Upstream(
        repository="https://github.com/shaoshitong/EDC",
        commit="80116a79ebaeae14e0f9d7517c5b193efa26c059",
        paths=tuple(_PINS),
        licence="none",
        packages=("einops", "kornia", "tqdm"),
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        with_own_dataset(
            {
                "cifar-10": small_script(_RECOVER.format(10), classes=10, statistics=CIFAR_100, suffix=".jpg"),
                "cifar-100": small_script(_RECOVER.format(100), classes=100, statistics=CIFAR_100),
            }
        ),
        "stateful",
        carried="the moving averages of its layers' statistics, and the count by which networks take turns",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **TurnsAdapter.reserved_flags,
            **dict.fromkeys(("jitter", "nuc-norm", "tau"), RESERVED_UNREAD),
            "initial-img-dir": "set `recover.start` to own, real or rded",
            "category-aware": "statistics of classes, `global`, are the method as its commands run it",
        }
    )
    flags = MappingProxyType(dict.fromkeys(scripts, EdcFlags))
    networks = MappingProxyType(dict.fromkeys(scripts, SMALL))
    embeddings_are_nonnegative = True

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return the family's problems, and a start from noise."""
        found = super().problems(recipe, classes=classes)
        if recipe.recover.start == "noise":
            found.append(("recover.start", "must be 'own', 'real' or 'rded': the script starts from real images alone"))
        return found

    def check_dataset(self, recipe: Any, dataset: Any) -> None:
        """Raise where the images that statistics are taken of, of which a start is drawn, lack a class.

        Raises:
            DirePlugError: they do.
        """
        chosen = choose_images(len(dataset.train), wanted_images(recipe))
        if len(dataset.train.labels[chosen].unique()) < len(dataset.classes):
            raise DirePlugError(f"prepare.statistics.images: {len(chosen)} images hold none of some class; take more")

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return the statistics of the teachers, made without a step: the script crashes at its first after them."""
        wanted = wanted_images(inputs.recipe)
        arguments = [*call_arguments(inputs, ipc=1), "--statistic-path", str(inputs.images), "--iteration", "0"]
        shims = {**self.shims(inputs, seed=0), "cifar": {"file": str(inputs.folder / TRAINING)}}
        call = Invocation(self.scripts[inputs.recipe.recover.script].path, tuple(arguments), shims)
        said = f"a pass of {wanted or 'all'} training images through each teacher"
        return (Preparation(STATISTICS, call, key={"images": wanted}, estimate=said),)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write what the family's scripts read, and the images among which the script draws its start.

        Raises:
            DirePlugError: the images haven't the size that the script hard-codes.
        """
        super().write_inputs(inputs, script_inputs)
        train = script_inputs.dataset.train
        chosen = choose_images(len(train), wanted_images(inputs.recipe))
        if STATISTICS in inputs.prepared:
            # where the tool gives the start, what the script draws is thrown away: any image of each class will do
            read = choose_images(len(train), None) if inputs.recipe.recover.start == "own" else chosen
            write_training(inputs.folder / TRAINING, train, read)

    def shims(self, inputs: LoopInputs, *, seed: int) -> dict[str, dict[str, Any]]:
        """Return the shims that a script needs; `seed` is the loop's."""
        images = {"file": str(inputs.folder / TRAINING), "classes": inputs.classes}
        return {**common_shims(), "clock": {"seed": seed}, "whole_floats": {}, "image_folder": images}

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, so that it is saved, and the first step of the next batch."""
        flags = {"batch-size": 4, "iteration": 2, "flatness": True}
        return VerifyCase(
            recover={"script": script, "start": "own", "flags": flags},
            teachers=self.teachers_to_verify(script),
            answered={"start": "real", "plan": {"per_class": 1}},
        )
