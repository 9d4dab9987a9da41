"""MTT's experts: where they lie, how large they get, and whether a given folder holds those that a recipe needs.

Upstream keeps ten experts a file, `replay_buffer_N.pt`; an expert is a list of snapshots, one before its first epoch
and one after each, and a snapshot the list of the network's parameters. Nothing in a file says what it was trained on,
so `experts.json` beside it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dire_plug.api.method import (
    DirePlugError,
)
from dire_plug.files import make_folder, read_json, write_json
from dire_plug.methods.matching_family import DATASETS, SIZE
from dire_plug.methods.mtt import MTTFlags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

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
MOST_IN_A_FILE = 10
SECONDS = {"ConvNet": 1.1e-2, "ConvNetD3": 1.1e-2, "ConvNetW32": 1.5e-3, "ConvNetW64": 3.5e-3}
"""Of one training image in one epoch, on one thread: measured on a busy CPU, for the estimate alone."""


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
    """Say how much disk and time the experts take; the time on one thread, where the number of images is known."""
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
    """Say what is wrong with a folder of experts as its files and its label tell; None where nothing is."""
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
