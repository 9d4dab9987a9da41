"""The loops that `step_share.py` measures: one script of each method, as `dire-plug verify` reduces it, and full."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from dire_plug.types import VerifyCase

Flags = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One script of a method.

    Attributes:
        script: its name in the adapter.
        length: steps → the flags that make the loop at least so long.
        reduced, complete: what the row says of the two sizes.
        flags, changes: of the full size, over those of verify's case: the script's flags, and the case's other fields.
    """

    script: str
    length: Callable[[int], Flags]
    reduced: str
    complete: str
    flags: Flags = field(default_factory=dict)
    changes: Flags = field(default_factory=dict)

    def resize(self, case: VerifyCase, *, rounds: int, full: bool) -> VerifyCase:
        """Return verify's case with a loop of `rounds` steps or more, which isn't stopped."""
        flags = {**case.recover["flags"], **(self.flags if full else {}), **self.length(rounds)}
        changes = dict(self.changes) if full else {}
        return replace(case, recover={**case.recover, "flags": flags}, steps=None, **changes)

    def describe(self, *, full: bool) -> str:
        """Return script and size in words."""
        return f"{self.script}: {self.complete if full else self.reduced}"


def _iterations(steps: int) -> Flags:
    return {"iteration": steps}


def _two_rounds(steps: int) -> Flags:
    half = -(-steps // 2)
    return {"iteration": 2 * half, "round-iterations": half}


def _four_networks(steps: int) -> Flags:
    return {"iteration": -(-steps // 4)}


def _two_stages(steps: int) -> Flags:
    return {"optimization-budgets": [-(-steps // 2)] * 2}


def _to_iteration(steps: int) -> Flags:
    return {"Iteration": steps}


_HUNDRED = MappingProxyType({"batch-size": 100})
CASES: Mapping[str, Case] = MappingProxyType(
    {
        "sre2l": Case("cifar", _iterations, "10×1, ResNet-18", "100×1, ResNet-18", _HUNDRED),
        "cda": Case("cifar-100", _iterations, "10×1, ResNet-18", "100×1, ResNet-18", _HUNDRED),
        "dwa": Case(
            "cifar-100",
            _iterations,
            "100×1, small ResNet",
            "100×1, ResNet-18",
            changes={"teachers": {"teacher": "resnet-18"}},
        ),
        "infer": Case("cifar-100", _four_networks, "100×1, 4 networks", "100×1, 4 networks"),
        "delt": Case(
            "cifar-10",
            _two_rounds,
            "2×2 early-late, ResNet-18",
            "10×10 early-late, ResNet-18",
            _HUNDRED,
            {"classes": 10, "ipc": 10, "real_per_class": 30},
        ),
        "g-vbsm": Case("cifar-100", _iterations, "4×1, 5 networks", "100×1, 5 networks", _HUNDRED),
        "edc": Case("cifar-100", _iterations, "4×1, 8 networks", "100×1, 8 networks", _HUNDRED),
        "cv-dd": Case("tiny", _iterations, "5×1, 2 networks", "100×1, 2 networks", _HUNDRED),
        "sre2l-pp": Case("cifar-100", _iterations, "5×1, ResNet-18", "100×1, ResNet-18", _HUNDRED),
        "fadrm": Case("cifar-100", _two_stages, "5×1, 2 networks", "100×1, 2 networks", _HUNDRED),
        "lpld": Case(
            "tiny",
            _iterations,
            "1×2, ResNet-18",
            "1×50, ResNet-18",
            {"batch-size": 50},
            {"ipc": 50, "real_per_class": 50},
        ),
        "mtt": Case(
            "cifar-100",
            _to_iteration,
            "100×1, 2 steps, ConvNet W32",
            "100×1, 20 steps, ConvNet",
            {"model": "ConvNet", "syn_steps": 20},
        ),
        "dm": Case(
            "cifar-100",
            _to_iteration,
            "100×1, 2 real, ConvNet W32",
            "100×1, 256 real, ConvNet",
            {"model": "ConvNet", "batch_real": 256},
            {"real_per_class": 256},
        ),
    }
)
"""Method → the case. Sizes: classes × images of each in a batch; MTT's and DM's terms see five classes a step."""
