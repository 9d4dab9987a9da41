"""The IDX format of the MNIST family: a header of big-endian numbers, then bytes."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError

AGAIN = "The file is damaged or another one: remove it and get it again"


def find_file(folder: Path, name: str) -> Path | None:
    """Return `folder/name`, or the same with .gz; None where neither is."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, *, sha256: str | None = None) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped (.gz) or not.

    Args:
        path: the file.
        sha256: the digest that its uncompressed content must have; None checks nothing.

    Returns:
        Tensor: uint8, of the shape that the header states.

    Raises:
        DirePlugError: the file is truncated, isn't IDX, or isn't the one with that digest.
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DirePlugError(
            f"{path}: not an IDX file of bytes (it starts with {content[:4].hex() or 'nothing'}). {AGAIN}"
        )
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start]) if len(content) >= start else ()
    if not shape or 0 in shape or len(content) - start != math.prod(shape):
        raise DirePlugError(f"{path}: holds {len(content)} bytes, where its header says {shape or 'more'}. {AGAIN}")
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DirePlugError(f"{path}: sha256 of the content is {found}, expected {sha256}. {AGAIN}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DirePlugError(f"{path}: cannot be read: {error}. {AGAIN}") from error
