"""Replacements that let old upstream code run here, inside the child process only; one file each.

Every shim has `install(*, device, …)`: the child's device, and the options that an adapter gives by name. Those in
`ALWAYS` are installed whether an adapter names them or not: upstream's code never runs without them.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dire_plug.errors import DirePlugError, nearest

NAMES = ("device", "torch_load", "get_model", "hub_weights", "network")
ALWAYS = ("device", "torch_load", "network")


def install(shims: Mapping[str, Mapping[str, Any]], *, device: str) -> None:
    """Install the shims in `ALWAYS` and the named ones with their options, in their fixed order.

    Raises:
        DirePlugError: a name is unknown, or a shim doesn't take one of the options (`device` isn't the adapter's).
    """
    for name in shims:
        if name not in NAMES:
            raise DirePlugError(f"unknown shim '{name}'{nearest(name, NAMES)}; known: {', '.join(NAMES)}")
    for name in NAMES:
        if name in shims or name in ALWAYS:
            _install(name, shims.get(name, {}), device)


def _install(name: str, options: Mapping[str, Any], device: str) -> None:
    try:
        import_module(f"{__name__}.{name}").install(device=device, **options)
    except TypeError as error:
        raise DirePlugError(f"shim '{name}' with options {dict(options)}: {error}") from error
