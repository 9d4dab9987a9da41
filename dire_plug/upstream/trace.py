"""Trace a script, patched or not: the hash of every optimised tensor after every optimiser step."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook


class StopScriptError(BaseException):
    """Ends a script after its last wanted step; no `except Exception` of upstream's catches it."""


@contextlib.contextmanager
def trace_steps(path: Path | None, *, stop_after: int | None) -> Iterator[None]:
    """Trace every optimiser of this process, and stop the script, while the block runs.

    Args:
        path: the file that gets a JSON line a step, {"step": from 0, "tensors": [sha256, …]} in the order of the
            parameter groups; None writes nothing.
        stop_after: the number of steps after which `StopScriptError` is raised inside the script; None never does.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("w", encoding="utf-8", buffering=1)) if path else None
        handle = register_optimizer_step_post_hook(_StepHook(file, stop_after))
        stack.callback(handle.remove)
        yield


class _StepHook:
    def __init__(self, file: IO[str] | None, stop_after: int | None) -> None:
        self._file = file
        self._stop_after = stop_after
        self._step = 0

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._file:
            hashes = [hash_tensor(tensor) for group in optimizer.param_groups for tensor in group["params"]]
            self._file.write(json.dumps({"step": self._step, "tensors": hashes}) + "\n")
        self._step += 1
        if self._step == self._stop_after:
            raise StopScriptError


def hash_tensor(tensor: Tensor) -> str:
    """Return the sha256, in hex, of a tensor's dtype, shape and bytes."""
    values = tensor.detach().cpu().contiguous()
    # two tensors of the same bytes and another shape are not the same
    described = f"{values.dtype} {tuple(values.shape)} ".encode()
    return hashlib.sha256(described + values.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
