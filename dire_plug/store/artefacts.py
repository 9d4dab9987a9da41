"""Keep artefacts in the store: the results of stages, under the digest of all that decided them and of nothing else.

An entry is the folder `<kind>/<digest>` below the store, whole or absent. Beside its files it holds entry.json: what
decided it, the sha256 of each file, the entries that it was made from with their contents, and how it was made. An
entry is hashed when it is reused; one that was damaged, or made from an input that has another content now, is made
again, with a message.

An entry is made under a lease (`store.lease`), in a work folder that bears the lease's name. Of two processes that make
the same one, which happens where the first lost its lease, one publishes, and the other discards what it made.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, digest_file, make_folder, read_json, write_json
from dire_plug.seeding import deterministic
from dire_plug.store import provenance
from dire_plug.store.lease import Lease, hold
from dire_plug.store.schema import Record, find_misfit
from dire_plug.types.artefact import Artefact

ENTRY = "entry.json"
MADE_FROM = "made_from.json"
"""In a work folder: the contents of the inputs from which it was begun."""
WORK, LEASES, JOBS = "work", "leases", "jobs"
"""Folders of the store that hold no entries: what is being made, by whom, and what executors were given."""
PART_OF_USE = 8
"""Characters of a lease's `use` in the name of a work folder."""

Made = Mapping[str, Any]
"""How an entry was made: {"when", "seconds", "commit", "versions", "hardware", "command"}."""


_content: dict[tuple[Path, tuple[Any, ...]], str] = {}
"""(Entry, sizes and times of its files) → digest of its content, as hashed by this process."""


class Store:
    """The entries below one folder."""

    def __init__(self, root: Path, *, device: str = "cpu", rerun: Iterable[str] = (), wait: bool = True) -> None:
        """Open the store.

        Args:
            root: its folder, which need not exist.
            device: on which entries are made here, for their provenance.
            rerun: kinds or stages whose entries are made again, each once, although they are there.
            wait: for another process that makes the same entry.
        """
        self.root = root
        self._device = device
        self.made: set[str] = set()
        """Names of the entries that were made here, by this process."""
        self.rerun = frozenset(rerun)
        """Kinds and stages that are made again, each entry once."""
        self._wait = float("inf") if wait else 0
        self._sound: set[str] = set()
        # name → the lease that this process has, and what was there when it took it
        self._held: dict[str, tuple[Lease, int | None]] = {}

    def path(self, artefact: Artefact) -> Path:
        """Return the folder of an entry, which is there if the entry is."""
        return self.root / artefact.name

    def has(self, artefact: Artefact) -> bool:
        """Return whether an entry exists; its content isn't checked."""
        return (self.path(artefact) / ENTRY).is_file()

    def reruns(self, artefact: Artefact) -> bool:
        """Return whether an entry is to be made again although it is there, and hasn't been yet."""
        return not self.rerun.isdisjoint((artefact.kind, artefact.stage)) and artefact.name not in self.made

    def is_whole(self, artefact: Artefact) -> bool:
        """Return whether an entry is there, undamaged, and made from its inputs as they are now; say nothing."""
        if artefact.name in self._sound and self.path(artefact).is_dir():
            return True
        return self.has(artefact) and self._trouble(artefact, self.path(artefact)) is None

    def find(self, artefact: Artefact) -> Path | None:
        """Return the folder of an undamaged entry; None where there is none, or it must be made again."""
        entry = self.path(artefact)
        # hashed before by this process; looked for all the same, since `clean` may have removed it
        if artefact.name in self._sound and entry.is_dir():
            return entry
        if not self.has(artefact):
            return None
        if self.reruns(artefact):
            return None
        if (trouble := self._trouble(artefact, entry)) is not None:
            ui.say_once(f"store: {artefact.name} {trouble}; it is made again")
            return None
        self._sound.add(artefact.name)
        return entry

    def read(self, name: str) -> Artefact | None:
        """Return the artefact whose entry has this name, as the entries that it is made from tell it.

        None where one of them isn't there, or isn't what its name says.
        """
        return self._read(name, {})

    def _read(self, name: str, known: dict[str, Artefact | None]) -> Artefact | None:
        if name not in known:
            recorded = self._recorded(name)
            known[name] = None if recorded is None else self._rebuild(name, recorded, known)
        return known[name]

    def _rebuild(self, name: str, recorded: dict[str, Any], known: dict[str, Artefact | None]) -> Artefact | None:
        inputs = {role: found for role, one in recorded["inputs"].items() if (found := self._read(one, known))}
        made = Artefact(recorded["kind"], recorded["decided_by"], inputs)
        return made if made.name == name else None

    def ensure(
        self, artefact: Artefact, make: Callable[[Path], None], *, seconds: Callable[[], float | None] | None = None
    ) -> Path:
        """Return the folder of an entry; call `make` with a work folder to fill it where it isn't there.

        The work folder outlives a killed process, so that `make` can resume. Processes that want the same entry wait
        for each other, with a message.

        Args:
            make: fills the folder.
            seconds: returns what the entry took, None if unknown; by default the time of `make`.

        Raises:
            DirePlugError: the entry cannot be written.
        """
        if (found := self.find(artefact)) is not None:
            return found
        with self.holding(artefact):
            # again: another process may have made it while this one waited
            if (found := self.find(artefact)) is not None:
                return found
            work, began = self.work(artefact), time.monotonic()
            make(work)
            took = time.monotonic() - began
            return self.publish(artefact, work, seconds=took if seconds is None else seconds())

    @contextlib.contextmanager
    def holding(self, artefact: Artefact, *, wait: bool = False) -> Iterator[None]:
        """Hold the lease of an entry for making it, on deterministic kernels; wait for another process that has it.

        Args:
            wait: also where the store doesn't wait: for what another process does in a moment.

        Raises:
            RunBusyError: another process has the lease, and this store doesn't wait.
            LeaseLostError: another process took it over while the block ran, which failed or published.
        """
        wait_for = float("inf") if wait else self._wait
        with hold(
            lease_of(self.root, artefact.name), wait=wait_for, what=f"the store's entry {artefact.name}"
        ) as lease:
            self._held[artefact.name] = lease, identify(self.path(artefact))
            try:
                with deterministic(self._device):
                    yield
            finally:
                work = self._own_work(artefact)
                del self._held[artefact.name]
                # what was written after another process had moved the work folder on
                if not (work / MADE_FROM).is_file() and lease.is_lost():
                    shutil.rmtree(work, ignore_errors=True)

    def work(self, artefact: Artefact, *, inputs: Iterable[Artefact] | None = None) -> Path:
        """Return the work folder of an entry, made if there is none; it isn't the entry until it is published.

        That of an earlier holder of the lease is taken over by renaming it, since a holder that comes back may write
        into the old one. One that was begun from inputs with another content is emptied, with a message.

        Args:
            inputs: what is made in it is made from; None takes those of the artefact.

        Raises:
            LeaseLostError: this process lost a lease under which it works.
        """
        self._require_leases()
        folder = self._own_work(artefact)
        used = self._contents(artefact.inputs.values() if inputs is None else inputs)
        record = folder / MADE_FROM
        for left in self._works(artefact):
            if left == folder:
                continue
            # without a record it is what a holder wrote after it had lost the lease
            if (left / MADE_FROM).is_file() and not folder.exists():
                os.rename(left, folder)
            else:
                shutil.rmtree(left, ignore_errors=True)
        began_with = read_json(record) if record.is_file() else {}
        if any(used.get(name, content) != content for name, content in began_with.items()):
            ui.say(f"store: {artefact.name} was begun from other inputs than those in the store now; it starts again")
            shutil.rmtree(folder)
            began_with = {}
        make_folder(folder)
        write_json(record, began_with | used)
        return folder

    def has_work(self, artefact: Artefact) -> bool:
        """Return whether an earlier process, or this one, began to make an entry in a work folder."""
        return any((left / MADE_FROM).is_file() for left in self._works(artefact))

    def drop_work(self, artefact: Artefact) -> None:
        """Remove the work folder of an entry, if there is one.

        Raises:
            LeaseLostError: this process lost a lease under which it works.
        """
        self._require_leases()
        for left in self._works(artefact):
            shutil.rmtree(left, ignore_errors=True)

    def _own_work(self, artefact: Artefact) -> Path:
        name = artefact.name.replace("/", "-")
        held = self._held.get(artefact.name)
        return self.root / WORK / (name if held is None else f"{name}.{held[0].holder.use[:PART_OF_USE]}")

    def _works(self, artefact: Artefact) -> list[Path]:
        """Return the work folders of an entry, whichever process they are or were."""
        return sorted((self.root / WORK).glob(f"{artefact.name.replace('/', '-')}*"))

    def _require_leases(self) -> None:
        for lease, _ in list(self._held.values()):
            lease.require()

    def publish(self, artefact: Artefact, folder: Path, *, seconds: float | None) -> Path:
        """Make a folder of this file system the entry, by a rename; return its path.

        An entry that was there when the lease was taken is replaced. One that another process has published since
        stays, and the folder is discarded.

        Args:
            seconds: that it took; None if unknown.

        Raises:
            LeaseLostError: this process lost a lease under which it works; nothing is published.
            DirePlugError: the entry cannot be written.
        """
        entry = self.path(artefact)
        _, before = self._held.get(artefact.name, (None, identify(entry)))
        # before entry.json is written, which isn't part of the content: it holds times
        files = {name: digest_file(path) for name, path in entry_files(folder)}
        content: dict[str, Any] = {
            "kind": artefact.kind,
            "decided_by": dict(artefact.decided_by),
            "inputs": {role: one.name for role, one in artefact.inputs.items()},
            "made_from": self._contents(artefact.inputs.values()),
            "files": files,
            "content": digest(files),
            "made": {
                "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "seconds": None if seconds is None else round(seconds, 3),
                **provenance.session(self._device),
            },
        }
        write_json(folder / ENTRY, content)
        self._require_leases()
        # as late as can be: without it `work` takes the folder for one of unknown inputs
        (folder / MADE_FROM).unlink(missing_ok=True)
        placed = put(folder, entry, instead_of=before)
        self.made.add(artefact.name)
        # what was made from it may be made from something else now
        self._sound.clear()
        if placed:
            self._sound.add(artefact.name)
            _content[entry, _signature(entry)] = content["content"]
        return entry

    def how_made(self, artefact: Artefact) -> Made | None:
        """Return how an entry was made; None where it isn't there."""
        found = self._recorded(artefact.name)
        return None if found is None else found["made"]

    def content(self, artefact: Artefact) -> str:
        """Return the digest of the content of an entry that is there."""
        found = self._recorded(artefact.name)
        if found is None:
            raise DirePlugError(f"{self.path(artefact)}: the store has no such entry; run the command again")
        return str(found["content"])

    def _contents(self, inputs: Iterable[Artefact]) -> dict[str, str]:
        """Return name → digest of the content, of those inputs that are in the store."""
        found = {one.name: self._recorded(one.name) for one in inputs}
        return {name: str(recorded["content"]) for name, recorded in sorted(found.items()) if recorded is not None}

    def _recorded(self, name: str) -> dict[str, Any] | None:
        return read_entry(self.root / name)

    def _trouble(self, artefact: Artefact, entry: Path) -> str | None:
        """Return the problem of an entry that exists, in words; None where there is none."""
        recorded = self._recorded(artefact.name)
        if recorded is None:
            return "has no readable entry.json"
        try:
            if hash_entry(entry) != recorded["content"]:
                return "was damaged, or edited"
        except OSError as error:
            return f"can't be read ({error.strerror})"
        if (misfit := find_misfit(entry)) is not None:
            return f"doesn't hold what is read of it ({misfit})"
        for one in artefact.inputs.values():
            now, then = self._recorded(one.name), recorded["made_from"].get(one.name)
            if now is not None and then is not None and now["content"] != then:
                return f"was made from another {one.kind} than the one that is here ({one.name})"
        return None


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy where the file system has none.

    Another file there is replaced; a target that is the same file already stays.
    """
    make_folder(target.parent)
    with contextlib.suppress(FileNotFoundError):
        # a link to itself would first be removed
        if os.path.samefile(source, target):
            return
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def differences(made: Made, here: Made) -> list[str]:
    """Return how an entry's making differs from this process, as "threads 2 (here 1)"."""
    then, now = made.get("hardware", {}), here["hardware"]
    pairs = [(name, then.get(name), now.get(name)) for name in ("device", "threads", "card", "processor")]
    pairs.append(("torch", made.get("versions", {}).get("torch"), here["versions"].get("torch")))
    return [f"{name} {old} (here {new})" for name, old, new in pairs if old != new]


def lease_of(root: Path, name: str) -> Path:
    """Return the file of the lease of an entry of the store at `root`."""
    return root / LEASES / f"{name.replace('/', '-')}.lease"


def read_entry(entry: Path) -> dict[str, Any] | None:
    """Return entry.json of an entry, or None where there is none that can be read."""
    if not (entry / ENTRY).is_file():
        return None
    with contextlib.suppress(DirePlugError, ValidationError):
        found: dict[str, Any] = read_json(entry / ENTRY)
        Record.model_validate(found)
        return found
    return None


def identify(entry: Path) -> int | None:
    """Return a number that an entry doesn't share with another one put in its place; None where there is none."""
    try:
        return entry.stat().st_ino
    except FileNotFoundError:
        return None


def is_sound(root: Path, name: str) -> bool | None:
    """Return whether an entry of the store at `root` is as it was published; None where it isn't there."""
    recorded = read_entry(root / name)
    if recorded is None:
        return False if (root / name).is_dir() else None
    try:
        return hash_entry(root / name) == str(recorded["content"]) and find_misfit(root / name) is None
    except OSError:
        return False


def put(folder: Path, entry: Path, *, instead_of: int | None) -> bool:
    """Make a whole folder of this file system the entry, by a rename; return whether it is.

    Args:
        instead_of: the entry to be replaced, by `identify`. If another one is there, that one stays, and the folder is
            removed.

    Raises:
        DirePlugError: the entry cannot be written.
    """
    for _, path in entry_files(folder):
        # run folders link to these files: an edit there would change the store
        path.chmod(0o444)
    make_folder(entry.parent)
    try:
        if instead_of is not None and identify(entry) == instead_of:
            # two renames, since a folder can't replace one that isn't empty; `clean` removes what a kill leaves
            old = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}")
            os.rename(entry, old)
            os.rename(folder, entry)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(folder, entry)
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            shutil.rmtree(folder, ignore_errors=True)
            return False
        raise DirePlugError(f"{entry}: cannot be written: {error.strerror}") from error


def hash_entry(entry: Path) -> str:
    """Return the digest of an entry's content; it is hashed once while sizes and times of its files stay the same."""
    key = entry, _signature(entry)
    if key not in _content:
        _content[key] = digest({name: digest_file(path) for name, path in entry_files(entry)})
    return _content[key]


def _signature(entry: Path) -> tuple[Any, ...]:
    stats = [(name, path.stat()) for name, path in entry_files(entry)]
    # the inode too: a file that was replaced by another may keep size and time
    return tuple((name, found.st_size, found.st_mtime_ns, found.st_ino) for name, found in stats)


def entry_files(folder: Path) -> list[tuple[str, Path]]:
    """Return the files of an entry, but for those that say how it was made, by their path in it."""
    found = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return sorted((name, path) for name, path in found if name not in (ENTRY, MADE_FROM))
