"""The command line as tests call it, and packages that are installed for one test."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.small_run import Answer

Cli = Callable[..., Answer]
"""The fixture `cli`: arguments → what the command answered."""


def install(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the packages in `site` importable, and known, here and in child processes."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")])))
