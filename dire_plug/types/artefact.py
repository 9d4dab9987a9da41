"""What a run is made of: artefacts, each with what decides it, what it is made from, how it is made, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dire_plug.files import digest

LENGTH = 20
"""Hex digits of the sha256 in an artefact's name."""


@dataclass(frozen=True)
class Cost:
    """What making something takes, as an estimate.

    Attributes:
        operations: of convolutions and matrix products.
        memory: bytes on the device of the largest step, at least.
        disk: bytes of what it leaves, at most.
        untested: the operations that tests after every epoch would add.
    """

    operations: float = 0.0
    memory: int = 0
    disk: int = 0
    untested: float = 0


def add_up(costs: Iterable[Cost]) -> Cost:
    """Return the cost of several together: the sum of their operations and of their disk, the largest memory."""
    found = [Cost(), *costs]
    return Cost(
        sum(one.operations for one in found),
        max(one.memory for one in found),
        sum(one.disk for one in found),
        sum(one.untested for one in found),
    )


@dataclass(frozen=True)
class Work:
    """What is given to the making of one artefact.

    Attributes:
        folder: to be filled. It outlives a killed process, so that the next one can go on.
        inputs: role → the folder of an input, or of what is read.
        parts: the folders of the parts, in their order.
        log: receives what a child process prints; None leaves that to `make`.
    """

    folder: Path
    inputs: Mapping[str, Path]
    parts: tuple[Path, ...] = ()
    log: Path | None = None


@dataclass(frozen=True)
class SharedWork:
    """What is given to the making of several artefacts in a go.

    Attributes:
        folder: their work folder, which outlives a killed process. It lies on the store's file system.
        inputs: a function from one of them to role → the folder of an input, or of what is read.
        publish: called with one of them, a folder inside of `folder` that becomes its entry, and the seconds that it
            took, None if unknown. What another process has published meanwhile stays, and the folder is removed.
        log: receives what a child process prints; None leaves that to `make`.
    """

    folder: Path
    inputs: Callable[[Artefact], Mapping[str, Path]]
    publish: Callable[[Artefact, Path, float | None], None]
    log: Path | None = None


@dataclass(frozen=True)
class Together:
    """How artefacts are made by one process in a go: passes of one child, embeddings of one split.

    Attributes:
        shared: what they have in common, as an artefact that is never made. Its name is that of their work folder and
            of its lease, whichever of them are missing, so that half-made ones are found again after a kill.
        make: makes some of them, in their order, and publishes each as soon as it is finished.
    """

    shared: Artefact
    make: Callable[[Sequence[Artefact], SharedWork], None] = field(compare=False)

    @property
    def key(self) -> str:
        """What tells members of one group from those of another."""
        return self.shared.name


@dataclass(frozen=True)
class Artefact:
    """The result of a step, made or still to be made.

    Attributes:
        kind: network, embeddings, pass, student, …: the name of its folder.
        decided_by: JSON-like: settings, digests of data and code, revision of the step.
        inputs: role → the artefact that it is made from; they decide it too.
        make: fills a work folder. None where it isn't made: of a leaf, or of one that is made `together` alone.
        cost: what making it takes; a function, since where everything is there nobody asks.
        stage, title: for people, and for `--rerun`; no part of its name.
        reads: role → an artefact that must be there, and whose folder `make` gets, but that doesn't decide it: start
            images of passes that every IPC shares.
        parts: what it can be put together from. Together they are it, so they don't decide it, and they count only
            while it is missing: a pass's batches.
        chain: the artefact after which the same process must make it, since state goes on from that.
        together: how it is made in a go with others of its key. They are no inputs of each other, but for a chain.
        transient: never published, and made anew for the first consumer that is missing: stored labels. It goes with
            the last one.
        unit: whether executors make it by itself; else whoever needs it first does.
        leaf: returns the user's own folder that holds it, after a look whether that is what decides it. It is never
            stored, leased or removed.
    """

    kind: str
    decided_by: Mapping[str, Any]
    inputs: Mapping[str, Artefact] = field(default_factory=dict)
    make: Callable[[Work], None] | None = field(default=None, compare=False)
    cost: Callable[[], Cost] = field(default=Cost, compare=False)
    stage: str = field(default="", compare=False)
    title: str = field(default="", compare=False)
    reads: Mapping[str, Artefact] = field(default_factory=dict, compare=False)
    parts: tuple[Artefact, ...] = field(default=(), compare=False)
    chain: Artefact | None = field(default=None, compare=False)
    together: Together | None = field(default=None, compare=False)
    transient: bool = field(default=False, compare=False)
    unit: bool = field(default=True, compare=False)
    leaf: Callable[[], Path] | None = field(default=None, compare=False)

    @cached_property
    def name(self) -> str:
        """`<kind>/<digest>`: a function of all that decides the artefact."""
        return name_of(self.kind, self.decided_by, {role: one.name for role, one in self.inputs.items()})

    def closure(self) -> dict[str, Artefact]:
        """Return name → artefact of this one and of all that decides it, inputs first."""
        return _walk([self], lambda one: one.inputs.values())

    @property
    def before(self) -> tuple[Artefact, ...]:
        """What must be there before it is made: inputs, what is read, parts, and the one that a chain goes on from."""
        last = () if self.chain is None else (self.chain,)
        return (*self.inputs.values(), *self.reads.values(), *self.parts, *last)


def name_of(kind: str, decided_by: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the name of an artefact; `inputs` is role → name."""
    content = {"kind": kind, "decided_by": dict(decided_by), "inputs": dict(inputs)}
    # 80 bits: no two artefacts of one store will share them by chance
    return f"{kind}/{digest(content)[:LENGTH]}"


def everything_of(targets: Iterable[Artefact]) -> dict[str, Artefact]:
    """Return name → artefact of some and of all that comes before them, what comes first in front."""
    return _walk(targets, lambda one: one.before)


def _walk(targets: Iterable[Artefact], behind: Callable[[Artefact], Iterable[Artefact]]) -> dict[str, Artefact]:
    found: dict[str, Artefact] = {}

    def visit(one: Artefact) -> None:
        if one.name not in found:
            for other in behind(one):
                visit(other)
            found[one.name] = one

    for target in targets:
        visit(target)
    return found
