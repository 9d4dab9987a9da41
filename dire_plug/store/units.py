"""Describe units of work: what each makes and needs, and which others it waits for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.files import digest


@dataclass(frozen=True)
class Unit:
    """A piece of work that one process does by itself.

    Attributes:
        title: its name for people, such as `evaluate dire, seed 1: convnet 0`.
        stage: squeeze, prepare, embed, recover, evaluate or measure.
        part: which network, pass or student; "" where the stage is one unit.
        makes: the names of the artefacts that it makes.
        needs: the names of those that it is made from.
        maker: `module:function` that makes it, called with the unit and with `log`, a file.
        subject: what the function is to know beside the unit, JSON-like: for a run its request.
        of: the method, recipe and IPC, or the set, that it belongs to; of several, the first.
        device: on which it is made.
    """

    title: str
    stage: str
    part: str
    makes: tuple[str, ...]
    needs: frozenset[str]
    maker: str
    subject: Mapping[str, Any]
    of: str = ""
    device: str = "auto"

    @cached_property
    def name(self) -> str:
        """`<stage>-<12 hex of what it makes>`."""
        return f"{self.stage}-{digest(sorted(self.makes))[:12]}"

    @property
    def label(self) -> str:
        """The title with what it belongs to, where units of several stand side by side."""
        return f"{self.of}: {self.title}" if self.of else self.title

    def to_json(self) -> dict[str, Any]:
        """Return the fields, JSON-like."""
        return {**asdict(self), "needs": sorted(self.needs)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Unit:
        """Return the unit that `to_json` wrote."""
        return cls(**{**content, "makes": tuple(content["makes"]), "needs": frozenset(content["needs"])})

    def make(self, *, log: Path) -> None:
        """Make the unit in this process; what of it is there already isn't made again.

        Args:
            log: receives what upstream's script prints.

        Raises:
            DirePlugError: what the unit would make isn't what was asked for; or a stage failed.
        """
        module, _, function = self.maker.partition(":")
        getattr(import_module(module), function)(self, log=log)


def changed_since(unit: Unit, others: Iterable[str]) -> DirePlugError:
    """Return the error for a unit that would make other artefacts now than when it was planned."""
    return DirePlugError(
        f"{unit.title}: the code, the data or the recipe changed after this was planned, so {min(others)} would be "
        "something else now; run the command again"
    )


def once(units: Iterable[Unit]) -> list[Unit]:
    """Return each unit once: of those that make the same, the first."""
    found: dict[str, Unit] = {}
    for unit in units:
        found.setdefault(unit.name, unit)
    return list(found.values())


def waits_for(units: Sequence[Unit]) -> dict[str, set[str]]:
    """Return the name of each unit → the names of those among the others that make what it needs."""
    makers = {made: unit.name for unit in units for made in unit.makes}
    return {unit.name: {makers[one] for one in unit.needs if one in makers} for unit in units}
