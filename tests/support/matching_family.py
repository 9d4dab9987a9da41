"""What tests of MTT and DM share: inputs, options, generated images."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dire_plug.data.dataset import Dataset, make_tensor_dataset
from dire_plug.errors import DirePlugError
from dire_plug.methods.dm import DM
from dire_plug.methods.mtt import MTT, parameter_shapes
from dire_plug.recipe import check_recipe, read_yaml
from dire_plug.recipe.loading import merge
from dire_plug.recipe.model import RecoverSection
from dire_plug.types import LoopInputs


def recover(script: str = "cifar-10", **values: Any) -> RecoverSection:
    flags = values.pop("flags", {})
    return RecoverSection(script=script, flags=flags, **{"start": "real", **values})


def inputs_of(section: RecoverSection, folder: Path = Path("/run"), *, ipc: int = 10, **more: Any) -> LoopInputs:
    recipe = SimpleNamespace(recover=section, ipc=ipc, prepare=more.pop("prepare", {}))
    return LoopInputs(recipe, 10, 32, seed=7, folder=folder / "inputs", images=folder / "images", **more)


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    return {flag: "" if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


def generated(size: int = 32, classes: int = 10) -> Dataset:
    pixels, labels = torch.zeros(classes, 3, size, size, dtype=torch.uint8), torch.arange(classes)
    names = [f"class {label}" for label in range(classes)]
    return make_tensor_dataset("generated", train=(pixels, labels), test=(pixels, labels), classes=names)


def problems_of(adapter: MTT | DM, **changes: Any) -> list[str]:
    """Return the lines of the error that the adapter's quick recipe with changes (a__b=value) raises."""
    tree: dict[str, Any] = read_yaml(adapter.recipes() / "quick.yaml")
    for key, value in changes.items():
        for part in reversed(key.split("__")):
            value = {part: value}
        tree = merge(tree, value)
    with pytest.raises(DirePlugError) as caught:
        check_recipe(tree, adapter=adapter)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


DM_TINY = {
    "dataset.limit": 80,
    "ipc": 1,
    "squeeze.teacher.epochs": 1,
    "squeeze.independent.epochs": 1,
    "recover.flags.Iteration": 2,
    "recover.flags.batch_real": 2,
    "evaluate.epochs": 2,
}


MTT_TINY = {
    "dataset.limit": 80,
    "ipc": 2,
    "squeeze.teacher.epochs": 1,
    "squeeze.independent.epochs": 1,
    "prepare.experts": 1,
    "prepare.epochs": 2,
    "recover.flags.Iteration": 1,
    "recover.flags.syn_steps": 1,
    "recover.flags.max_start_epoch": 2,
    "evaluate.epochs": 2,
}


def write_experts(folder: Path, *, classes: int = 10, snapshots: int = 3, **said: Any) -> Path:
    """Write one expert of ConvNetW32 and what it was trained on."""
    folder.mkdir(parents=True)
    weights = [torch.zeros(shape) for shape in parameter_shapes("ConvNetW32", classes)]
    torch.save([[weights] * snapshots], folder / "replay_buffer_0.pt")
    known = {"dataset": "generated", "zca": False, "model": "ConvNetW32"}
    (folder / "experts.json").write_text(json.dumps(known | said))
    return folder
