"""Accelerate: find what `--accelerate fast` stands for on a machine and in a script, and make networks fast in place.

Each component changes bits, so those that are used belong to the identity of what is made with them; what this machine
can't do is left out, said, and not in it. `exact` changes no bit and is in no identity.

- `bf16`: a network's forward pass runs under autocast in bfloat16 and returns float32. Statistics that hooks take of
  its features, and the embeddings that terms see, are of float32; losses and terms are computed outside.
- `tf32`: float32 matrix products in TensorFloat-32 on CUDA, for loops that make their own networks.
- `channels-last`: weights in that memory format, on CUDA: there tensor cores want it; on a CPU it was slower.
- `compile`: a network is compiled in place, so that hooks that upstream's code sets on its layers later still act.
- `one-pass statistics`: mean and variance of a BatchNorm layer's input from sums of one pass, around the running mean.
- `frozen`: no gradients of weights after the first step of a batch, where a script reads them in that step alone.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from dire_plug import home
from dire_plug.errors import DirePlugError
from dire_plug.files import digest
from dire_plug.types import Adapter, Script

BF16, TF32, CHANNELS_LAST = "bf16", "tf32", "channels-last"
COMPILE, ONE_PASS, FROZEN = "compile", "one-pass statistics", "frozen"
COMPONENTS = (BF16, TF32, CHANNELS_LAST, COMPILE, ONE_PASS, FROZEN)

OF_MACHINES = (BF16, TF32, CHANNELS_LAST, COMPILE)
"""What not every machine can do."""
TRAINED = (BF16, CHANNELS_LAST)
"""What acts where networks are trained, label or learn."""
_INVERTED = (BF16, CHANNELS_LAST, COMPILE, ONE_PASS)
ACTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sre2l": _INVERTED,
        "cda": _INVERTED,
        "dwa": (*_INVERTED, FROZEN),
        "infer": _INVERTED,
        "delt": _INVERTED,
        # its hooks leave out layers at random, where a compiled graph would break
        "g-vbsm": (BF16, CHANNELS_LAST, ONE_PASS),
        "edc": (BF16, CHANNELS_LAST),
        # its BatchNorm layers take pairs of features and classes
        "lpld": (BF16, CHANNELS_LAST),
        # their loops make networks of their own, and differences of their features are all of the loss
        "mtt": (TF32,),
        "dm": (TF32,),
    }
)
"""Method of ours → the components that act in its scripts. Here and not in its folder, whose code names its passes."""


@dataclass(frozen=True)
class Components:
    """What `--accelerate` resolved to, for one kind of work on one machine.

    Attributes:
        names: those that are used, in the order of `COMPONENTS`.
        left_out: component → why this machine can't do it.
    """

    names: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    def __contains__(self, name: str) -> bool:
        """Return whether a component is used."""
        return name in self.names

    def identity(self) -> dict[str, list[str]]:
        """Return what they add to an artefact's identity: nothing where none is used."""
        return {"accelerate": list(self.names)} if self.names else {}

    def __str__(self) -> str:
        """Return the names as a table shows them."""
        return " + ".join(self.names) or "none"


NONE = Components()


def resolve(wanted: Iterable[str], missing: Mapping[str, str]) -> Components:
    """Return the components among `wanted` that a machine can do.

    Args:
        missing: component → why the machine can't do it, as `find_missing` gives it.
    """
    ordered = [name for name in COMPONENTS if name in set(wanted)]
    used = tuple(name for name in ordered if name not in missing)
    return Components(used, {name: missing[name] for name in ordered if name in missing})


def acting_components(adapter: Adapter, script: Script, gpus: int = 1) -> tuple[str, ...]:
    """Return the components that act in one script of a method, whatever the machine can do."""
    # a step that is spread over several GPUs copies the network to each, which no change in place survives
    return (TF32,) if gpus > 1 else ACTS.get(adapter.name, script.accelerates)


def find_missing(device: torch.device | str) -> dict[str, str]:
    """Return component → why this machine can't do it on a device."""
    kind = torch.device(device).type
    if kind == "cuda":
        return _missing_on_cuda(torch.device(device))
    found = {TF32: "it needs a CUDA GPU", CHANNELS_LAST: "it gains nothing on a CPU"}
    if kind != "cpu":
        nothing = f"it isn't known what a device '{kind}' can do"
        return found | dict.fromkeys((BF16, CHANNELS_LAST, COMPILE), nothing)
    if not _cpu_has_bf16():
        found[BF16] = "this processor has no bfloat16 instructions"
    if reason := _lacks_compiler():
        found[COMPILE] = reason
    return found


def find_able(device: torch.device | str) -> tuple[str, ...]:
    """Return the components that this machine can do on a device."""
    missing = find_missing(device)
    return tuple(name for name in COMPONENTS if name not in missing)


def find_unlisted(able: Iterable[str]) -> dict[str, str]:
    """Return component → why it isn't used, where another process listed those that may be."""
    return dict.fromkeys(set(COMPONENTS).difference(able), "not every machine that works for this can do it")


def check_possible(names: Iterable[str], device: torch.device | str) -> None:
    """Raise where components that were resolved elsewhere can't be used here.

    Raises:
        DirePlugError: it names them, and why.
    """
    missing = find_missing(device)
    if lacking := [f"{name}: {missing[name]}" for name in names if name in missing]:
        raise DirePlugError(
            f"--accelerate fast stands for components that {device} of this machine can't do ({'; '.join(lacking)}); "
            "with --executor slurm name what all nodes can do, such as --slurm able=bf16,compile, or leave it out"
        )


def _missing_on_cuda(device: torch.device) -> dict[str, str]:
    capability = torch.cuda.get_device_capability(device)
    found: dict[str, str] = {}
    if capability < (8, 0):
        old = f"{torch.cuda.get_device_name(device)} is older than Ampere"
        found |= {BF16: old, TF32: old, CHANNELS_LAST: old}
    if capability < (7, 0):
        found[COMPILE] = "the GPU is older than Volta"
    elif importlib.util.find_spec("triton") is None:
        found[COMPILE] = "the package triton isn't installed"
    elif reason := _lacks_compiler(("cc", "gcc", "clang")):
        found[COMPILE] = reason
    return found


def _cpu_has_bf16() -> bool:
    # native instructions: emulated ones are slower than float32
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and bool({"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags())


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction sets of this processor; none where the system doesn't tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split()[2:])


def _lacks_compiler(names: tuple[str, ...] = ("g++", "clang++")) -> str:
    """Return why inductor can't build kernels here; "" where it can."""
    if not any(shutil.which(name) for name in names):
        return f"no compiler on PATH ({', '.join(names)})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers aren't installed (python3-dev)"
    return ""


# Networks, in place.


def accelerate_in_loop(network: nn.Module, components: Components, device: torch.device | str) -> None:
    """Make a network that a loop inverts fast, in place; one that was before stays as it is.

    Call it before the loop sets hooks on its layers: those get features in float32, and statistics of one pass.
    """
    # a script may wrap the network; on one device the wrapper only calls it
    inner = network.module if isinstance(network, nn.DataParallel) else network
    if not components.names or getattr(inner, _DONE, False):
        return
    setattr(inner, _DONE, True)
    for layer in inner.modules():
        if {BF16, ONE_PASS} & set(components.names) and isinstance(layer, nn.BatchNorm2d | nn.Conv2d):
            one_pass = ONE_PASS in components and isinstance(layer, nn.BatchNorm2d)
            setattr(layer, "register_forward_hook", functools.partial(_register, layer, one_pass))  # noqa: B010
    accelerate_network(inner, components, device)
    if COMPILE in components:
        _compile_in_place(inner, frozen_only=FROZEN in components)


_DONE = "_dire_plug_accelerated"


def accelerate_network(network: nn.Module, components: Components, device: torch.device | str) -> nn.Module:
    """Let a network's forward pass run in the components' precision and memory format; return the same object."""
    if CHANNELS_LAST in components:
        network.to(memory_format=torch.channels_last)
    if BF16 in components:
        network.__class__ = _under_autocast(type(network), torch.device(device).type)  # type: ignore[arg-type]
    return network


@functools.lru_cache(maxsize=64)
def _under_autocast(kind: type[nn.Module], device: str) -> type[nn.Module]:
    """Return a subclass whose forward pass runs in bfloat16 and returns float32.

    A class and not a function on the instance: `copy.deepcopy` would bind the copy to the original's weights.
    """

    def forward(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            made = kind.forward(self, *arguments, **named)
        return at_least_float32(made) if isinstance(made, Tensor) else made

    # the same name: G-VBSM's statistics lie in files that are called by it
    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def at_least_float32(values: Tensor) -> Tensor:
    """Return values of half precision in float32; others as they are, the same object."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def use_tf32(components: Components) -> None:
    """Let float32 matrix products of this process use TensorFloat-32, where that is a component."""
    if TF32 in components:
        torch.set_float32_matmul_precision("high")


KERNELS = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that names inductor's folder."""
DEFAULT = "torchinductor_"
"""How the folder is called that torch makes in TMPDIR."""
GRAPHS = 4096
"""The most graphs: one of each network in each pass, for each size of a batch."""


def _compile_in_place(network: nn.Module, *, frozen_only: bool) -> None:
    """Compile a network's call, its hooks included; kernels are kept in the home folder for the next process.

    Args:
        frozen_only: whether a call is left as it is while the weights have gradients, as in a batch's first step: those
            graphs would take longer to compile than they save.
    """
    # torch sets it to its own default, in the child's scratch, as soon as anything asks for it; a user's own is kept
    if Path(os.environ.get(KERNELS, DEFAULT)).name.startswith(DEFAULT):
        os.environ[KERNELS] = str(compiled_folder())
    # beyond its limits torch would stop compiling, silently; of this network, and of those of all passes so far
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(torch._dynamo.config, name, GRAPHS)
    network.compile()
    if frozen_only:
        compiled, plain = network._compiled_call_impl, network._call_impl
        assert compiled is not None
        weight = next(network.parameters())

        def call(*arguments: Any, **named: Any) -> Any:
            chosen: Callable[..., Any] = plain if weight.requires_grad else compiled
            return chosen(*arguments, **named)

        network._compiled_call_impl = call


def compiled_folder() -> Path:
    """Return the folder of compiled kernels: of this processor, since they hold its instructions, and of this torch."""
    return home.home() / "compiled" / digest([platform.machine(), sorted(cpu_flags()), torch.__version__])[:12]


# Statistics of features.


def _register(layer: nn.Module, one_pass: bool, hook: Callable[..., Any], **options: Any) -> Any:
    """Register a forward hook that gets a layer's features in float32, and their statistics of one pass."""

    def call(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        features: Any = at_least_float32(inputs[0])
        shown = features
        if one_pass:
            assert isinstance(module, nn.BatchNorm2d)
            shown = Features(features, module.running_mean)
        return hook(module, (shown, *inputs[1:]), output)

    return nn.Module.register_forward_hook(layer, call, **options)


class Features:
    """A BatchNorm layer's input, [N, C, H, W], whose mean and variance of each channel come from one pass.

    It answers what the hooks of the methods here ask: `x.mean([0, 2, 3])`, and `x.permute(1, 0, 2, 3)` as one row for
    each channel, of which `.var(1, unbiased=False)` is taken. All else goes to the tensor.
    """

    def __init__(self, values: Tensor, shift: Tensor | None) -> None:
        """Take the input and, [C], values near its means; None takes 0."""
        self._values = values
        self._shift = values.new_zeros(values.shape[1]) if shift is None else shift.detach()
        self._statistics: tuple[Tensor, Tensor] | None = None

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance, [C] each."""
        if self._statistics is None:
            self._statistics = one_pass_statistics(self._values, self._shift)
        return self._statistics

    def mean(self, dim: Any = None, **named: Any) -> Tensor:
        """Return the mean over axes, as a tensor does."""
        if not named and isinstance(dim, list | tuple) and list(dim) == [0, 2, 3]:
            return self.statistics()[0]
        return self._values.mean(dim, **named)

    def permute(self, *axes: Any) -> Any:
        """Return the features with their axes in another order."""
        return Rows(self, self._values) if axes == (1, 0, 2, 3) else self._values.permute(*axes)

    def __getattr__(self, name: str) -> Any:
        """Return the tensor's own."""
        return getattr(self._values, name)


class Rows:
    """The features of `Features` with the channels first; nothing is moved unless more is asked than variances."""

    def __init__(self, features: Features, values: Tensor) -> None:
        """Take the features, and their tensor, [N, C, H, W]."""
        self._features, self._values = features, values

    def contiguous(self) -> Rows:
        """Return the same object."""
        return self

    def flatten(self, start: int) -> Any:
        """Return the same object for a row of each channel."""
        return self if start == 1 else self._moved().flatten(start)

    def reshape(self, *shape: Any) -> Any:
        """Return the same object for a row of each channel."""
        asked = list(shape[0]) if len(shape) == 1 else list(shape)
        return self if asked == [self._values.shape[1], -1] else self._moved().reshape(*shape)

    def var(self, dim: Any = None, **named: Any) -> Tensor:
        """Return the variance of each row: from one pass where it is the biased one."""
        if dim == 1 and named in ({"unbiased": False}, {"correction": 0}):
            return self._features.statistics()[1]
        return self._moved().flatten(1).var(dim, **named)

    def __getattr__(self, name: str) -> Any:
        """Return the tensor's own."""
        return getattr(self._moved(), name)

    def _moved(self) -> Tensor:
        return self._values.permute(1, 0, 2, 3).contiguous()


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        moved = values - shift.view(1, -1, 1, 1)
        offset = moved.mean((0, 2, 3))
        variance = (moved * moved).mean((0, 2, 3)) - offset * offset
        mean = offset + shift
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> tuple[Tensor, None]:
        values, mean = ctx.saved_tensors
        count = values.numel() // values.shape[1]
        slope = of_variance * (2 / count)
        constant = of_mean / count - slope * mean
        # ∂L/∂x = ∂L/∂mean / n + ∂L/∂var · 2 (x − mean) / n, as one multiply and add
        return torch.addcmul(constant.view(1, -1, 1, 1), values, slope.view(1, -1, 1, 1)), None


def one_pass_statistics(values: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, [C] each, from sums of x − shift and its square.

    The variance's relative error is about ε · (1 + (mean − shift)² / variance): small as long as `shift` is near the
    mean in units of the standard deviation, as the running mean of the same layer is.

    Args:
        values: [N, C, H, W].
        shift: [C]; gets no gradient.
    """
    mean, variance = _OnePass.apply(values, shift)
    return mean, variance
