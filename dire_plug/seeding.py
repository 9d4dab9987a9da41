"""Make what is computed repeat: derive seeds, keep random states, choose deterministic kernels."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CUBLAS_WORKSPACE = ":4096:8"
"""The value of CUBLAS_WORKSPACE_CONFIG with which cuBLAS is deterministic."""


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


def choose_deterministic_kernels() -> None:
    """Let torch use deterministic kernels where there are such, and warn where there is none."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (it costs time)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Use deterministic kernels on a GPU while the block runs, as a child of upstream's code does; then what was set.

    On the CPU nothing is set: its kernels repeat themselves with as many threads.
    """
    if device == "cpu":
        yield
        return
    import torch

    # read by cuBLAS when it makes its first handle
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = getattr(torch.utils.deterministic, "fill_uninitialized_memory")  # noqa: B009 (torch doesn't declare it)
    benchmark = torch.backends.cudnn.benchmark
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        choose_deterministic_kernels()
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            setattr(torch.utils.deterministic, "fill_uninitialized_memory", filling)  # noqa: B010
            torch.backends.cudnn.benchmark = benchmark
