"""Write a safetensors file row by row, so that a large result never lies in memory.

The file is that of `safetensors.torch.save`, byte for byte: the length of the header in 8 bytes, the header in JSON,
the tensors one behind the other. Rows are written, not mapped: a full disk is then an error and no SIGBUS, and what is
written doesn't count as this process's memory.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from dire_plug.files import replacing

VALUES = "values"
_TYPES = {torch.int64: ("I64", 8), torch.float32: ("F32", 4), torch.uint8: ("U8", 1)}
"""Those that are written here, in the order in which the library puts tensors: name in the header, bytes."""
_ALIGNED = 8
"""The header ends at a multiple of so many bytes."""


@contextlib.contextmanager
def stream_rows(
    path: Path,
    places: Tensor,
    *,
    beside: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    name: str = VALUES,
) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that takes the next rows of a tensor, [n, …]; `path` is there when the block ends well.

    Args:
        places: [M], int64: the row of the file that each one that comes gets; every one once.
        beside: name → a tensor that is small, of int64 or float32, on the CPU.
        dtype: of the tensor: float32 or uint8.
        name: of the tensor in the file.

    Raises:
        DirePlugError: the file cannot be written.
    """
    done = start = 0
    with replacing(path) as file:

        def add(rows: Tensor) -> None:
            nonlocal done, start
            rows = rows.detach().to("cpu", dtype)
            # the width is known now
            if done == 0:
                start = _begin(file, name, dtype, (len(places), *rows.shape[1:]), beside)
            own, order = places[done : done + len(rows)].sort()
            rows, width = rows[order].contiguous(), dtype.itemsize * rows[0].numel()
            # rows that follow each other in the file are written at once: all of a batch that is sorted already
            ends = [*(torch.nonzero(own.diff() != 1).flatten() + 1).tolist(), len(own)]
            first = 0
            for end in ends:
                file.seek(start + width * int(own[first]))
                file.write(rows[first:end].numpy().data)
                first = end
            done += len(rows)

        yield add
        assert done == len(places), f"{done} of {len(places)} rows came"


def _begin(file: BinaryIO, name: str, dtype: torch.dtype, shape: tuple[int, ...], beside: Mapping[str, Tensor]) -> int:
    """Write the header and all but the rows of the tensor `name`; return where these begin."""
    tensors = {**{key: (one.dtype, tuple(one.shape)) for key, one in beside.items()}, name: (dtype, shape)}
    types = list(_TYPES)
    at, begins, header = 0, {}, {}
    for key in sorted(tensors, key=lambda key: (types.index(tensors[key][0]), key)):
        dtype, sizes = tensors[key]
        label, width = _TYPES[dtype]
        end = at + width * math.prod(sizes)
        header[key] = {"dtype": label, "shape": list(sizes), "data_offsets": [at, end]}
        begins[key], at = at, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    file.write(len(text).to_bytes(8, "little") + text)
    first = 8 + len(text)
    for key, one in beside.items():
        file.seek(first + begins[key])
        file.write(one.contiguous().numpy().data)
    return first + begins[name]
