"""Load our own loops of upstream's mathematics: one module a method, named as the method is."""

import pkgutil
from importlib import import_module
from typing import Any

from dire_plug.errors import DirePlugError


def load_native(method: str) -> Any:
    """Return the module with `read_settings(script, flags)` and `recover_pass(synthesis, teacher, settings)`.

    Raises:
        DirePlugError: there is none for this method.
    """
    name = method.replace("-", "_")
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise DirePlugError(
            f"{method}: there is no native engine for it, although its adapter's `has_native` says so; "
            f"there is one for {', '.join(known)}. Use --engine upstream"
        )
    return import_module(f"{__name__}.{name}")
