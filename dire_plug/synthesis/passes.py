"""Finished passes on disk: what a resumed run goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.types import Slot

STATE = "state/"


def pass_file(folder: str | Path, pass_index: int) -> Path:
    """Return the file of one finished pass: what plugins keep. The images of its slots lie beside it."""
    return Path(folder) / f"pass-{pass_index:03d}.safetensors"


def slot_file(folder: str | Path, slot: Slot) -> Path:
    """Return the file of one finished slot; it counts when its pass is finished."""
    return Path(folder) / f"pass-{slot.pass_index:03d}-batch-{slot.batch_index:04d}.safetensors"


def save_slot(folder: str | Path, slot: Slot, *, images: Tensor, labels: Tensor, index: Tensor) -> None:
    """Write the images of a finished slot atomically.

    Args:
        images: [N, 3, H, W], in the loop's own space.
        labels, index: [N]: the class of each image, and which image of the class it is.
    """
    tensors = {"images": images.contiguous(), "labels": labels, "index": index}
    write_atomically(slot_file(folder, slot), save(tensors))


def save_pass(folder: str | Path, pass_index: int, state: dict[str, dict[str, Tensor]]) -> None:
    """Write atomically that a pass is finished, and what plugins keep: plugin → name → tensor."""
    tensors = {"pass": torch.tensor(pass_index)}
    for plugin, kept in state.items():
        tensors |= {f"{STATE}{plugin}/{name}": tensor.detach().cpu() for name, tensor in kept.items()}
    write_atomically(pass_file(folder, pass_index), save({name: t.contiguous() for name, t in tensors.items()}))


def load_state(folder: str | Path, pass_index: int, device: str) -> dict[str, dict[str, Tensor]]:
    """Return what plugins kept after a pass; nothing before the first.

    Raises:
        DirePlugError: that pass isn't finished, or its file is damaged.
    """
    if pass_index < 0:
        return {}
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read(pass_file(folder, pass_index)).items():
        if name.startswith(STATE):
            plugin, _, key = name.removeprefix(STATE).partition("/")
            state.setdefault(plugin, {})[key] = tensor.to(device)
    return state


def collect(folders: Mapping[int, Path]) -> tuple[Tensor, Tensor, Tensor]:
    """Return images [N, 3, H, W] (in the loop's space), labels and image numbers [N] of passes, by class.

    Args:
        folders: number of a pass → the folder that holds it.
    """
    files = (sorted(folder.glob(f"pass-{index:03d}-batch-*.safetensors")) for index, folder in folders.items())
    read = [_read(file) for of_pass in files for file in of_pass]
    images, labels, index = (torch.cat([one[key] for one in read]) for key in ("images", "labels", "index"))
    order = torch.argsort(labels * (int(index.max()) + 1) + index)
    return images[order], labels[order], index[order]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise DirePlugError(f"{path}: a finished pass cannot be read ({error}); remove it to run it again") from error
