"""Trace a script, patched or not: the loss of every optimiser step, and every optimised tensor after it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import operator
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from dire_plug.synthesis.weighting import leaves_of

TRACE, TENSORS = "trace.jsonl", "tensors"
"""In the folder of a traced run: its steps, and the folder with a file of tensors for each."""


class StopScriptError(BaseException):
    """Ends a script after its last wanted step; no `except Exception` of upstream's catches it."""


class ByHand(Optimizer):
    """Stands for a script's own update rule: it makes a step, for torch's hooks, whenever the gradient is known.

    That is before the script moves its tensors; at the learning rate 0 it gets a gradient of zeros.
    """

    def __init__(self, tree: Path, names: Sequence[str]) -> None:
        """Name the script's variables, or attributes of variables, that hold what it optimises; `tree` is its own."""
        super().__init__([torch.zeros(())], {"lr": 1.0})
        self._below = os.path.realpath(tree) + os.sep
        self._names, self._within = names, False

    def find(self) -> list[Tensor]:
        """Return the tensors by those names in the innermost running function of the script; none where it has none."""
        frame = sys._getframe(1)
        while frame := frame.f_back:  # type: ignore[assignment]
            if self._is_script(frame.f_code.co_filename):
                with contextlib.suppress(KeyError, AttributeError):
                    return [self._read({**frame.f_globals, **frame.f_locals}, name) for name in self._names]
        return []

    def _is_script(self, file: str) -> bool:
        return os.path.realpath(file).startswith(self._below)

    def _read(self, variables: dict[str, Any], name: str) -> Any:
        first, _, rest = name.partition(".")
        return operator.attrgetter(rest)(variables[first]) if rest else variables[first]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Make a step after each `backward` and each `autograd.grad` of the script's that reaches the tensors."""
        backward, grad = Tensor.backward, torch.autograd.grad

        @functools.wraps(backward)
        def noted(loss: Tensor, *args: Any, **kwargs: Any) -> Any:
            # a mode of torch's, such as the shim of devices, calls it a second time from within
            tensors = [] if self._within else self.find()
            reached = any(leaf is one for leaf in leaves_of(loss) for one in tensors)
            was, self._within = self._within, True
            try:
                answer = backward(loss, *args, **kwargs)  # type: ignore[no-untyped-call]
            finally:
                self._within = was
            if reached:
                self._step_of(tensors)
            return answer

        @functools.wraps(grad)
        def returned(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            answer = grad(outputs, inputs, *args, **kwargs)
            tensors = self.find() if self._is_script(sys._getframe(1).f_code.co_filename) else []
            asked = [inputs] if isinstance(inputs, Tensor) else inputs
            found = {id(one): value for one, value in zip(asked, answer, strict=True) if value is not None}
            if any(id(one) in found for one in tensors):
                kept = [one.grad for one in tensors]
                for one in tensors:
                    one.grad = found[id(one)].detach() if id(one) in found else None
                self._step_of(tensors)
                for one, before in zip(tensors, kept, strict=True):
                    one.grad = before
            return answer

        setattr(Tensor, "backward", noted)  # noqa: B010 (mypy lets no method be replaced)
        torch.autograd.grad = returned
        try:
            yield
        finally:
            setattr(Tensor, "backward", backward)  # noqa: B010
            torch.autograd.grad = grad

    def _step_of(self, tensors: list[Tensor]) -> None:
        self.param_groups[0]["params"] = tensors
        self.step()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Leave the tensors to the script, but at the learning rate 0 without a gradient."""
        for group in self.param_groups:
            for tensor in group["params"] if group["lr"] == 0 else []:
                if tensor.grad is not None:
                    tensor.grad.detach().zero_()


@contextlib.contextmanager
def trace_steps(path: Path | None, *, stop_after: int | None, by_hand: ByHand | None = None) -> Iterator[None]:
    """Trace every optimiser of this process, and stop the script, while the block runs.

    Args:
        path: the file that gets a JSON line a step, {"step": from 0, "loss": what `backward` was last called of,
            "tensors": [sha256, …]}, the tensors in the order of the parameter groups; the tensors themselves go into
            the folder `TENSORS` beside it. None writes nothing.
        stop_after: the number of steps after which `StopScriptError` is raised inside the script; None never does.
        by_hand: counts as an optimiser, too; its tensors are those before the update.
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
        if by_hand:
            stack.enter_context(by_hand.watching())
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

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
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
