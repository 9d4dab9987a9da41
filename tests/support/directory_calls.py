"""Count what is asked of the file system below a folder."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest


def count_calls(patch: pytest.MonkeyPatch, root: Path) -> Counter[str]:
    """Return a counter of the calls of scandir, listdir and stat below `root`, from now on."""
    seen: Counter[str] = Counter()

    def watch(name: str) -> None:
        genuine = getattr(os, name)

        def call(path: Any = ".", *rest: Any, **named: Any) -> Any:
            if not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(root):
                seen[name] += 1
            return genuine(path, *rest, **named)

        patch.setattr(os, name, call)

    for name in ("scandir", "listdir", "stat"):
        watch(name)
    return seen


def make_old(root: Path) -> None:
    """Let all folders from `root` down look as if nothing had changed in them for an hour."""
    for folder, _, _ in os.walk(root):
        now = os.stat(folder).st_mtime
        os.utime(folder, (now - 3600, now - 3600))
