"""A lock that names its holder and survives NFS and killed processes."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import make_folder


@contextlib.contextmanager
def hold(path: Path, *, wait: float = 0, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; take it over from a dead process of this host.

    A hard link is made to a file of our own, which NFS does atomically; the file says who holds it.

    Args:
        wait: seconds to wait for another holder before giving up.
        what: the name of what is locked, for the message.

    Raises:
        RunBusyError: a live process, or one on another host, holds it.
    """
    make_folder(path.parent)
    mine = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        mine.write_text(
            json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
        )
    except OSError as error:
        raise DirePlugError(f"{path}: the lock cannot be written: {error.strerror}") from error
    deadline = time.monotonic() + wait
    try:
        while not _link(mine, path):
            holder = _read(path)
            if holder is not None and _is_dead(holder):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
            elif holder is not None and time.monotonic() >= deadline:
                raise RunBusyError(
                    f"{what} is held by process {holder['pid']} on {holder['host']}; wait for it to end, "
                    f"or, if it no longer exists, remove {path}"
                )
            else:
                time.sleep(0.1)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    finally:
        with contextlib.suppress(FileNotFoundError):
            mine.unlink()


def holder(path: Path) -> str | None:
    """Return "process N on HOST" for the live holder of a lock, or None."""
    found = _read(path)
    if found is None or _is_dead(found):
        return None
    return f"process {found['pid']} on {found['host']}"


def _link(mine: Path, path: Path) -> bool:
    with contextlib.suppress(FileExistsError):
        os.link(mine, path)
    return os.stat(mine).st_nlink == 2


def _read(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_dead(holder: dict[str, object]) -> bool:
    """Tell whether the holder ran on this host and is gone (or its number belongs to a later process)."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return holder.get("started") != _started(pid)


def _started(pid: int) -> str | None:
    """Return when a process started, in the kernel's own ticks, or None where that can't be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
