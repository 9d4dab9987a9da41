"""Our own loops of upstream's mathematics, one module a method, named as the method is."""

from importlib import import_module
from typing import Any


def load_native(method: str) -> Any:
    """Return the module with `read_settings(script, flags)` and `recover_pass(synthesis, teacher, settings)`."""
    return import_module(f"dire_plug.native.{method.replace('-', '_')}")
