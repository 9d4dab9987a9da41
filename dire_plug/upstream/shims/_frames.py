"""Distinguish upstream's own code from torch, the standard library and this package, by the file that a frame runs.

For replacements that must affect upstream's scripts and no other code.
"""

import os
import site
import sysconfig
from collections.abc import Sequence
from functools import cache, lru_cache
from types import FrameType

import torch

from dire_plug.home import PACKAGE


def is_upstreams(frame: FrameType, files: Sequence[str] = ()) -> bool:
    """Return whether a frame runs upstream's code; with `files`, paths below its tree, whether it runs one of those."""
    return _is_upstreams(frame.f_code.co_filename, tuple(files))


@cache
def _is_upstreams(name: str, files: tuple[str, ...]) -> bool:
    if name.startswith("<"):  # frozen or made from a string
        return False
    # scripts may be run through a link, as in a temporary folder on macOS
    path = os.path.realpath(name)
    if any(path.startswith(folder) for folder in _not_upstreams()):
        return False
    return not files or any(path.endswith(os.sep + os.path.normpath(file)) for file in files)


@lru_cache(maxsize=1)
def _not_upstreams() -> tuple[str, ...]:
    """Return the folders of Python, of installed packages and of this one, each with a separator at its end."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [*python, site.getusersitepackages(), os.path.dirname(os.path.dirname(torch.__file__)), str(PACKAGE)]
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)
