"""From a cell to the request of its runs, at the paper's scale or at the smoke scale.

The smoke scale shows in minutes, on two CPU cores and on data that is here, that a cell's whole way works: a method's
demonstration on digits, cut short, at two IPCs. Its figures say nothing about the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from dire_plug.errors import DirePlugError
from dire_plug.paper.reproduce.paper_tables import Cell, Place
from dire_plug.pipeline import Request

Scale = Literal["paper", "smoke"]


@dataclass(frozen=True)
class Smoke:
    """How one method's recipe `quick` is cut short.

    Attributes:
        ipcs: the two IPCs that stand for the two least of a table.
        settings: as `--set` takes them.
    """

    ipcs: tuple[int, int]
    settings: tuple[str, ...] = ()


SMOKE: Mapping[str, Smoke] = MappingProxyType(
    {
        "sre2l": Smoke((5, 10), ("recover.flags.iteration=50", "evaluate.epochs=40")),
        "cda": Smoke((5, 10), ("recover.flags.iteration=50", "evaluate.epochs=40")),
        "dwa": Smoke((5, 10), ("recover.flags.iteration=25", "evaluate.epochs=40")),
        "infer": Smoke((3, 6), ("evaluate.epochs=10",)),
        "delt": Smoke((5, 10), ("recover.flags.iteration=40", "evaluate.epochs=40")),
        "g-vbsm": Smoke((2, 5), ()),
        "mtt": Smoke((2, 5), ()),
    }
)
"""Chosen so that a row of two arms and two IPCs takes less than five minutes; measured in docs/reproduce.md."""
AT_32 = (
    "dataset.size=32",
    "dataset.limit=300",
    "squeeze.teacher.epochs=3",
    "squeeze.independent.epochs=3",
    "recover.flags.iteration=10",
    "evaluate.epochs=2",
)
"""Laid over a method's smoke settings where other students are trained, which need 32 pixels."""
IPCS_AT_32 = (2, 5)
PRESETS = {"cifar-10-dynamic": "dynamic", "cifar-100-dynamic": "dynamic"}
"""Recipe of the paper's scale → the preset of `quick` that stands for it."""


def request_of(cell: Cell, scale: Scale, *, base: Request, ipcs: Sequence[int]) -> Request:
    """Return the request of a cell's runs, of the first seed.

    Args:
        base: device, engine, folders and seed.
        ipcs: those of the table, ascending: the smoke scale has a number of its own for the two least.

    Raises:
        DirePlugError: the smoke scale leaves this cell out.
    """
    place = cell.place
    if scale == "paper":
        return replace(base, method=place.method, recipe=place.recipe, arm=place.arm, ipc=place.ipc)
    smoke = SMOKE[place.method]
    settings = (*smoke.settings, *AT_32) if place.student else smoke.settings
    return replace(
        base,
        method=place.method,
        recipe="quick",
        preset=PRESETS.get(place.recipe),
        arm=place.arm,
        ipc=smoke_ipc(place, ipcs),
        settings=settings,
    )


def smoke_ipc(place: Place, ipcs: Sequence[int]) -> int:
    """Return the images per class that stand for a cell's at the smoke scale.

    Raises:
        DirePlugError: the table has more IPCs than the smoke scale.
    """
    rank = 0 if place.ipc is None else list(ipcs).index(place.ipc)
    numbers = smoke_ipcs(place)
    if rank >= len(numbers):
        least = " and ".join(map(str, ipcs[: len(numbers)]))
        raise DirePlugError(f"the smoke scale has two IPCs, which stand for {least}")
    return numbers[rank]


def smoke_ipcs(place: Place) -> tuple[int, int]:
    """Return the two IPCs that stand for the two least of a table."""
    return IPCS_AT_32 if place.student else SMOKE[place.method].ipcs


def ipcs_of(cells: Sequence[Cell]) -> list[int]:
    """Return the IPCs of a table, ascending."""
    return sorted({cell.place.ipc for cell in cells if cell.place.ipc is not None})
