"""Finished passes on disk: what a resumed run goes on from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically

STATE = "state/"


def pass_file(folder: str | Path, pass_index: int) -> Path:
    """Return the file of one finished pass."""
    return Path(folder) / f"pass-{pass_index:03d}.safetensors"


def finished_passes(folder: str | Path, passes: int) -> int:
    """Return how many passes, from the first, are finished without a gap."""
    return next((index for index in range(passes) if not pass_file(folder, index).is_file()), passes)


def save_pass(
    folder: str | Path,
    pass_index: int,
    *,
    images: Tensor,
    labels: Tensor,
    index: Tensor,
    state: dict[str, dict[str, Tensor]],
) -> None:
    """Write a finished pass atomically.

    Args:
        images: [N, 3, H, W], normalised.
        labels, index: [N]: the class of each image, and which image of the class it is.
        state: plugin → the tensors that it keeps.
    """
    tensors = {"images": images, "labels": labels, "index": index}
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


def collect(folder: str | Path, passes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images [N, 3, H, W] (normalised), labels and image numbers [N] of all passes, by class, then image."""
    read = [_read(pass_file(folder, index)) for index in range(passes)]
    images, labels, index = (torch.cat([one[key] for one in read]) for key in ("images", "labels", "index"))
    order = torch.argsort(labels * (int(index.max()) + 1) + index)
    return images[order], labels[order], index[order]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise DirePlugError(f"{path}: a finished pass cannot be read ({error}); remove it to run it again") from error
