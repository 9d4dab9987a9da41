"""Find room for temporary files on the machine's own disk, and leave none of them behind.

A folder there has a lock file beside it, which its process holds with flock: the kernel lets go of it when the process
ends, however it ends, and it holds in every container of the machine. What a killed process left is removed by the next
one that uses the same scratch on the same machine.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from dire_plug.errors import DirePlugError
from dire_plug.files import expand_user

VARIABLE = "DIRE_PLUG_SCRATCH"
LOCK = ".lock"
IN_MEMORY = ("tmpfs", "ramfs")
"""File systems whose files take memory: a job there could run out of it."""


def scratch_root(store: Path) -> Path | None:
    """Return the folder for temporary files: DIRE_PLUG_SCRATCH; else SLURM_TMPDIR; else TMPDIR; None without one.

    SLURM_TMPDIR and TMPDIR count if they can be written and aren't kept in memory, TMPDIR only on another file system
    than the store: on the same one it would be no gain.

    Raises:
        DirePlugError: DIRE_PLUG_SCRATCH isn't a folder that can be written.
    """
    if chosen := os.environ.get(VARIABLE):
        root = expand_user(chosen, where=VARIABLE).absolute()
        if not _is_usable(root):
            raise DirePlugError(
                f"{VARIABLE}: {root} is no folder that can be written; make it, or correct the variable"
            )
        return root
    slurm, tmp = (os.environ.get(name) for name in ("SLURM_TMPDIR", "TMPDIR"))
    if slurm and _is_usable(Path(slurm)) and not _is_in_memory(Path(slurm)):
        return Path(slurm).absolute()
    if tmp and _is_usable(Path(tmp)) and not _is_in_memory(Path(tmp)) and not _is_same_system(Path(tmp), store):
        return Path(tmp).absolute()
    return None


@contextlib.contextmanager
def scratch_folder(root: Path, what: str) -> Iterator[Path]:
    """Yield an empty folder below `root`, named by `what` and this process; it is gone when the block ends.

    Raises:
        DirePlugError: it can't be made there.
    """
    name = f"{what}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        parent = _own_folder(root)
        _remove_dead(parent)
        lock, hidden, folder = parent / f"{name}{LOCK}", parent / f".{name}", parent / name
        held = hidden.open("w")
    except OSError as error:
        raise _unusable(root, error) from error
    with held:
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX)
                # under its own name only when it is held: until then another process would take it for a dead one's
                hidden.rename(lock)
                folder.mkdir()
            except OSError as error:
                raise _unusable(root, error) from error
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for path in (lock, hidden):
                path.unlink(missing_ok=True)


def _own_folder(root: Path) -> Path:
    """Return this user's and this machine's folder below `root`, which may be everybody's."""
    mine = root / f"dire-plug-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.lstat().st_uid != os.getuid() or mine.is_symlink():
        raise DirePlugError(f"{mine}: belongs to another user; set {VARIABLE} to a folder of your own")
    # scratch may be shared by machines, and only this one can tell which of its processes live
    here = mine / socket.gethostname()
    here.mkdir(exist_ok=True)
    return here


def _remove_dead(parent: Path) -> None:
    for lock in sorted(parent.glob(f"*{LOCK}")):
        # an OSError where a live process holds it, or another one has just removed it
        with contextlib.suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


def _unusable(root: Path, error: OSError) -> DirePlugError:
    return DirePlugError(
        f"{root}: can't be used for temporary files ({error.strerror}); set {VARIABLE} to another folder"
    )


def _is_usable(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _is_same_system(path: Path, store: Path) -> bool:
    # the store may still have to be made
    there = next(one for one in (store.absolute(), *store.absolute().parents) if one.exists())
    return path.stat().st_dev == there.stat().st_dev


def _is_in_memory(path: Path) -> bool:
    """Return whether files there take memory; False where the system doesn't tell."""
    with contextlib.suppress(OSError, IndexError):
        rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        mounts = {row[1].encode().decode("unicode_escape"): row[2] for row in rows}
        inside = [one for one in mounts if path.resolve().is_relative_to(one)]
        return mounts[max(inside, key=len)] in IN_MEMORY
    return False
