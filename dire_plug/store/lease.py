"""Leases: files that say which process works on something, on one machine or on many that share a file system.

A lease is renewed every 30 seconds from a thread, by touching its file. One that wasn't renewed for five minutes has
expired, and whoever waits for it takes it over, whatever host, boot or PID namespace its holder was in: only times
that the same file system gave are compared, never a clock of one machine with that of another. That file system's clock
may have been set back, so one that a process sees unchanged for five minutes has expired too. The lease of a process
that is known to have ended is taken over at once; that is known only within one PID namespace of one boot of a host.

So a holder that was suspended, or cut off from the file system, for longer than that may come back while another works
on the same. It notices when it renews its lease, and before it publishes anything (`Lease.require`): what it made since
is discarded, and `until_kept` starts again with what the store has. The two never write into one work folder, since the
folder bears the name of the lease under which it is used: the one that takes over renames it, so what the other still
writes lands elsewhere. If both publish in the same instant, one rename fails, and that process takes the other's entry.

A file is linked into its place under another name, which NFS does atomically, and that name exists only for as long as
an attempt takes: a killed process leaves its lease and, rarely, one file beside it. `clean` removes both.
"""

import contextlib
import errno
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from dire_plug import ui
from dire_plug.errors import DirePlugError, LeaseLostError, RunBusyError
from dire_plug.files import make_folder

SUFFIX = ".lease"
"""In the name of every file of a lease."""
RENEW = 30.0
"""Seconds from one renewal of a lease to the next."""
EXPIRES = 300.0
"""Seconds without renewal after which a lease may be taken over."""
SAY_AFTER = 2.0
"""Seconds of waiting after which a message says for which process."""
BREAKING = 60.0
"""Seconds to wait for another process that removes an expired lease, which takes milliseconds."""
FIRST_POLL, POLL_HERE, POLL = 0.2, 1.0, 5.0
"""Seconds from one look at another's lease to the next: at first, and at most, for a holder here and elsewhere."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says.

    Attributes:
        boot: id of the boot of the host; None where the system has none.
        namespace: PID namespace of the process; None where the system has none.
        started: when the process started, in kernel ticks; None where that isn't known.
        use: tells two uses by one process apart.
    """

    host: str
    boot: str | None
    namespace: str | None
    pid: int
    started: str | None
    use: str

    @classmethod
    def here(cls) -> "Holder":
        """Return this process, with a new `use`."""
        pid = os.getpid()
        return cls(socket.gethostname(), _boot(), _namespace(), pid, started_at(pid) or None, uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def suffix(self) -> str:
        """The suffix of the holder's own file, behind the name of the lease."""
        return f".{self.host}.{self.pid}.{self.use}"

    def is_here(self) -> bool:
        """Return whether its pid means the same process here."""
        return (self.host, self.boot, self.namespace) == (socket.gethostname(), _boot(), _namespace())

    def is_dead(self) -> bool:
        """Return whether it is known to have ended; its pid may belong to a later process."""
        if not self.is_here():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        now = started_at(self.pid)
        return now is not None and self.started is not None and self.started != now


class Lease:
    """A lease that this process took; another may have taken it over since."""

    def __init__(self, path: Path, holder: Holder, *, what: str, renew: float = RENEW) -> None:
        """Describe it.

        Args:
            what: the name of what is leased, for the message.
            renew: seconds between renewals.
        """
        self.path, self.holder, self.what, self.every = path, holder, what, renew
        self.due = time.monotonic() + renew
        """When it is to be renewed."""

    def is_lost(self) -> bool:
        """Return whether another process took it over, or somebody removed its file."""
        try:
            found = _look(self.path)
        except OSError:
            return False  # a file system that doesn't answer tells nothing; writing to it fails by itself
        return found is None or found.holder != self.holder

    def require(self) -> None:
        """Raise where it is lost.

        Raises:
            LeaseLostError: it is; what was made under it must not be used.
        """
        if not self.is_lost():
            return
        found = None
        with contextlib.suppress(OSError):
            found = _look(self.path)
        who = found.who if found else f"a process that has ended, or {self.path} was removed"
        raise LeaseLostError(
            f"{self.what} isn't this process's any more, which didn't renew its lease for {EXPIRES / 60:g} minutes: it "
            f"was taken over by {who}; what was made here since is discarded"
        )

    def renew(self) -> bool:
        """Touch the file if it is still ours; return whether it is."""
        self.due = time.monotonic() + self.every
        try:
            with self.path.open(errors="replace") as file:
                if _parse(file.read()) != self.holder:
                    return False
                # by the open file: the name may lead to another's lease by now
                os.utime(file.fileno())
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the next renewal tells
        return True

    def give_back(self) -> None:
        """Remove the file if it is still ours."""
        with contextlib.suppress(OSError):
            if not self.is_lost():
                self.path.unlink()


@contextlib.contextmanager
def hold(path: Path, *, wait: float = 0, what: str, renew: float = RENEW) -> Iterator[Lease]:
    """Hold the lease whose file is `path` while the block runs; take it over if it expired or its holder is dead.

    Args:
        wait: seconds to wait for another holder before giving up.
        what: the name of what is leased, for the message.
        renew: seconds between renewals.

    Raises:
        RunBusyError: another process holds it.
        LeaseLostError: the block failed after another process had taken the lease over.
        DirePlugError: the lease cannot be written.
    """
    make_folder(path.parent)
    lease = Lease(path, Holder.here(), what=what, renew=renew)
    # a child that was forked has neither its parent's thread nor its leases
    renewals = _renewals.setdefault(os.getpid(), _Renewals())
    try:
        try:
            _acquire(path, lease.holder, wait=wait, what=what)
        except OSError as error:
            raise DirePlugError(f"{path}: the lease cannot be written: {error.strerror or error}") from error
        renewals.add(lease)
        try:
            yield lease
        except LeaseLostError:
            raise
        except Exception as error:
            # what fails after the loss fails because of it: the work folder is gone, the entry is there
            try:
                lease.require()
            except LeaseLostError as lost:
                raise lost from error
            raise
    finally:
        renewals.remove(lease)
        lease.give_back()


def until_kept(work: Callable[P, T]) -> Callable[P, T]:
    """Let a function start again each time that it loses a lease; what it published until then is in the store."""

    @functools.wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            try:
                return work(*args, **kwargs)
            except LeaseLostError as error:
                ui.say_once(f"warning: {error}")
                ui.say("starting again with what the store has")

    return call


def read_holder(path: Path) -> Holder | None:
    """Return who holds a lease, alive or not; None where nobody does, or its file names nobody."""
    with contextlib.suppress(OSError):
        if found := _look(path):
            return found.holder
    return None


def holder(path: Path) -> str | None:
    """Return "process N on HOST" for the holder of a lease that hasn't expired, or None."""
    with contextlib.suppress(OSError):
        if (found := _look(path)) and not _is_over(path, found, _now(path)):
            return found.who
    return None


def find_left(folder: Path) -> list[Path]:
    """Return the files of leases in a folder whose holders have ended, or that weren't renewed for too long."""
    there = [path for path in sorted(folder.iterdir()) if SUFFIX in path.name] if folder.is_dir() else []
    # nothing is written into a folder without leases
    left, now = [], _now(folder / f".now{SUFFIX}") if there else None
    for path in there:
        with contextlib.suppress(OSError):
            if (found := _look(path)) and _is_over(path, found, now):
                left.append(path)
    return left


def remove_left(path: Path) -> None:
    """Remove what `find_left` found, unless another process has taken the lease over in the meantime."""
    with contextlib.suppress(OSError, DirePlugError):
        if (found := _look(path)) is None:
            return
        if found.holder is not None and path.name.endswith(found.holder.suffix):
            # nobody takes this one over: it is what a lease was to be linked to
            if _is_over(path, found, _now(path)):
                path.unlink()
        else:
            _break(path, wait=0, what=f"the lease {path}")


@dataclass(frozen=True)
class _Found:
    """A lease as another process finds it: its holder, None where the file names none, and its time in seconds."""

    holder: Holder | None
    renewed: float

    @property
    def who(self) -> str:
        return str(self.holder or "a process that its lease doesn't name")


def _is_over(path: Path, found: _Found, now: float | None) -> bool:
    """Return whether a lease's holder is dead, or it wasn't renewed for too long, by its time or before our eyes.

    Args:
        now: the time on its file system; None where no file can be written there that tells it.
    """
    if found.holder is not None and found.holder.is_dead():
        return True
    if now is not None and now - found.renewed > EXPIRES:
        return True
    before, since = _seen.get(path, (None, 0.0))
    if before != found:
        _seen[path] = found, time.monotonic()
        return False
    return time.monotonic() - since > EXPIRES


_seen: dict[Path, tuple[_Found, float]] = {}
"""Lease of another → as this process saw it last, and since when, by its own clock."""


def _acquire(path: Path, me: Holder, *, wait: float, what: str) -> None:
    began, pause, announced = time.monotonic(), FIRST_POLL, False
    while (attempt := _try(path, me)) is not None:
        found, now = attempt
        if _is_over(path, found, now):
            _break(path, wait=wait, what=what)
            continue
        trouble = (
            f"{what} is held by {found.who}; wait for it to end (a lease expires {EXPIRES / 60:g} minutes after its "
            f"last renewal: {path})"
        )
        waited = time.monotonic() - began
        if waited >= wait:
            raise RunBusyError(trouble)
        if waited >= SAY_AFTER and not announced:
            ui.say(f"waiting: {trouble}")
            announced = True
        time.sleep(min(pause, wait - waited))
        pause = min(1.5 * pause, POLL_HERE if found.holder is not None and found.holder.is_here() else POLL)


def _try(path: Path, me: Holder) -> tuple[_Found, float] | None:
    """Take a lease, or return who has it, and the time on its file system."""
    with _own_file(path, me) as mine:
        while not _link(mine, path):
            if (found := _look(path)) is not None:
                return found, _touch(mine)
    return None


def _break(path: Path, *, wait: float, what: str) -> None:
    """Remove a lease that is over.

    Only the holder of `path.break` does, after a second look: another process may have taken it over since, and that
    lease must stay.
    """
    with hold(path.with_name(f"{path.name}.break"), wait=max(wait, BREAKING), what=what):
        if (found := _look(path)) and _is_over(path, found, _now(path)):
            path.unlink()
            if found.holder is not None:
                path.with_name(f"{path.name}{found.holder.suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def _own_file(path: Path, me: Holder) -> Iterator[Path]:
    """Write a file beside a lease that says who we are; remove its name afterwards."""
    mine = path.with_name(f"{path.name}{me.suffix}")
    try:
        mine.write_text(json.dumps(asdict(me)))
        yield mine
    finally:
        mine.unlink(missing_ok=True)


def _link(mine: Path, path: Path) -> bool:
    try:
        # atomic on NFS too, where opening with O_EXCL wasn't always
        os.link(mine, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise OSError(error.errno, "its file system has no hard links; use a folder on another one") from error
    # NFS may report an error for a link that was made, so the count of links decides
    return os.stat(mine).st_nlink == 2


def _touch(mine: Path) -> float:
    """Set a file's time to now, as its file system has it, and return it in seconds."""
    os.utime(mine)  # of the server, also where writing would give it this machine's
    return os.stat(mine).st_mtime


def _now(path: Path) -> float | None:
    """Return the time on the file system of a lease, in seconds; None where no file can be written there."""
    with contextlib.suppress(OSError), _own_file(path, Holder.here()) as mine:
        return _touch(mine)
    return None


def _look(path: Path) -> _Found | None:
    """Return whose lease a file is, or None where there is none."""
    try:
        # opened first: that is when NFS asks the server for the time of the file
        with path.open(errors="replace") as file:
            return _Found(_parse(file.read()), os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return None


def _parse(text: str) -> Holder | None:
    """Return the holder that the text of a lease names, or None."""
    try:
        found = Holder(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = isinstance(found.host, str) and isinstance(found.use, str) and isinstance(found.started, str | None)
    # 0 and below are groups of processes, and True is the number 1
    whole = texts and type(found.pid) is int and found.pid > 0
    # the suffix is part of a file's name, and shown
    return found if whole and "/" not in found.suffix and found.suffix.isprintable() else None


class _Renewals:
    """Renews all leases of this process from one thread, which exists for as long as there are any."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_all, name="leases", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)
            self._changed.notify()

    def _renew_all(self) -> None:
        while due := self._wait():
            for lease in due:
                if lease.renew():
                    continue
                with self._changed:
                    lost = lease in self._leases
                    self._leases.discard(lease)
                if lost:  # and not given back in the meantime
                    try:
                        lease.require()
                    except LeaseLostError as error:
                        ui.say_once(f"warning: {error}")

    def _wait(self) -> list[Lease]:
        """Return the leases to be renewed when their time has come; none when there are none left."""
        with self._changed:
            while self._leases:
                now = time.monotonic()
                if due := [lease for lease in self._leases if lease.due <= now]:
                    return due
                self._changed.wait(min(lease.due for lease in self._leases) - now)
            self._thread = None
            return []


_renewals: dict[int, _Renewals] = {}
"""Process → its renewals."""


@functools.cache
def _boot() -> str | None:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _namespace() -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def started_at(pid: int) -> str | None:
    """Return when a process of this PID namespace started, in kernel ticks; "" if it has ended, None if unknown.

    A zombie, which its parent hasn't waited for, still has its pid, as in a container without an init process.
    """
    try:
        # the mounted /proc may be that of another namespace, where a pid is another process
        if os.readlink("/proc/self") != str(os.getpid()):
            return None
    except OSError:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return ""
