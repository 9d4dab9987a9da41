"""Write files and folders atomically, and hash their contents."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from dire_plug.errors import DirePlugError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to a temporary sibling of `path`, flush it to disk and rename it into place."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary sibling of `path` to write; when the block ends well, flush it to disk and rename it to `path`.

    Raises:
        DirePlugError: it cannot be written.
    """
    make_folder(path.parent)
    # a sibling: a rename is atomic within one file system only
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's 0600 would hide results from the group that shares them
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DirePlugError(f"{path}: cannot be written: {error.strerror}. The previous content is kept.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; say which file it was when it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DirePlugError(f"{path}: cannot be read as JSON: {error}") from error


def expand_user(path: str, *, where: str = "") -> Path:
    """Return a path that a user wrote, with `~` and `~NAME` as the homes that they stand for.

    Args:
        where: the option, variable or key that holds it, for the error.

    Raises:
        DirePlugError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        place = f"{where}: {path}: " if where else ""
        raise DirePlugError(f"{place}there is no user of this name, whose home '~' would be") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents; say which file stands in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        blocking = next((parent for parent in (path, *path.parents) if parent.exists() and not parent.is_dir()), path)
        raise DirePlugError(f"{path}: the folder cannot be made: {error.strerror} at {blocking}") from error


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block ends well, else remove it.

    Raises:
        DirePlugError: the folder cannot be made, or the disk is full.
    """
    make_folder(path.parent)
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        # mkdtemp's 0700 likewise
        temporary.chmod(0o755)
    except OSError as error:
        raise DirePlugError(f"{path}: the folder cannot be made: {error.strerror}") from error
    try:
        yield temporary
        os.rename(temporary, path)
    except OSError as error:
        raise DirePlugError(f"{path}: cannot be written: {error}. Nothing was left behind.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest(content: Any) -> str:
    """Return the sha256, in hex, of JSON-like `content`, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_unchanged(path: Path) -> str:
    """Return the sha256 of a file, in hex, which is read again only where its stat has changed."""
    found = path.stat()
    return _digest_of(path, (found.st_mtime_ns, found.st_size, found.st_ino))


@lru_cache(maxsize=1024)
def _digest_of(path: Path, _unchanged: tuple[int, ...]) -> str:
    return digest_file(path)


def from_here(path: Path) -> str:
    """Return a path as a user writes it: from the working folder where it lies below that, else whole."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def format_bytes(count: int) -> str:
    """Return a number of bytes as people read it, such as "1.3 GB"."""
    value, units = float(count), ["kB", "MB", "GB", "TB"]
    if count < 1000:
        return f"{count} B"
    while (value := value / 1000) >= 999.95 and len(units) > 1:
        units.pop(0)
    return f"{value:.1f} {units[0]}"


def format_duration(seconds: float) -> str:
    """Return a time as people read it, in the unit that suits: "1.5 h", "42 d"."""
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if (value := seconds / length) >= 1:
            return f"{f'{value:.1f}'.removesuffix('.0') if value < 9.95 else f'{value:,.0f}'} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 or not seconds else "< 1 s"
