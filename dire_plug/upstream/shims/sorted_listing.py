"""Sort `os.listdir` for upstream's code: otherwise the file system decides which image a script takes.

Needed by DWA `distillation_tiny.py` 60 and `distillation_imgnet.py` 100, which take the n-th file of an unsorted
listing as the n-th start image of a class.
"""

import functools
import os
import sys
from typing import Any

from dire_plug.upstream.shims._frames import is_upstreams


def install(*, device: str) -> None:
    """Sort what `os.listdir` returns where upstream calls it."""
    original = os.listdir

    @functools.wraps(original)
    def listdir(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        return sorted(found) if is_upstreams(sys._getframe(1)) else found

    setattr(os, "listdir", listdir)  # noqa: B010 (mypy refuses the assignment)
