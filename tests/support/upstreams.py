"""What tests that need a published repository share: they run where it can be reached, and are skipped elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.upstream.source.vendor import vendor
from dire_plug.upstream.verify.verify import ScriptVerdict, verify

_unreachable: dict[str, str] = {}
"""Repository → why it can't be reached, so that one attempt serves a whole session."""


def vendor_or_skip(adapter: Any) -> None:
    """Vendor a method below DIRE_PLUG_HOME; skip the test, with the reason, where its repository can't be reached."""
    repository = adapter.upstream.repository
    if repository in _unreachable:
        pytest.skip(_unreachable[repository])
    try:
        vendor(adapter)
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
