"""A pretended accelerator: a torch device of its own whose memory is the CPU's, to run code "on a GPU" without one.

Values are real, so code that depends on data runs. What CUDA would refuse is refused: two devices in one operation, a
CPU generator for numbers on the device. Operations on the device are counted as launches, and what would make the host
wait for the device (a scalar that is read, a shape that depends on data, a copy between host and device) is kept with
the line of dire_plug that caused it. Needs `torch._C._acc`, which torch has from 2.10 on.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "pretend"
DEVICE = f"{NAME}:0"

WAITS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2"),
    *("unique_consecutive", "unique_dim", "unique_dim_consecutive", "bincount", "_linalg_eigh", "linalg_eigh"),
    *("_linalg_check_errors", "_linalg_svd", "linalg_lu_factor_ex", "histc", "nonzero_numpy"),
}
"""What makes the host wait, beside copies: the result, or its shape, is needed on the host."""
FREE = {
    *("detach", "alias", "view", "_unsafe_view", "expand", "slice", "select", "t", "transpose", "permute"),
    *("unsqueeze", "squeeze", "split", "as_strided", "diagonal", "split_with_sizes", "unbind", "lift_fresh"),
    *("empty", "empty_like", "new_empty", "empty_strided", "_reshape_alias", "chunk", "narrow", "view_as", "unfold"),
}
"""What launches nothing: views, and memory that isn't written."""
INDEXING = ("index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index")
COPYING = ("copy_", "_to_copy", "_copy_from", "to")


class DeviceMismatchError(RuntimeError):
    """Two devices in one operation, or a generator of another one."""


class Counts:
    """What was counted.

    Attributes:
        launches: of each operation.
        waits: of each (kind, line of dire_plug).
    """

    def __init__(self) -> None:
        self.launches: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[tuple[str, str]] = collections.Counter()


class _Recorder:
    def __init__(self) -> None:
        self.counts: Counts | None = None

    def launch(self, name: str) -> None:
        if self.counts is not None:
            self.counts.launches[name] += 1

    def wait(self, kind: str) -> None:
        if self.counts is not None:
            self.counts.waits[kind, _place()] += 1


_RECORDER = _Recorder()


class _Backend:
    """What torch asks of a backend's module."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, index: int) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


_REGISTERED: list[str] = []


def can_register() -> bool:
    """Return whether torch can have a device that is written in Python."""
    return hasattr(torch._C, "_acc")


def register() -> None:
    """Make the device known to torch, once in a process and before the first backward pass."""
    if _REGISTERED:
        return
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    _REGISTERED.append(NAME)


class DeviceTensor(Tensor):
    """A tensor on the pretended device.

    Attributes:
        raw: the memory behind it, on the CPU.
    """

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor, requires_grad: bool = False) -> DeviceTensor:
        """Wrap memory of the CPU."""
        make: Any = torch.Tensor._make_wrapper_subclass
        made: DeviceTensor = make(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(DEVICE),
            requires_grad=requires_grad,
        )
        made.raw = raw
        return made

    def __repr__(self, **more: Any) -> str:  # type: ignore[override]
        """Show the memory behind."""
        return f"DeviceTensor({self.raw!r})"

    def __format__(self, form: str) -> str:
        """Format a scalar as its number, which the host waits for, as torch does with a plain tensor."""
        return format(self.item() if self.dim() == 0 else str(self), form)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def tolist(self) -> Any:
        """Copy to the host."""
        _RECORDER.wait("tolist (copy to the host)")
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse as CUDA does, unless forced."""
        if not force:
            raise TypeError(f"can't convert a device tensor to numpy; use Tensor.cpu() first [{_place()}]")
        _RECORDER.wait("numpy (copy to the host)")
        return self.raw.numpy(force=True)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Run an operation of which an argument is on the device."""
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __enter__(self) -> Any:
        # torch.tensor(…, device=…) is then a copy that is seen
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> Any:
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextlib.contextmanager
def device_present() -> Iterator[None]:
    """Let the device be used in the block, by `Module.to`, safetensors, and `torch.load` too."""
    read, unpickle = safetensors.torch.load_file, torch.load

    def load_file(path: Any, device: Any = "cpu") -> dict[str, Tensor]:
        # safetensors knows no pretended device
        return {name: put(one) if is_device(device) else one for name, one in read(path).items()}

    def load(f: Any, map_location: Any = None, **more: Any) -> Any:
        # torch would read into a storage of the device
        found = unpickle(f, map_location="cpu" if is_device(map_location) else map_location, **more)
        return pytree.tree_map_only(Tensor, put, found) if is_device(map_location) else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", load)
        # of DataParallel, whose own knows CUDA only; there is one device
        patch.setattr(torch.nn.parallel.comm, "gather", lambda tensors, dim, destination: torch.cat(list(tensors), dim))
        for module in _modules_with(read):
            patch.setattr(module, "load_file", load_file)
        patch.setattr(nn.Module, "_apply", lambda self, fn, recurse=True: _apply(self, fn))
        with _Mode():  # type: ignore[no-untyped-call]
            yield


def _modules_with(function: Callable[..., Any]) -> list[Any]:
    names = [name for name in sys.modules if name == "safetensors.torch" or name.startswith("dire_plug")]
    return [sys.modules[name] for name in names if getattr(sys.modules[name], "load_file", None) is function]


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor]) -> nn.Module:
    """Give a module new parameters where they change device, as a GPU would get new memory."""
    for child in module.children():
        _apply(child, fn)
    for name, parameter in list(module._parameters.items()):
        if parameter is None:
            continue
        moved = fn(parameter.detach())
        if type(moved) is not type(parameter.data):
            module._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
        else:
            parameter.data = moved
    for name, buffer in list(module._buffers.items()):
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count launches and waits in the block."""
    before, _RECORDER.counts = _RECORDER.counts, Counts()
    try:
        yield _RECORDER.counts
    finally:
        _RECORDER.counts = before


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing in the block."""
    before, _RECORDER.counts = _RECORDER.counts, None
    try:
        yield
    finally:
        _RECORDER.counts = before


def is_device(device: Any) -> bool:
    """Return whether `device` names the pretended one."""
    return isinstance(device, str | torch.device) and torch.device(device).type == NAME


def put(one: Tensor) -> Tensor:
    """Put a tensor on the device, uncounted."""
    return DeviceTensor(one.detach().clone())


def back(one: Tensor) -> Tensor:
    """Return the values of a tensor, uncounted."""
    found = one.detach()
    return found.raw.clone() if isinstance(found, DeviceTensor) else found.clone()


def move(module: nn.Module) -> nn.Module:
    """Put a module on the device in place, uncounted."""
    with uncounted():
        return _apply(module, put)


def _place() -> str:
    frames = [frame for frame in traceback.extract_stack() if "dire_plug/" in frame.filename]
    if not frames:
        return "backward or torch"
    last = frames[-1]
    return f"{last.filename.rpartition('dire_plug/')[2]}:{last.lineno} {last.line}"


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run one operation on the memory behind, after the checks that CUDA makes."""
    name = func._schema.name.partition("::")[2]
    flat, _ = pytree.tree_flatten((args, kwargs))
    tensors = [one for one in flat if isinstance(one, Tensor)]
    device = [one for one in tensors if isinstance(one, DeviceTensor)]
    asked = is_device(kwargs["device"]) if kwargs.get("device") is not None else None
    on_device = bool(device) if asked is None else asked
    _refuse(name, args, flat, tensors, device=device, on_device=on_device)
    _record(name, args, kwargs, asked=asked, mine=bool(device), on_device=on_device)
    bare_args, bare_kwargs = pytree.tree_map(_strip, (args, kwargs))
    if bare_kwargs.get("device") is not None:
        bare_kwargs = {**bare_kwargs, "device": torch.device("cpu")}
    out = func(*bare_args, **bare_kwargs)
    if name in ("_local_scalar_dense", "equal", "is_nonzero", "item") or not on_device:
        return out
    if name == "copy_" and not isinstance(args[0], DeviceTensor):
        return args[0]
    wrapped = pytree.tree_map(_wrap, out)
    aliases = func._schema.is_mutable or any(one.alias_info is not None for one in func._schema.arguments)
    correct: Any = return_and_correct_aliasing
    return correct(func, args, kwargs, wrapped) if aliases else wrapped


def _strip(one: Any) -> Any:
    return one.raw if isinstance(one, DeviceTensor) else one


def _wrap(one: Any) -> Any:
    return DeviceTensor(one) if isinstance(one, Tensor) and not isinstance(one, DeviceTensor) else one


def _refuse(
    name: str, args: Any, flat: list[Any], tensors: list[Tensor], *, device: list[DeviceTensor], on_device: bool
) -> None:
    generators = [one for one in flat if isinstance(one, torch.Generator)]
    if on_device and any(one.device.type == "cpu" for one in generators):
        raise DeviceMismatchError(f"{name}: a CPU generator for numbers on the device [{_place()}]")
    # scalars of the host are arguments of a kernel
    host = [one for one in tensors if not isinstance(one, DeviceTensor) and one.dim() > 0]
    if not device or name in COPYING:
        return
    if name in INDEXING:
        if not isinstance(args[0], DeviceTensor):
            raise DeviceMismatchError(f"{name}: indices on the device into a tensor of the host [{_place()}]")
        if host:
            _RECORDER.wait(f"{name} by indices of the host (copy)")
    elif host:
        shapes = [[list(one.shape) for one in some] for some in (host, device)]
        raise DeviceMismatchError(f"{name}: {shapes[0]} of the host beside {shapes[1]} of the device [{_place()}]")


def _record(name: str, args: Any, kwargs: Any, *, asked: bool | None, mine: bool, on_device: bool) -> None:
    if name in INDEXING and mine:
        masks = [one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)]
        if masks:
            _RECORDER.wait(f"{name} by a mask (nonzero)")
    if mine and name in WAITS:
        _RECORDER.wait(name)
    if name == "repeat_interleave" and mine and kwargs.get("output_size") is None:
        _RECORDER.wait("repeat_interleave without output_size")
    if name == "_to_copy" and asked is not None and mine != asked and not kwargs.get("non_blocking"):
        _RECORDER.wait("copy to the host" if mine else "copy to the device")
    if name == "copy_" and isinstance(args[0], DeviceTensor) != isinstance(args[1], DeviceTensor):
        _RECORDER.wait("copy to the device" if isinstance(args[0], DeviceTensor) else "copy to the host")
    if (mine or on_device) and name not in FREE:
        _RECORDER.launch(name)
