"""Turn a cell into the request of its runs, at the paper's scale or at the smoke scale.

The smoke scale shows in minutes, on two CPU cores and without a download, that everything from a cell to its figure
works: a method's demonstration on digits, shortened, at two IPCs. Its figures say nothing about the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from dire_plug.errors import DirePlugError
from dire_plug.models.architectures import least_size
from dire_plug.paper.reproduce.paper_tables import Cell
from dire_plug.pipeline import Request

Scale = Literal["paper", "smoke"]


SMOKE_IPCS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "sre2l": (5, 10),
        "cda": (5, 10),
        "dwa": (5, 10),
        "infer": (3, 6),
        "delt": (5, 10),
        "g-vbsm": (2, 5),
        "mtt": (2, 5),
    }
)
"""Method → the two IPCs that stand for the two least of a table."""
SMOKE_SETTINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sre2l": ("recover.flags.iteration=50", "evaluate.epochs=40"),
        "cda": ("recover.flags.iteration=50", "evaluate.epochs=40"),
        "dwa": ("recover.flags.iteration=25", "evaluate.epochs=40"),
        "infer": ("evaluate.epochs=10",),
        "delt": ("recover.flags.iteration=40", "evaluate.epochs=40"),
        "g-vbsm": (),
        "mtt": (),
    }
)
"""Method → how its recipe `quick` is shortened, as `--set` takes it.

Chosen so that a row of two arms and two IPCs takes less than five minutes; measured in docs/reproduce.md.
"""
DIGITS_SIZE = 8
AT_32 = (
    "dataset.size=32",
    "dataset.limit=300",
    "squeeze.teacher.epochs=3",
    "squeeze.independent.epochs=3",
    "recover.flags.iteration=10",
    "evaluate.epochs=2",
)
"""Added to a method's smoke settings where a student needs 32 pixels, as VGG-16 does."""
# images of a class or two in a batch, mixed, teach deep students nothing in so few steps
BY_STUDENT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"mobilenet-v2": ("evaluate.mixup=0", "evaluate.epochs=100")}
)
"""Another student → what it changes besides; torchvision's MobileNetV2 halves 8 pixels five times, and learns late."""
UNMIXED = ("evaluate.mixup=0",)
"""What any other student changes."""
BY_RECIPE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict.fromkeys(("cifar-10-dynamic", "cifar-100-dynamic"), ("evaluate.protocol=dynamic-labels",))
)
"""Recipe of the paper's scale → what else of `quick` changes where it stands for that one."""


def request_of(cell: Cell, scale: Scale, *, base: Request, ipcs: Sequence[int]) -> Request:
    """Return the request of a cell's runs, of the first seed.

    Args:
        base: device, engine, folders and seed; a preset, and settings that win over the scale's.
        ipcs: those of the table, ascending: the smoke scale has a number of its own for the two least.

    Raises:
        DirePlugError: the smoke scale leaves this cell out.
    """
    if scale == "paper":
        return replace(base, method=cell.method, recipe=cell.recipe, arm=cell.arm, ipc=cell.ipc)
    settings = (*SMOKE_SETTINGS[cell.method], *BY_RECIPE.get(cell.recipe, ()))
    return replace(
        base,
        method=cell.method,
        recipe="quick",
        arm=cell.arm,
        ipc=smoke_ipc(cell, ipcs),
        settings=(*settings, *_student_settings(cell), *base.settings),
    )


def _student_settings(cell: Cell) -> tuple[str, ...]:
    """Return what a cell's other student changes, at a size that it takes."""
    if cell.student is None:
        return ()
    return AT_32 if is_large(cell) else BY_STUDENT.get(cell.student, UNMIXED)


def smoke_ipc(cell: Cell, ipcs: Sequence[int]) -> int:
    """Return the images per class that stand for a cell's at the smoke scale.

    Raises:
        DirePlugError: the table has more IPCs than the smoke scale.
    """
    # the least IPC stands for a table that names none
    rank = 0 if cell.ipc is None else list(ipcs).index(cell.ipc)
    numbers = SMOKE_IPCS[cell.method]
    if rank >= len(numbers):
        least = " and ".join(map(str, ipcs[: len(numbers)]))
        raise DirePlugError(f"the smoke scale has two IPCs, which stand for {least}")
    return numbers[rank]


def is_large(cell: Cell) -> bool:
    """Return whether a cell's student takes no images as small as the digits are."""
    return cell.student is not None and least_size(cell.student) > DIGITS_SIZE


def ipcs_of(cells: Sequence[Cell]) -> list[int]:
    """Return the IPCs of a table, ascending."""
    return sorted({cell.ipc for cell in cells if cell.ipc is not None})
