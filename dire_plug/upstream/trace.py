"""Trace a script, patched or not: the loss of every optimiser step, and every optimised tensor after it."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

TRACE, TENSORS = "trace.jsonl", "tensors"
"""In the folder of a traced run: its steps, and the folder with a file of tensors for each."""


class StopScriptError(BaseException):
    """Ends a script after its last wanted step; no `except Exception` of upstream's catches it."""


@contextlib.contextmanager
def trace_steps(path: Path | None, *, stop_after: int | None) -> Iterator[None]:
    """Trace every optimiser of this process, and stop the script, while the block runs.

    Args:
        path: the file that gets a JSON line a step, {"step": from 0, "loss": what `backward` was last called of,
            "tensors": [sha256, …]}, the tensors in the order of the parameter groups; the tensors themselves go into
            the folder `TENSORS` beside it. None writes nothing.
        stop_after: the number of steps after which `StopScriptError` is raised inside the script; None never does.
    """
    with contextlib.ExitStack() as stack:
        hook = _StepHook(None, None, stop_after)
        if path:
            (folder := path.with_name(TENSORS)).mkdir(exist_ok=True)
            hook = _StepHook(stack.enter_context(path.open("w", encoding="utf-8", buffering=1)), folder, stop_after)
            backward = Tensor.backward
            setattr(Tensor, "backward", hook.noting(backward))  # noqa: B010 (mypy lets no method be replaced)
            stack.callback(setattr, Tensor, "backward", backward)
        stack.callback(register_optimizer_step_post_hook(hook).remove)
        yield


class _StepHook:
    def __init__(self, file: IO[str] | None, folder: Path | None, stop_after: int | None) -> None:
        self._file, self._folder = file, folder
        self._stop_after = stop_after
        self._step = 0
        self._loss: float | None = None

    def noting(self, backward: Any) -> Any:
        """Return `Tensor.backward` that keeps the value of a scalar that it is called of."""

        @functools.wraps(backward)
        def noted(loss: Tensor, *args: Any, **kwargs: Any) -> Any:
            if loss.numel() == 1:
                self._loss = float(loss.detach())
            return backward(loss, *args, **kwargs)

        return noted

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._file and self._folder:
            tensors = [tensor.detach() for group in optimizer.param_groups for tensor in group["params"]]
            line = {"step": self._step, "loss": self._loss, "tensors": [hash_tensor(one) for one in tensors]}
            self._file.write(json.dumps(line) + "\n")
            kept = {str(number): one.cpu().clone().contiguous() for number, one in enumerate(tensors)}
            save_file(kept, self._folder / f"{self._step:04d}.safetensors")
        self._step += 1
        if self._step == self._stop_after:
            raise StopScriptError


def hash_tensor(tensor: Tensor) -> str:
    """Return the sha256, in hex, of a tensor's dtype, shape and bytes."""
    values = tensor.detach().cpu().contiguous()
    # two tensors of the same bytes and another shape are not the same
    described = f"{values.dtype} {tuple(values.shape)} ".encode()
    return hashlib.sha256(described + values.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
