"""Write what the scripts of G-VBSM and EDC read: teachers, training images, statistics of these teachers' layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dire_plug.api.method import (
    Flags,
    LoopInputs,
    ScriptInputs,
    write_network,
)

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = "statistics"
"""The name of the preparation, and its folder among the loop's inputs."""
TRAINING = "training.safetensors"
"""The training images among the inputs."""
_OF_CLASS = "class_"
"""How folders of one class's statistics begin, which EDC's scripts divide by the true number of images."""
IMAGES: Mapping[str, int] = MappingProxyType(
    {"cifar-10": 50_000, "cifar-100": 50_000, "tiny": 100_000, "imagenet": 1_281_167}
)
"""Script → the number by which it divides its sums over all training images, whatever their number."""
_FOLDERS: Mapping[str, str] = MappingProxyType(
    {"cifar-10": "CIFAR-10", "cifar-100": "CIFAR-100", "tiny": "Tiny-ImageNet"}
)
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "resnet-18": "ResNet18",
        "convnet-3": "ConvNetW128",
        "mobilenet-v2-gvbsm": "MobileNetV2",
        "wrn-16-2": "WRN_16_2",
        "shufflenet-v2-x0.5": "ShuffleNetV2_0_5",
        "convnet-1": "ConvNetD1",
        "convnet-2": "ConvNetD2",
        "convnet-3-w32": "ConvNetW32",
    }
)
"""Architecture → what the branches for small images call it."""
SMALL = tuple(_NAMES)
"""Those of EDC's CIFAR branches, in their order."""
_SMALL = SMALL[:5]
_FLAT = ("convnet-1", "convnet-2", "convnet-3", "convnet-3-w32")
TEACHERS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "cifar-10": _SMALL,
        "cifar-100": _SMALL,
        "tiny": _SMALL,
        "imagenet": ("resnet-18", "mobilenet-v2", "efficientnet-b0", "shufflenet-v2-x0.5"),
    }
)
"""Script of G-VBSM → the architectures that it builds, in its order."""


class StatisticsSection(Flags):
    """`prepare.statistics`: from which training images the statistics of the convolutions are taken."""

    images: int | None = Field(default=None, ge=1)
    """The number of images, at equal distances in the dataset's order; None takes all, as upstream does."""


class PrepareSection(Flags):
    """A recipe's section `prepare`."""

    statistics: StatisticsSection = StatisticsSection()


def teacher_problems(recipe: Any, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is wrong with a recipe's networks: others than the script builds, in another order, or a head."""
    squeeze = recipe.squeeze
    named = {"squeeze.teacher": squeeze.teacher}
    named |= {f"squeeze.others.{key}": section for key, section in squeeze.others.items()}
    given = tuple(section.architecture for section in named.values())
    if given == tuple(wanted):
        return [
            (f"{key}.head", "the script's ConvNet reads its flattened map; set this to flat")
            for key, section in named.items()
            if section.architecture in _FLAT and section.checkpoint is None and section.head != "flat"
        ]
    listed = f"the script '{recipe.recover.script}' builds {', '.join(wanted)}, in this order"
    return [
        ("squeeze.others", f"{listed}: the first is `squeeze.teacher`, the rest stand here (are {', '.join(given)})")
    ]


def teacher_path(script: str, architecture: str) -> str:
    """Return the file of a teacher below the inputs; ImageNet's has torchvision's name."""
    if script == "imagenet":
        from dire_plug.models.architectures import torchvision_name

        return f"{torchvision_name(architecture)}.pth"
    name = _NAMES[architecture]
    return f"{_FOLDERS[script]}/{name}/squeeze_{name}.pth"


def write_inputs(inputs: LoopInputs, script_inputs: ScriptInputs, architectures: Sequence[str]) -> None:
    """Write the teachers; then the statistics where they are made already, else the images to take them from."""
    from dire_plug.models.upstream_keys import upstream_keys

    script = inputs.recipe.recover.script
    for network, architecture in zip(script_inputs.teachers.values(), architectures, strict=True):
        keys = None if script == "imagenet" else upstream_keys(architecture, "g-vbsm")
        write_network(network, inputs.folder / teacher_path(script, architecture), "bare", keys=keys)
    chosen = choose_images(len(script_inputs.dataset.train), wanted_images(inputs.recipe))
    if STATISTICS in inputs.prepared:
        _write_statistics(inputs.prepared[STATISTICS], inputs.folder / STATISTICS, IMAGES[script] / len(chosen))
    else:
        write_training(inputs.folder / TRAINING, script_inputs.dataset.train, chosen)


def wanted_images(recipe: Any) -> int | None:
    """Return the number of images that a recipe takes statistics from; None: all."""
    return PrepareSection.model_validate(recipe.prepare).statistics.images


def choose_images(available: int, wanted: int | None) -> Tensor:
    """Return the indices of the images that statistics are taken from: all, or `wanted` at equal distances."""
    import torch

    if wanted is None or wanted >= available:
        return torch.arange(available)
    return torch.arange(wanted) * available // wanted


def write_training(path: Path, split: Any, chosen: Tensor) -> None:
    """Write training images for the shims `cifar` and `image_folder`; of a split of files, their paths alone."""
    from safetensors.torch import save_file

    labels = split.labels[chosen].contiguous()
    if (files := getattr(split, "files", None)) is not None:
        paths = [str(Path(files[index].path).absolute()) for index in chosen.tolist()]
        save_file({"train.labels": labels}, path, metadata={"paths": json.dumps(paths)})
        return
    images = split.images(chosen).cpu().contiguous()
    tensors = {"train.images": images, "train.labels": labels}
    save_file({**tensors, "test.images": images[:1].clone(), "test.labels": labels[:1].clone()}, path)


def _write_statistics(made: Path, folder: Path, factor: float) -> None:
    """Write what the preparation made, multiplied by `factor`: a mean over as many images as there were.

    Every array is a sum over images divided by upstream's number of them; `factor` is 1 on the whole dataset.
    Statistics of one class are true means already: their folders are linked.
    """
    import numpy as np

    for of_class in made.glob(f"*/{_OF_CLASS}*"):
        link = folder / of_class.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(of_class.absolute(), target_is_directory=True)
    for file in made.rglob("*.npz"):
        if any(part.startswith(_OF_CLASS) for part in file.relative_to(made).parts):
            continue
        with np.load(file) as arrays:
            values = {
                name: array if factor == 1 else array * array.dtype.type(factor) for name, array in arrays.items()
            }
        target = folder / file.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(target, **values)
