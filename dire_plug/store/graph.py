"""Walk over artefacts: what a store lacks of them, what one process makes of that in a go, and making it.

Running inline, units for other processes, a dry run with its costs and what `clean` keeps are walks over one graph.
What an artefact is stands in `types.artefact`; here stands, once for all kinds, how it gets into the store: leases,
work folders that outlive a kill, damage, provenance.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dire_plug.errors import DirePlugError
from dire_plug.store.artefacts import Store
from dire_plug.store.scratch import scratch_folder, scratch_root
from dire_plug.types.artefact import Artefact, SharedWork, Work, everything_of

ROUNDS = 3
"""How often what is missing is made: an input that came out with other bits than before makes its consumers missing."""


class OutOfDateError(DirePlugError):
    """Something that an artefact is made from isn't sound any more, or isn't there."""


@dataclass(frozen=True)
class Group:
    """What one process makes in a go: one artefact, a group, a chain, or all consumers of a transient one with it.

    Attributes:
        members: in the order in which they are made.
        waits_for: the names of what others make and must be there before.
        apart: whether other processes may make others of the same key at the same time.
    """

    members: tuple[Artefact, ...]
    waits_for: frozenset[str]
    apart: bool = False

    @property
    def stage(self) -> str:
        """Of the last member: labels are made for students."""
        return self.members[-1].stage


# What is missing.


def missing(store: Store, targets: Iterable[Artefact]) -> list[Artefact]:
    """Return what must be made for some targets, each once, what comes first in front; nothing behind what is sound.

    Sound is what is undamaged, and was made from what is there now: the question goes through all that is behind it,
    and only what is gone ends it. It is an estimate: what is made again with the bits that it had leaves its consumers
    sound. Where stages are to run again it goes through everything behind the targets, sound or not.

    Raises:
        DirePlugError: a leaf has changed.
    """
    found, seen = list[Artefact](), set[str]()
    known: dict[str, bool] = {}

    def visit(one: Artefact) -> None:
        if one.name in seen:
            return
        seen.add(one.name)
        if one.leaf is not None:
            one.leaf()
            return
        there = not one.transient and not store.reruns(one) and is_sound(store, one, known)
        if there and not store.rerun:
            return
        for other in _through_transient(one) if there else one.before:
            visit(other)
        if not there:
            found.append(one)

    for target in targets:
        visit(target)
    return found


def is_sound(store: Store, one: Artefact, known: dict[str, bool] | None = None) -> bool:
    """Return whether an entry is there, undamaged, and made from what is there now, as all that is behind it is.

    Args:
        known: answers so far, by name, which are added to.
    """
    known = {} if known is None else known
    if one.name not in known:
        known[one.name] = store.is_whole(one) and all(
            is_sound(store, other, known) for other in one.inputs.values() if store.has(other)
        )
    return known[one.name]


def _through_transient(one: Artefact) -> Iterator[Artefact]:
    """Yield what is behind a sound artefact; instead of what isn't kept, what is behind that."""
    for other in (*one.inputs.values(), *one.reads.values()):
        yield from _through_transient(other) if other.transient else [other]


def needed(store: Store, targets: Iterable[Artefact]) -> dict[str, Artefact]:
    """Return name → artefact of all that `clean` keeps for some targets, those included.

    Parts count only while what they are put together to is missing; what isn't kept in the store doesn't count.
    """
    found = everything_of(targets)
    parts = {part.name for one in found.values() if store.has(one) for part in one.parts}
    return {name: one for name, one in found.items() if name not in parts and not one.transient and one.leaf is None}


# Who makes it.


def cut(lacking: Sequence[Artefact], *, spread: bool = False) -> list[Group]:
    """Cut what is missing into what one process makes in a go, in an order in which it can be made.

    Args:
        lacking: as `missing` returns it.
        spread: over several processes: then members of a key are made apart, but for chains, and what isn't a `unit`
            is left to those that need it.

    Raises:
        RuntimeError: two groups wait for each other: the plan is wrong.
    """
    by_name = {one.name: one for one in lacking if one.unit or not spread}
    heads: dict[str, str] = {}
    for name, one in by_name.items():
        transient = next((other.name for other in one.inputs.values() if other.transient), None)
        if transient is not None:
            heads[name] = transient
        elif one.chain is not None and one.chain.name in by_name:
            heads[name] = heads[one.chain.name]
        else:
            heads[name] = name if one.together is None or spread else one.together.key
    members: dict[str, list[Artefact]] = {}
    for name, head in heads.items():
        members.setdefault(head, []).append(by_name[name])
    waits = {
        head: {heads[name] for one in its for name in _needs(one, by_name)} - {head} for head, its in members.items()
    }
    return [
        Group(
            members=tuple(members[head]),
            waits_for=frozenset(one.name for other in waits[head] for one in members[other]),
            apart=spread and len(members[head]) == 1,
        )
        for head in _in_order(waits)
    ]


def _needs(one: Artefact, by_name: Mapping[str, Artefact]) -> Iterator[str]:
    """Yield the names of what must be made before; through what no process makes by itself."""
    for other in one.before:
        if other.name in by_name:
            yield other.name
        elif not other.unit:
            yield from _needs(other, by_name)


def _in_order(waits: Mapping[str, set[str]]) -> list[str]:
    """Return the heads so that each stands after those that it waits for, else in their order."""
    found, open_ = dict[str, None](), set[str]()

    def visit(head: str) -> None:
        if head in found:
            return
        if head in open_:
            raise RuntimeError(f"{head} waits for itself: what is made together must not need each other")
        open_.add(head)
        for other in waits:
            if other in waits[head]:
                visit(other)
        found[head] = None

    for head in waits:
        visit(head)
    return list(found)


# Making it.


def build(
    store: Store,
    targets: Sequence[Artefact],
    *,
    log: Path | None = None,
    begin: Callable[[str], None] = lambda stage: None,
) -> None:
    """Make what a store lacks of some targets, in this process.

    Args:
        log: receives what child processes print.
        begin: called with the stage of what is made next.

    Raises:
        DirePlugError: a step failed, what is finished is kept; or what is made is never what it was made from.
        RunBusyError: another process makes the same, and the store doesn't wait.
    """
    for _ in range(ROUNDS):
        if not (groups := cut(missing(store, targets))):
            return
        # an input that was made again with other bits: what is missing is more than it was
        with contextlib.suppress(OutOfDateError):
            for group in groups:
                begin(group.stage)
                make_group(store, group, log=log)
    if left := missing(store, targets):
        raise DirePlugError(
            f"{left[0].name}: is out of date again each time that it is made: is something else changing the store "
            f"{store.root}? Run the command again when that has ended"
        )


def make_group(store: Store, group: Group, *, log: Path | None = None) -> None:
    """Make the members of a group that a store lacks; what they are made from is there.

    Raises:
        DirePlugError: a step failed.
        OutOfDateError: something that it needs is gone or damaged.
        RunBusyError: another process makes the same, and the store doesn't wait.
    """
    wanted = [one for one in group.members if not one.transient]
    if all(store.find(one) is not None for one in wanted):
        return
    places: dict[str, Path] = {}
    with contextlib.ExitStack() as ending:
        for one in group.members:
            if one.transient:
                # for as long as there are consumers: another process that wants them waits here, and finds them made
                ending.enter_context(store.holding(one))
        for one in wanted:
            if store.find(one) is not None:
                continue
            for other in one.inputs.values():
                if other.transient and other.name not in places:
                    places[other.name] = ending.enter_context(_transient(store, other, log))
            if one.together is None:
                _make_one(store, one, places, log)
            else:
                key = one.together.key
                several = [each for each in wanted if each.together is not None and each.together.key == key]
                _make_together(store, several, group, log)


def _make_one(store: Store, one: Artefact, places: Mapping[str, Path], log: Path | None) -> None:
    inputs = _folders(store, one, places)
    parts = tuple(_folder(store, one, other) for other in one.parts)

    def make(folder: Path) -> None:
        assert one.make is not None, f"{one.name}: nothing says how it is made"
        one.make(Work(folder, inputs, parts, log))

    store.ensure(one, make, seconds=partial(_add_seconds, store, one.parts) if one.parts else None)


def _add_seconds(store: Store, parts: Iterable[Artefact]) -> float | None:
    """Return the seconds that something took which was put together: those of its parts; None if one isn't known."""
    each = [made["seconds"] for one in parts if (made := store.how_made(one)) is not None]
    return None if None in each else float(sum(each))


def _make_together(store: Store, members: Sequence[Artefact], group: Group, log: Path | None) -> None:
    together = members[0].together
    assert together is not None, "these are made one by one"
    place = _place(together.shared, members if group.apart else ())
    behind = [other for one in (place, *members) for other in one.inputs.values()]
    with store.holding(place):
        lacking = [one for one in members if store.find(one) is None]
        if lacking:
            folder = store.work(place, inputs=behind)

            def publish(one: Artefact, made: Path, seconds: float | None) -> None:
                with store.holding(one, wait=True):
                    if store.find(one) is None:
                        store.publish(one, made, seconds=seconds)
                    else:
                        shutil.rmtree(made, ignore_errors=True)
                # what goes on from this one was begun from it as it is now
                store.work(place, inputs=behind)

            together.make(lacking, SharedWork(folder, lambda one: _folders(store, one, {}), publish, log))
        store.drop_work(place)
    if left := [one for one in lacking if store.find(one) is None]:
        raise DirePlugError(f"{left[0].name}: wasn't made by the step that makes it; that step is wrong")


def _place(shared: Artefact, only: Sequence[Artefact]) -> Artefact:
    """Return what a group has its work folder and its lease under, or a process that makes some of it alone."""
    if not only:
        return shared
    return Artefact(shared.kind, {**shared.decided_by, "only": sorted(one.name for one in only)}, shared.inputs)


@contextlib.contextmanager
def _transient(store: Store, one: Artefact, log: Path | None) -> Iterator[Path]:
    """Yield the folder of what isn't kept, made in scratch if that has room, else in its work folder.

    In scratch it is gone however the block ends; an error leaves the work folder, in which the next process goes on.
    """
    inputs = _folders(store, one, {})
    assert one.make is not None, f"{one.name}: nothing says how it is made"
    root = None if store.has_work(one) else scratch_root(store.root)
    with contextlib.ExitStack() as ending:
        if root is not None and shutil.disk_usage(root).free >= one.cost().disk:
            folder = ending.enter_context(scratch_folder(root, one.kind))
        else:
            folder = store.work(one)
        one.make(Work(folder, inputs, (), log))
        yield folder
        store.drop_work(one)


def _folders(store: Store, one: Artefact, places: Mapping[str, Path]) -> dict[str, Path]:
    """Return role → folder of what an artefact is made from, and of what its making reads."""
    given = {**one.inputs, **one.reads}
    return {role: places.get(other.name) or _folder(store, one, other) for role, other in given.items()}


def _folder(store: Store, one: Artefact, other: Artefact) -> Path:
    """Return the folder of something that `one` needs; make it first where no other process does.

    Raises:
        OutOfDateError: it isn't there, was damaged, or was made from something else.
    """
    if other.leaf is not None:
        return other.leaf()
    if (found := store.find(other)) is not None:
        return found
    if not other.unit:
        make_group(store, Group((other,), frozenset()))
        return store.path(other)
    trouble = "was damaged, or edited, or made from something else" if store.has(other) else "isn't there"
    raise OutOfDateError(
        f"{one.title or one.name}: {other.name}, from which it is made, {trouble}; run the same command again"
    )
