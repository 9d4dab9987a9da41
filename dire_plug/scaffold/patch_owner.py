"""Find the adapter whose patch is edited: installed, or in a folder; never dire-plug's own by accident."""

import importlib
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from dire_plug import home, plugins
from dire_plug.errors import DirePlugError, PluginError, nearest
from dire_plug.types import Adapter

GROUP = "dire_plug.methods"


def find_owner(method: str, *, package: Path | None) -> Adapter:
    """Return the adapter whose patch may be edited.

    Args:
        package: the folder of a package that needn't be installed; None looks for its entry point.

    Raises:
        DirePlugError: nobody offers the method, or it is one of dire-plug's own, whose patches change in a checkout of
            it only.
    """
    adapter = _in_folder(method, package) if package else _installed(method)
    ours = adapter.patches().resolve().is_relative_to(home.resource("patches").resolve())
    if ours and not (package and home.checkout() == package.resolve()):
        raise DirePlugError(f"{method} is dire-plug's own, and its patch isn't edited; write a method of your own")
    return adapter


def _installed(method: str) -> Adapter:
    known = plugins.known("methods")
    if method not in known:
        raise DirePlugError(
            f"unknown method '{method}'{nearest(method, known)}; install its package: pip install --no-deps "
            "-e FOLDER; or name its folder with --package FOLDER"
        )
    return plugins.load_adapter(method)


def _in_folder(method: str, package: Path) -> Adapter:
    points = _entry_points(package)
    if method not in points:
        offered = ", ".join(points) or "none"
        raise DirePlugError(f"{package}: offers no method '{method}'{nearest(method, points)}; it offers {offered}")
    module, _, attribute = points[method].partition(":")
    with _importable(package):
        try:
            loaded = importlib.import_module(module)
            adapter = getattr(loaded, attribute)()
        except Exception as error:
            raise PluginError(f"{package}: {points[method]} cannot be made: {error!r}") from error
    # an installed package of the same name shadows the folder; editing its patch would be a surprise
    if not Path(loaded.__file__ or "").resolve().is_relative_to(package.resolve()):
        raise DirePlugError(f"{package}: {module} is installed from {loaded.__file__}; leave out --package")
    return cast(Adapter, adapter)


def _entry_points(package: Path) -> dict[str, str]:
    file = package / "pyproject.toml"
    try:
        content: Any = tomllib.loads(file.read_text())
    except OSError as error:
        raise DirePlugError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DirePlugError(f"{file}: {error}") from error
    return dict(content.get("project", {}).get("entry-points", {}).get(GROUP, {}))


@contextmanager
def _importable(package: Path) -> Iterator[None]:
    """Make the modules of a folder importable; those below `src` too."""
    places = [str((package / name).resolve()) for name in (".", "src")]
    sys.path[:0] = places
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
