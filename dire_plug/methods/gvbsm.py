"""G-VBSM: the recover scripts of its four branches, CIFAR-10, CIFAR-100, Tiny-ImageNet and ImageNet-1K.

The labels that they hold stay as they are: the nuclear-norm term reads them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import Field

from dire_plug.api.method import (
    CIFAR_100,
    IMAGENET_MEAN,
    IMAGENET_STD,
    DirePlugError,
    Invocation,
    ListedPlan,
    LoopInputs,
    Preparation,
    Script,
    Upstream,
    VerifyCase,
    imagenet_script,
    to_arguments,
    with_own_dataset,
    with_slots,
)
from dire_plug.methods.gvbsm_family import TurnFlags, TurnsAdapter, call_arguments, common_shims, small_script
from dire_plug.methods.gvbsm_inputs import STATISTICS, TEACHERS, TRAINING, teacher_path, wanted_images

GROUPS = 10
"""The Tiny-ImageNet script splits the images of a class into so many groups, one after the other."""


class SmallFlags(TurnFlags):
    """The flags of the CIFAR branches' scripts and of Tiny-ImageNet's; they ignore `tv-l2` and `l2-scale`."""

    jitter: int = Field(default=32, ge=0)
    """The largest shift, in pixels."""
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
    statistics = (IMAGENET_MEAN, IMAGENET_STD) if of_imagenet else CIFAR_100  # in the CIFAR-10 branch too
    return small_script(f"{branch}/recover/{FILE}", classes=classes, size=size, statistics=statistics)


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


class GVBSM(TurnsAdapter):
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
            **TurnsAdapter.reserved_flags,
            "verifier": "the script never reads it; its verifier only prints",
            "average_grad_ratio": "above 0 the script crashes as published",
        }
    )
    flags = MappingProxyType(
        {"cifar-10": SmallFlags, "cifar-100": SmallFlags, "tiny": SmallFlags, "imagenet": FullImageNetFlags}
    )
    networks = TEACHERS
    embeddings_are_nonnegative = False
    """Those of EfficientNet, one of the four on ImageNet-1K, have both signs."""

    def build_order(self, name: str, *, ipc: int, per_class: int | None, batch_size: int) -> ListedPlan:
        """Return the plan of one script; upstream's own order on Tiny-ImageNet is the tenth part of a class at a time.

        Raises:
            DirePlugError: the Tiny-ImageNet script can't group the images, or the ImageNet-1K script can't reshape a
                batch.
        """
        if name == "tiny" and ipc > 0:
            if ipc % GROUPS:
                below, above = ipc // GROUPS * GROUPS, (ipc // GROUPS + 1) * GROUPS
                raise DirePlugError(
                    f"ipc: the script 'tiny' splits the images of a class into {GROUPS} groups, so IPC must be a "
                    f"multiple of {GROUPS}: {f'{below} or {above}' if below else above} (is {ipc})"
                )
            # its loop over groups is outside of that over classes
            per_class = per_class or ipc // GROUPS
        plan = super().build_order(name, ipc=ipc, per_class=per_class, batch_size=batch_size)
        if name == "imagenet":
            _check_reshape(plan, self.scripts[name], batch_size)
        return plan

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return the statistics of the recipe's own teachers: the script makes them where its folder holds none."""
        name = inputs.recipe.recover.script
        wanted = wanted_images(inputs.recipe)
        least = GROUPS if name == "tiny" else 1
        flags = self.flags[name].model_validate({"batch-size": 1, "iteration": 1})
        arguments = [*to_arguments(flags), *call_arguments(inputs, ipc=least), "--statistic-path", str(inputs.images)]
        served = {"file": str(inputs.folder / TRAINING)}
        shims = {**self.shims(inputs, seed=0), "cifar" if name.startswith("cifar") else "image_folder": served}
        return (
            Preparation(
                STATISTICS,
                Invocation(self.scripts[name].path, tuple(arguments), shims),
                key={"images": wanted},
                stop_after_steps=1,
                estimate=f"a pass of {wanted or 'all'} training images through each teacher",
            ),
        )

    def shims(self, inputs: LoopInputs, *, seed: int) -> dict[str, dict[str, Any]]:
        """Return the shims that a script needs; `seed` is the loop's."""
        name, shims = inputs.recipe.recover.script, common_shims()
        if name == "imagenet":
            files = {architecture: inputs.folder / teacher_path(name, architecture) for architecture in TEACHERS[name]}
            return shims | {"hub_weights": {"files": {file.stem: str(file) for file in files.values()}}}
        shims["clock"] = {"seed": seed}
        return shims | ({"prefetch": {}} if name == "tiny" else {})

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, so that it is saved, and the first step of the next batch.

        The answered run goes through the images in another order.
        """
        batch, images = (2, 4) if script == "imagenet" else (4, 20)
        return VerifyCase(
            recover={"script": script, "flags": {"batch-size": batch, "iteration": 2}},
            teachers=self.teachers_to_verify(script),
            prepare={STATISTICS: {"images": images}},
            ipc=GROUPS if script == "tiny" else 1,
            answered={"start": "real", "plan": {"per_class": 2 if script == "tiny" else 1}},
            answered_ipc=GROUPS if script == "tiny" else 2,
        )


def _check_reshape(plan: ListedPlan, script: Script, batch_size: int) -> None:
    images = len(plan.slots[-1].labels)
    if images * 3 * script.size**2 % batch_size:
        raise DirePlugError(
            f"recover.flags.batch-size: the ImageNet-1K script reshapes its images by --batch-size {batch_size}, which "
            f"the last batch, of {images} images, can't be; take a divisor of {plan.ipc * script.classes}"
        )
