"""Decide which entries stay in the store: register folders of runs, weigh entries, and `clean` what no run names.

A folder of runs is registered before its first run uses an entry. What its runs name stays; where the folder can't be
read, as on a disk that isn't mounted, what it named when it was last read stays.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dire_plug import home, ui
from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import format_bytes, read_json, write_atomically, write_json
from dire_plug.store.artefacts import JOBS, LEASES, WORK, lease_of, read_entry
from dire_plug.store.lease import Lease, find_left, hold, holder, remove_left, until_kept
from dire_plug.store.runs import ARTEFACTS, RERUN, RunFolder

ROOTS = "roots.json"
"""In the store: folder of runs → {"names"}: what its runs named when it was last read; null if that is unknown."""
MARK = ".dire-plug-runs"
"""In a registered folder of runs; where it is missing, so is the folder: a mount point is empty without its disk."""
KINDS = tuple(kind for kinds in RERUN.values() for kind in kinds)
"""The kinds of entries, in the order of the stages."""
SERVING = ("radii", "reference")
"""Kinds that no run names, but that the next arm in the same embeddings needs; they stay as long as these do."""
WEEK = 7.0
"""Days that an entry stays even if no run names it."""
MONTH = 30.0
"""Days that the folder of a job stays: a cluster may let a job wait for weeks."""


@dataclass(frozen=True)
class Entry:
    """An entry as it lies in the store.

    Attributes:
        record: entry.json; empty where it can't be read.
    """

    path: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`<kind>/<digest>`."""
        return f"{self.kind}/{self.path.name}"

    @property
    def kind(self) -> str:
        """The name of its folder."""
        return self.path.parent.name

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the entries that it is made from."""
        return tuple(self.record.get("inputs", {}).values())

    @property
    def made(self) -> Mapping[str, Any]:
        """How it was made, wherever that was."""
        found: Mapping[str, Any] = self.record.get("made", {})
        return found

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(weigh([self.path]))

    @property
    def days(self) -> float:
        """Days since it came into this store."""
        times = [self.record[key].get("when") for key in ("made", "imported") if key in self.record]
        with contextlib.suppress(TypeError, ValueError):
            now = datetime.datetime.now(datetime.UTC)
            return min((now - datetime.datetime.fromisoformat(one)).total_seconds() for one in times) / 86400
        return _days_since_change(self.path)


def list_entries(store: Path, kinds: Iterable[str] = KINDS) -> list[Path]:
    """Return the folders of the entries that the store holds, by kind."""
    return [path for kind in kinds for path in sorted((store / kind).glob("[!.]*")) if path.is_dir()]


def read_entries(store: Path, kinds: Iterable[str] = KINDS) -> dict[str, Entry]:
    """Return name → entry of all that the store holds, by kind, the oldest first."""
    found = [Entry(path, read_entry(path) or {}) for path in list_entries(store, kinds)]
    found.sort(key=lambda one: (KINDS.index(one.kind), str(one.made.get("when", ""))))
    return {one.name: one for one in found}


def with_inputs(inputs: Mapping[str, Iterable[str]], names: Iterable[str]) -> list[str]:
    """Return these names and those of all that they are made from, inputs first, each once.

    Args:
        inputs: name → what it is made from; where one is missing, that isn't known.
    """
    graph: dict[str, list[str]] = {}
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) not in graph:
            graph[name] = sorted(inputs.get(name, ()))
            waiting += graph[name]
    return list(TopologicalSorter(dict(sorted(graph.items()))).static_order())


# Folders of runs.


def register(store: Path, root: Path, names: Iterable[str]) -> None:
    """Remember a folder of runs, and what one of its runs names, before that run uses any of it.

    A `clean` at the same time ends before this returns, and one that begins later knows the names. A store that can't
    be written is used nevertheless.
    """
    try:
        _register(store, root, names)
    except (DirePlugError, OSError) as error:
        ui.say_once(f"store: this folder of runs isn't registered, so `clean` may remove what it names: {error}")


@until_kept
def _register(store: Path, root: Path, names: Iterable[str]) -> None:
    with _holding_roots(store) as lease:
        roots = _read_roots(store)
        known = roots.get(str(root))
        before, troubles = (set(known), []) if known is not None else _read_runs(_run_folders(root))
        named = None if troubles else sorted(before.union(names))
        # a mount point without its disk is an empty folder; the mark tells it from a folder without runs
        if not (root / MARK).is_file():
            write_atomically(root / MARK, f"The runs here name entries of a store; its {ROOTS} names this folder.\n")
            if home.runs_beside_user() and root == home.runs():
                ui.say_once(f"runs lie in {root}, what they share in {store}; --out or DIRE_PLUG_HOME changes that")
        if str(root) not in roots or named != known:
            lease.require()
            _write_roots(store, {**roots, str(root): named})


def forget(store: Path, root: Path) -> None:
    """Forget a folder of runs that is gone for good, and what it named.

    Raises:
        DirePlugError: it isn't registered, or still exists.
    """
    with _holding_roots(store) as lease:
        roots = _read_roots(store)
        if str(root) not in roots:
            known = ", ".join(sorted(roots)) or "none"
            raise DirePlugError(f"--forget {root}: no such folder of runs is registered; registered: {known}")
        if (root / MARK).is_file():
            raise DirePlugError(f"--forget {root}: the folder is still there; remove it, or the runs in it, first")
        lease.require()
        _write_roots(store, {one: names for one, names in roots.items() if one != str(root)})


def runs_naming(store: Path, more: Collection[Path] = ()) -> dict[str, int]:
    """Return name of an entry → in how many runs it is, of the folders of runs that can be read.

    Args:
        more: folders of runs that count although they aren't registered.
    """
    found: dict[str, int] = {}
    for root in {*map(Path, _read_roots(store)), *more}:
        with contextlib.suppress(OSError):  # `clean` reports what can't be read, where it matters
            for run in _run_folders(root):
                with contextlib.suppress(DirePlugError):
                    for name in run.artefacts():
                        found[name] = found.get(name, 0) + 1
    return found


def _read_roots(store: Path) -> dict[str, list[str] | None]:
    """Return folder of runs → what its runs named when it was last read; None where that is unknown."""
    if not (store / ROOTS).is_file():
        return {}
    found = read_json(store / ROOTS)
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise DirePlugError(f"{store / ROOTS}: holds no folders of runs; remove it, and run a command in each of them")
    return {root: one.get("names") for root, one in found.items()}


def _write_roots(store: Path, roots: Mapping[str, list[str] | None]) -> None:
    write_json(store / ROOTS, {root: {"names": names} for root, names in sorted(roots.items())})


@contextlib.contextmanager
def _holding_roots(store: Path) -> Iterator[Lease]:
    with hold(
        store / LEASES / "roots.lease", wait=float("inf"), what=f"the list of folders of runs in {store}"
    ) as lease:
        yield lease


def _run_folders(root: Path) -> list[RunFolder]:
    """Return the runs below a folder, also those that have just been begun, and the sets that were evaluated there.

    Raises:
        OSError: a folder can't be read.
    """
    if not root.is_dir():
        return []
    # not glob, which passes over a folder that it may not read
    methods = _folders_in(root)
    recipes = [folder for method in methods for folder in _folders_in(method)]
    runs = [folder for recipe in recipes for folder in _folders_in(recipe)]
    found = [*runs, *(folder for folder in recipes if folder.parent.name == "sets")]
    return [RunFolder(path) for path in found if any((path / name).is_file() for name in ("status.json", ARTEFACTS))]


def _folders_in(folder: Path) -> list[Path]:
    return sorted(Path(one.path) for one in os.scandir(folder) if one.is_dir())


def _read_named(store: Path, more: Collection[Path]) -> tuple[dict[str, list[str]], set[str], list[str], bool]:
    """Return what runs name.

    Returns:
        folder of runs that can be read → what is named there; all that is named, there or in folders that can't be
        read; notes for the user; and whether all is known: where not, anything may be named.
    """
    by_root: dict[str, list[str]] = {}
    names, notes, known = set[str](), list[str](), True
    registered = _read_roots(store)
    for root in sorted({*map(str, more), *registered}):
        try:
            if root in registered and not (Path(root) / MARK).is_file():
                raise FileNotFoundError(root)
            folders = _run_folders(Path(root))
        except OSError:
            if (remembered := registered.get(root)) is None:
                known = False
                notes.append(f"{root}: can't be read, and what its runs name isn't known, so every entry stays")
            else:
                names.update(remembered)
                notes.append(f"{root}: can't be read; the {len(remembered)} entries that it named stay")
                notes.append(f"  if it is gone for good: dire-plug clean --forget {shlex.quote(root)} --yes")
            continue
        found, troubles = _read_runs(folders)
        known = known and not troubles
        notes += [f"{trouble}; until then every entry stays" for trouble in troubles]
        by_root[root] = sorted(found)
        names |= found
    return by_root, names, notes, known


def _read_runs(folders: Iterable[RunFolder]) -> tuple[set[str], list[str]]:
    """Return what runs name, and the errors of those that can't be read."""
    found, troubles = set[str](), list[str]()
    for run in folders:
        try:
            if not (run.path / ARTEFACTS).is_file():
                raise DirePlugError(f"{run.path}: has no {ARTEFACTS}; run its command again, or remove it")
            found.update(run.artefacts())
        except DirePlugError as error:
            troubles.append(str(error))
    return found, troubles


# Cleaning.


@dataclass(frozen=True)
class Cleaning:
    """The entries and files that `clean` removes, or removed.

    Attributes:
        entries: name → bytes of those that no run names.
        folders: unfinished work that no process continues, folders of old jobs, and leftovers of an interrupted
            `clean` or replacement.
        leases: files of leases whose holders have ended, or that expired.
        bytes: that become free.
        linked: that don't, since runs keep the same files.
        named, young: how many entries stay since they are named, or came less than so many days ago.
        notes: what else stays, and why.
    """

    entries: Mapping[str, int]
    folders: tuple[Path, ...]
    leases: tuple[Path, ...]
    bytes: int
    linked: int
    named: int
    young: int
    notes: tuple[str, ...]


def plan_cleaning(store: Path, *, days: float = WEEK, more: Collection[Path] = ()) -> Cleaning:
    """Return what `clean` would remove.

    Args:
        days: entries and work folders stay that are younger.
        more: folders of runs that count although they aren't registered.

    Raises:
        DirePlugError: the list of folders of runs can't be read.
    """
    by_root, names, notes, known = _read_named(store, more)
    return _plan(store, names, notes, days=days, removes=known, roots=by_root)


def clean(store: Path, *, days: float = WEEK, more: Collection[Path] = ()) -> Cleaning:
    """Remove what no run names, and return it; arguments and errors as in `plan_cleaning`.

    Entries are moved away while no run can begin, and removed afterwards, so that none is ever there in part.
    """
    if not store.is_dir():
        return plan_cleaning(store, days=days, more=more)
    trash = store / WORK / f".removed-{uuid.uuid4().hex}"
    with _holding_roots(store) as lease:
        by_root, names, notes, known = _read_named(store, more)
        planned = _plan(store, names, notes, days=days, removes=known, roots=by_root)
        trash.mkdir(parents=True)
        gone, notes = dict[str, int](), list(planned.notes)
        for name, size in planned.entries.items():
            try:
                with hold(lease_of(store, name), what=name):
                    # a rename under the lease: a run that begins now finds the entry whole, or not at all
                    os.rename(store / name, trash / name.replace("/", "-"))
                gone[name] = size
            except RunBusyError as error:
                notes.append(f"stays: {error}")
        for number, path in enumerate(planned.folders):
            with contextlib.suppress(FileNotFoundError):  # another `clean` has removed it
                # two may have one name, such as the pixels of two copies of a dataset
                os.rename(path, trash / f"{number}-{path.name}")
        roots = _read_roots(store)
        if known and roots:
            lease.require()
            _write_roots(store, {root: by_root.get(root, named) for root, named in roots.items()})
    for path in planned.leases:
        remove_left(path)
    freed, linked = weigh([trash])
    shutil.rmtree(trash, ignore_errors=True)
    return replace(planned, entries=gone, bytes=freed, linked=linked, notes=tuple(notes))


def _plan(
    store: Path, names: Collection[str], notes: Sequence[str], *, days: float, removes: bool, roots: Iterable[str]
) -> Cleaning:
    """Return what would be removed.

    Args:
        names: all that runs name.
        notes: for the user.
        removes: whether any entry may go.
        roots: folders of runs that can be read; leases of runs lie in them too.
    """
    entries = read_entries(store)
    queued = {name for makes, needs in _read_jobs(store) if not makes <= entries.keys() for name in makes | needs}
    stay = set(with_inputs({name: one.inputs for name, one in entries.items()}, queued.union(names)))
    # `issuperset` of no inputs is true, but both kinds have some
    stay |= {name for name, one in entries.items() if one.kind in SERVING and stay.issuperset(one.inputs)}
    others = [one for name, one in entries.items() if name not in stay]
    young = [one for one in others if one.days < days]
    old = [one for one in others if one.days >= days]
    notes = list(notes)
    held = {one.name: who for one in old if (who := holder(lease_of(store, one.name))) is not None}
    notes += [f"{name}: stays, since {who} holds it" for name, who in held.items()]
    going = [one for one in old if one.name not in held] if removes else []
    folders, more = _left_behind(store, days=days)
    freed, linked = weigh([*(one.path for one in going), *folders])
    return Cleaning(
        entries={one.name: one.bytes for one in going},
        folders=tuple(folders),
        leases=(*find_left(store / LEASES), *(path for root in roots for path in _leases_left(Path(root)))),
        bytes=freed,
        linked=linked,
        named=len(entries) - len(others),
        young=len(young),
        notes=(*notes, *more),
    )


def _read_jobs(store: Path) -> Iterator[tuple[set[str], set[str]]]:
    """Yield what each job makes and needs, by names; jobs whose unit can't be read are left out."""
    for file in sorted((store / JOBS).glob("*/unit.json")):
        with contextlib.suppress(DirePlugError, KeyError, TypeError):
            unit = read_json(file)
            yield set(unit["makes"]), set(unit["needs"])


def _left_behind(store: Path, *, days: float) -> tuple[list[Path], list[str]]:
    """Return the folders that no process works on, and notes for the user on the others."""
    found, notes = list[Path](), list[str]()
    holders = {path.name.partition("-")[0]: who for path in (store / LEASES).glob("*.lease") if (who := holder(path))}
    for folder in sorted((store / WORK).glob("*")):
        if folder.name.startswith("."):
            found.append(folder)  # left by an interrupted `clean`
        elif _days_since_change(folder) >= days:
            # a pass is made under the lease of its synthesis, whose name the folder's doesn't hold
            if (who := holders.get(folder.name.partition("-")[0])) is None:
                found.append(folder)
            else:
                notes.append(f"{WORK}/{folder.name}: stays, since {who} may work on it")
    jobs = store / JOBS
    for path in (*sorted(jobs.glob("*-*")), *sorted(jobs.glob("submissions/*.json")), *jobs.glob("submissions/*/*")):
        if _days_since_change(path) >= max(days, MONTH) and not any(holder(lease) for lease in path.glob("*.lease")):
            found.append(path)
    # a listing is valid as long as its folder is as it was; of one that is gone there will be no use
    for folder in sorted((store / home.LISTINGS).glob("*/")):
        if _days_since_change(folder) >= days and not any(map(_has_root, folder.glob("*.json"))):
            found.append(folder)
    # decoded images of a user's own folder, whose record is touched at each use
    for folder in sorted((store / home.LISTINGS).glob("*/pixels-*/")):
        if _days_since_change(folder) >= days and folder.parent not in found:
            found.append(folder)
    # statistics of training images, likewise
    found += [path for path in (store / home.LISTINGS).glob("statistics-*.json") if _days_since_change(path) >= days]
    replaced = [path for kind in KINDS for path in sorted((store / kind).glob(".*"))]
    return [*found, *(path for path in replaced if _days_since_change(path) >= days)], notes


def _has_root(listing: Path) -> bool:
    """Return whether the folder that was listed is there."""
    try:
        return Path(read_json(listing)["root"]).is_dir()
    except (DirePlugError, KeyError, TypeError):
        return False


def _leases_left(root: Path) -> list[Path]:
    """Return what is left of leases of runs and sets: they lie beside the folders of these."""
    return [path for folder in sorted((*root.glob("*/"), *root.glob("*/*/"))) for path in find_left(folder)]


def _days_since_change(folder: Path) -> float:
    """Return days since something in a folder was written, or the folder itself moved."""
    now = datetime.datetime.now().timestamp()
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, path.stat().st_mtime)
    return (now - newest) / 86400


def weigh(folders: Iterable[Path]) -> tuple[int, int]:
    """Return the bytes that become free without these folders, and those of files that are linked from elsewhere."""
    seen: dict[tuple[int, int], tuple[int, os.stat_result]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                found = path.stat()
                key = found.st_dev, found.st_ino
                seen[key] = seen.get(key, (0, found))[0] + 1, found
    freed = sum(found.st_size for links, found in seen.values() if links >= found.st_nlink)
    return freed, sum(found.st_size for _, found in seen.values()) - freed


def in_words(cleaning: Cleaning) -> str:
    """Return the line on what space becomes free."""
    linked = f"; {format_bytes(cleaning.linked)} more stay, in files that runs keep" if cleaning.linked else ""
    return f"{format_bytes(cleaning.bytes)}{linked}"
