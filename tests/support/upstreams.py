"""What tests that need a published repository share: they run where it can be reached, and are skipped elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.types import Upstream
from dire_plug.upstream.source.vendor import fetch, vendor
from dire_plug.upstream.verify.verify import ScriptVerdict, verify

RDED = Upstream(
    "https://github.com/LINs-lab/RDED",
    "3f6453d8b18b6a9bcc6c718bc16ecda6bb94d59f",
    ("argument.py", "synthesize", "validation"),
    "Apache-2.0",
)
_unreachable: dict[str, str] = {}
"""Repository → why it can't be reached, so that one attempt serves a whole session."""


def vendor_or_skip(adapter: Any) -> None:
    """Vendor a method below DIRE_PLUG_HOME; skip the test, with the reason, where its repository can't be reached."""
    _try_or_skip(adapter.upstream.repository, lambda: vendor(adapter))


def fetch_rded_or_skip(folder: Path) -> Path:
    """Fetch RDED's code, which is no method's, into `folder`; skip the test where it can't be reached."""
    folder.mkdir()
    _try_or_skip(RDED.repository, lambda: fetch(RDED, folder))
    return folder


def _try_or_skip(repository: str, get: Callable[[], object]) -> None:
    if repository in _unreachable:
        pytest.skip(_unreachable[repository])
    try:
        get()
    except DirePlugError as error:
        if str(error).startswith(repository):
            _unreachable[repository] = str(error)
            pytest.skip(str(error))
        raise


def verified(adapter: Any, script: str, folder: Path) -> ScriptVerdict:
    """Vendor a method, verify one of its scripts in `folder`, and return the verdict, which holds."""
    vendor_or_skip(adapter)
    (verdict,) = verify(adapter, scripts=[script], workdir=folder)
    assert verdict.holds, verdict
    return verdict
