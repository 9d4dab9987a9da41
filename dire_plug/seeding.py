"""Derive every seed from one, by the name of its use; take the random state of the process, and put it back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def derive(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2³¹) that is a function of `seed` and `names` alone."""
    content = "/".join(map(str, (seed, *names))).encode()
    # numpy's seeds end at 2³² − 1; 31 bits fit a signed integer too
    return int.from_bytes(hashlib.sha256(content).digest()[:4]) >> 1


def seed_everything(seed: int, pass_index: int, *, batch: int | None = None) -> None:
    """Seed Python, NumPy and torch before a pass, patched or not, in either engine: upstream never seeds.

    Args:
        batch: the one of the pass that begins, where each is seeded by itself.
    """
    import numpy
    import torch

    value = derive(seed, "pass", pass_index, *(() if batch is None else ("batch", batch)))
    random.seed(value)
    numpy.random.seed(value)
    torch.manual_seed(value)


def take_random_state(device: str) -> dict[str, Tensor]:
    """Return the state of the generators of Python, NumPy and torch, on the CPU and on `device`."""
    import numpy
    import torch

    _, words, normal = random.getstate()
    legacy = numpy.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        # a second normal number that is drawn already; none there is not a number here
        "python normal": torch.tensor(float("nan") if normal is None else normal, dtype=torch.float64),
        "numpy": torch.from_numpy(legacy["state"]["key"].astype("int64")),
        "numpy position": torch.tensor([legacy["state"]["pos"], legacy["has_gauss"]], dtype=torch.int64),
        "numpy normal": torch.tensor(legacy["gauss"], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def put_back_random_state(state: Mapping[str, Tensor], device: str) -> None:
    """Set the generators to a state that `take_random_state` returned on a device of the same kind."""
    import numpy
    import torch

    normal = float(state["python normal"])
    random.setstate((3, tuple(state["python"].tolist()), None if normal != normal else normal))
    position, has_normal = state["numpy position"].tolist()
    words = state["numpy"].numpy().astype("uint32")
    numpy.random.set_state(("MT19937", words, position, has_normal, float(state["numpy normal"])))
    torch.set_rng_state(state["torch"])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(state["cuda"], device)
