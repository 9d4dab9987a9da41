"""What tests that need a published repository share: they run where it can be reached, and are skipped elsewhere."""

from typing import Any

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.upstream.vendor import vendor


def vendor_or_skip(adapter: Any) -> None:
    """Vendor a method below DIRE_PLUG_HOME; skip the test, with the reason, where its repository can't be reached."""
    try:
        vendor(adapter)
    except DirePlugError as error:
        if str(error).startswith(adapter.upstream.repository):
            pytest.skip(str(error))
        raise
