"""Install replacements that let old upstream code run here, inside the child process only; one file each.

Every shim has `install(*, device, …)`: the child's device, and the options that an adapter gives by name. The modules
of this package are known by their names (those that begin with `_` are no shims); a third-party one is named with dots,
`their_package.their_shim`. Order: `device` first, because others build on where tensors go; then ours by name; then
third-party ones in the order in which they are given. Those in `ALWAYS` are installed whether an adapter names them
or not: upstream's code never runs without them.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dire_plug.errors import DirePlugError, nearest

FIRST = ("device",)
ALWAYS = ("device", "torch_load", "network", "wandb")

TREE = "{tree}"
"""Stands for the vendored tree in the options, where an adapter can't know its path."""

Install = Callable[..., None]


def known_shims() -> tuple[str, ...]:
    """Return the names of this package's own shims, in the order in which they are installed."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return (*FIRST, *(name for name in found if name not in FIRST))


def install(shims: Mapping[str, Mapping[str, Any]], *, device: str, tree: Path | None = None) -> None:
    """Install the shims in `ALWAYS` and the named ones with their options, in their fixed order.

    Args:
        shims: name → options.
        device: the child's.
        tree: the vendored tree, which replaces `{tree}` in the options.

    Raises:
        DirePlugError: a name is unknown, or a shim doesn't take one of the options (`device` isn't the adapter's).
            Nothing was installed then.
    """
    known = known_shims()
    for name in shims:
        if "." not in name and name not in known:
            raise DirePlugError(f"unknown shim '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    ours = [name for name in known if name in shims or name in ALWAYS]
    third_party = [name for name in shims if "." in name]
    # all are prepared before the first is installed: an error leaves nothing replaced
    for call in [_prepare(name, _with_tree(shims.get(name, {}), tree), device) for name in (*ours, *third_party)]:
        call()


def _prepare(name: str, options: Mapping[str, Any], device: str) -> Callable[[], None]:
    """Return the call that installs one shim, its options checked against what it takes."""
    function = _find(name)
    try:
        # raises for an option that is missing or unknown
        bound = inspect.signature(function).bind(**{"device": device} | _without_device(options))
    except TypeError as error:
        raise DirePlugError(f"shim '{name}' with options {dict(options)}: {error}") from error
    return lambda: function(*bound.args, **bound.kwargs)


def _without_device(options: Mapping[str, Any]) -> dict[str, Any]:
    if "device" in options:
        raise TypeError("got multiple values for argument 'device': the run decides it, not the adapter")
    return dict(options)


def _find(name: str) -> Install:
    module = name if "." in name else f"{__name__}.{name}"
    try:
        found: Install = import_module(module).install
    except (ImportError, AttributeError) as error:
        raise DirePlugError(
            f"shim '{name}': {error}; it must be a module, importable in the child, with install(*, device, …)"
        ) from error
    return found


def _with_tree(value: Any, tree: Path | None) -> Any:
    """Return options with `{tree}` replaced by the tree's absolute path, in values at any depth."""
    if isinstance(value, str) and TREE in value:
        if tree is None:
            raise DirePlugError(f"shim option {value!r}: {TREE} can't be replaced, this run has no vendored tree")
        return value.replace(TREE, str(tree.absolute()))
    if isinstance(value, Mapping):
        return {key: _with_tree(item, tree) for key, item in value.items()}
    return [_with_tree(item, tree) for item in value] if isinstance(value, list) else value
