"""Use the job's device instead of every CUDA device that a script names.

Needed where the device is the CPU: SRe2L `recover_cifar.py` 61, 64, 72, 182, `recover_tiny.py` 32, 35, 43, 103,
`recover/data_synthesis.py` 37, 40, 49, 207; CDA, DWA, INFER and DELT alike; G-VBSM with numbers (CIFAR 36, 37, 42, 89,
115, 124, `utils.py` 156-159: `set_device(0)`, `.cuda(0)`, `f"cuda:{0}"`). On a CUDA device nothing is replaced: the
child sees one device only.
`nn.DataParallel` needs no shim: where it finds no device, it calls its module, and keeps the `module.` in its keys.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ANSWERS: Mapping[str, Any] = MappingProxyType(
    {"current_device": 0, "get_device_name": "cpu", "mem_get_info": (0, 0), "memory_summary": ""}
)
"""Function of `torch.cuda` that raises without a device → what it says of none; the counters say 0 by themselves."""
ORDERS = ("init", "ipc_collect", "synchronize")
"""Functions that tell a device to do something, beside `set_…` and `reset_…`: they do nothing."""


def install(*, device: str) -> None:
    """Send `.cuda()`, `.to("cuda")` and `device="cuda"` of this thread to `device`; `torch.cuda` raises no more."""
    if torch.device(device).type == "cuda":
        return

    def cuda(self: nn.Module, index: object = None) -> nn.Module:
        return self.to(device)

    setattr(nn.Module, "cuda", cuda)  # noqa: B010 (mypy refuses the assignment)
    # no functions of tensors, so the mode below doesn't reach them
    orders = [name for name in torch.cuda.__all__ if name.startswith(("set_", "reset_")) or name in ORDERS]
    for name, answer in {**dict.fromkeys(orders), **ANSWERS}.items():
        setattr(torch.cuda, name, functools.partial(_answer, answer))
    # `with torch.cuda.device(0):`
    torch.cuda.device = contextlib.nullcontext  # type: ignore[assignment,misc]
    mode = OtherDevice(torch.device(device))
    # never left: the child ends with the script
    mode.__enter__()  # type: ignore[no-untyped-call]


def _answer(answer: Any, *args: object, **kwargs: object) -> Any:
    return answer


class OtherDevice(TorchFunctionMode):
    """Replaces CUDA devices among the arguments of torch's functions."""

    def __init__(self, device: torch.device) -> None:
        """Take the device; `with` or `__enter__` turns the mode on for the current thread."""
        super().__init__()
        self.device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` with the arguments replaced; `Tensor.cuda` becomes `Tensor.to`, and nothing is pinned."""
        if func is Tensor.cuda:
            return args[0].to(self.device)
        if func is Tensor.pin_memory:
            return args[0]
        if func is torch.device:  # only names a device; it is replaced where it is used
            return func(*args, **(kwargs or {}))
        options = {name: self._replace(value) for name, value in (kwargs or {}).items()}
        return func(*map(self._replace, args), **options)

    def _replace(self, value: Any) -> Any:
        is_cuda = (isinstance(value, str) and value.partition(":")[0] == "cuda") or (
            isinstance(value, torch.device) and value.type == "cuda"
        )
        return self.device if is_cuda else value
