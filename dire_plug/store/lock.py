"""Lock files that name their holder, and work on NFS and after killed processes."""

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dire_plug import ui
from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import make_folder

SAY_AFTER = 2.0
"""Seconds of waiting after which a message says for which process."""
BREAKING = 60.0
"""Seconds to wait for another process that removes a dead holder's lock, which takes milliseconds."""


@contextlib.contextmanager
def hold(path: Path, *, wait: float = 0, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; take it over from a dead process of this host.

    A hard link is made to a file of our own, which NFS does atomically; the file says who holds it.

    Args:
        wait: seconds to wait for another holder before giving up.
        what: the name of what is locked, for the message.

    Raises:
        RunBusyError: a live process, or one on another host, holds it; or the file doesn't say who does.
        DirePlugError: the lock cannot be written.
    """
    make_folder(path.parent)
    me = Holder(socket.gethostname(), os.getpid(), started_at(os.getpid()), uuid.uuid4().hex)
    mine = _own_file(path, me)
    try:
        try:
            mine.write_text(json.dumps(asdict(me)))
            _acquire(path, mine, wait=wait, what=what)
        except OSError as error:
            raise DirePlugError(f"{path}: the lock cannot be written: {error.strerror or error}") from error
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            # another process may have broken the lock; then it isn't ours to remove
            if _read(path) == me:
                path.unlink()
        mine.unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """Return "process N on HOST" for the live holder of a lock, or None."""
    with contextlib.suppress(ValueError, OSError):
        if (found := _read(path)) and not found.is_dead():
            return str(found)
    return None


def find_dead(folder: Path) -> list[Path]:
    """Return what dead processes of this host left in a folder of locks: locks, and the files that they link to."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(ValueError, OSError):
            if (left := _read(path)) and left.is_dead():
                found.append(path)
    return found


def remove_dead(path: Path) -> None:
    """Remove what `find_dead` found, unless a live process has taken the lock over in the meantime."""
    with contextlib.suppress(ValueError, OSError):
        found = _read(path)
        if found is None or not found.is_dead():
            return
        if path.name.endswith(found.suffix):
            path.unlink()  # nobody else links to it: a lock of this name is a link to its own holder's file
        else:
            _break(path, what=f"the lock {path}")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; `use` tells two uses by one process apart."""

    host: str
    pid: int
    started: str | None
    use: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def suffix(self) -> str:
        """The suffix of the holder's own file, behind the lock's name."""
        return f".{self.host}.{self.pid}.{self.use}"

    def is_dead(self) -> bool:
        """Return whether the holder ran on this host and has ended (or its pid belongs to a later process)."""
        # a process on another host can't be asked, so it counts as alive
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return self.started != started_at(self.pid)


def _acquire(path: Path, mine: Path, *, wait: float, what: str) -> None:
    began, announced = time.monotonic(), False
    while not _link(mine, path):
        try:
            found = _read(path)
        except ValueError:
            trouble = f"{what}: its lock is unreadable; if no other process works on it, remove {path}"
        else:
            if found is None:
                continue
            if found.is_dead():
                _break(path, what=what)
                continue
            trouble = f"{what} is held by {found}; wait for it to end, or, if it no longer exists, remove {path}"
        waited = time.monotonic() - began
        if waited >= wait:
            raise RunBusyError(trouble)
        if waited >= SAY_AFTER and not announced:
            ui.say(f"waiting: {trouble}")
            announced = True
        time.sleep(0.1)


def _break(path: Path, *, what: str) -> None:
    """Remove the lock of a dead holder.

    Only the holder of `path.break` does, after reading the lock again: another process may have taken it over since,
    and that lock must stay.
    """
    with hold(path.with_name(f"{path.name}.break"), wait=BREAKING, what=what), contextlib.suppress(ValueError):
        if (found := _read(path)) and found.is_dead():
            path.unlink()
            _own_file(path, found).unlink(missing_ok=True)


def _own_file(path: Path, holder: Holder) -> Path:
    """Return the file that `path` is a link to while `holder` holds it."""
    return path.with_name(f"{path.name}{holder.suffix}")


def _link(mine: Path, path: Path) -> bool:
    with contextlib.suppress(FileExistsError):
        # atomic on NFS too, where opening with O_EXCL wasn't always
        os.link(mine, path)
    # NFS may report an error for a link that was made, so the count of links decides
    return os.stat(mine).st_nlink == 2


def _read(path: Path) -> Holder | None:
    """Return who holds a lock, or None where nobody does; raise ValueError where the file doesn't say who."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("pid"), int) or not isinstance(found.get("host"), str):
        raise ValueError(f"{path}: not a lock")
    return Holder(found["host"], found["pid"], found.get("started"), str(found.get("use", "")))


def started_at(pid: int) -> str | None:
    """Return when a process started, in kernel ticks; None if that isn't known or it has ended.

    A zombie, which its parent hasn't waited for, still has its pid, as in a container without an init process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return None
