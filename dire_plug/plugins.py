"""Find methods, regularizers, datasets and loggers by entry point, and build the PluginManager of one synthesis.

Known is not active: an entry point makes a name known; only the plugins that a synthesis is given are registered.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pluggy
from pydantic import BaseModel

from dire_plug import hookspecs
from dire_plug.code_identity import own_digest, package_digest
from dire_plug.errors import DirePlugError, PluginError, nearest
from dire_plug.files import expand_user
from dire_plug.recipe.loading import is_recipe_file, recipe_path
from dire_plug.recipe.weight import KEY, with_weight
from dire_plug.types import Adapter

Kind = Literal["methods", "regularizers", "datasets", "loggers"]
_KEPT: ContextVar[dict[tuple[str, ...], Any] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Read entry points and plugins' code once within the block, for planning many runs.

    Nothing that was kept is seen outside of it: whoever makes a unit of work reads the code as it is by then.
    """
    outer = _KEPT.get()
    token = _KEPT.set({} if outer is None else outer)
    try:
        yield
    finally:
        _KEPT.reset(token)


def _once(key: tuple[str, ...], read: Callable[[], Any]) -> Any:
    """Return what `read` does, as it was at the first call within `read_once`."""
    if (kept := _KEPT.get()) is None:
        return read()
    if key not in kept:
        kept[key] = read()
    return kept[key]


def known(kind: Kind) -> dict[str, EntryPoint]:
    """Return the entry points of one kind by name, without loading any.

    Raises:
        DirePlugError: two packages offer the same name.
    """
    found: dict[str, EntryPoint] = _once(("known", kind), lambda: _find_points(kind, _packages()))
    return dict(found)


def _packages() -> tuple[Any, ...]:
    """Return what changes when a package is installed or removed: where Python looks, and when it was changed last."""
    found = list[tuple[str, int | None]]()
    for place in sys.path:
        try:
            found.append((place, os.stat(place or ".").st_mtime_ns))
        except OSError:
            found.append((place, None))
    return tuple(found), tuple(map(id, sys.meta_path))


# asked some 25 times for a finished run: reading the metadata of all packages was most of what such a run costs
@lru_cache(maxsize=len(get_args(Kind)))
def _find_points(kind: Kind, packages: tuple[Any, ...]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"dire_plug.{kind}"):
        other = found.setdefault(point.name, point)
        # one distribution may be listed twice, by its folder and by its metadata; that is no conflict
        if other.value != point.value:
            raise DirePlugError(
                f"the name '{point.name}' is offered twice among {kind}: by {other.value} and by {point.value}; "
                "uninstall one of the two packages"
            )
    return dict(sorted(found.items()))


def load(kind: Kind, name: str) -> Any:
    """Import and return what an entry point names.

    Raises:
        DirePlugError: the name isn't known, or its package cannot be imported.
    """
    points = known(kind)
    if name not in points:
        one = kind.removesuffix("s")
        raise DirePlugError(f"unknown {one} '{name}'{nearest(name, points)}; known: {', '.join(points) or 'none'}")
    try:
        return points[name].load()
    except Exception as error:
        raise PluginError(f"plugin '{name}' ({points[name].value}) cannot be imported: {error!r}") from error


def find_method(text: str) -> str:
    """Return the name of the method that a text names, by its title too, whatever the case and the punctuation.

    A text that names none, or several, comes back as it is.
    """
    points = known("methods")
    if text in points:
        return text
    wanted = _fold(text)
    found = [name for name in points if _fold(name) == wanted] or [
        name for name in points if _fold(_title(name)) == wanted
    ]
    return found[0] if len(found) == 1 else text


def _fold(name: str) -> str:
    # a plus tells SRe2L++ from SRe2L
    return "".join(one for one in name.casefold() if one.isalnum() or one == "+")


def _title(method: str) -> str:
    # a third party's broken package is no reason to miss the others
    with contextlib.suppress(DirePlugError):
        return load_adapter(method).title
    return method


def load_adapter(name: str) -> Adapter:
    """Return the adapter of one method, by a name that `find_method` takes.

    Raises:
        DirePlugError: the name isn't known, its package cannot be imported, or the adapter cannot be made.
    """
    name = find_method(name)
    factory = load("methods", name)
    try:
        return cast(Adapter, factory())
    except Exception as error:
        raise PluginError(
            f"plugin '{name}' ({known('methods')[name].value}): its adapter cannot be made: {error!r}; "
            "it must be a class without arguments"
        ) from error


def find_recipe(adapter: Adapter, name: str) -> Path:
    """Return the file of a recipe: a name of the method's own, or a path to a YAML file."""
    if is_recipe_file(name):
        path = expand_user(name, where="recipe")
        if not path.is_file():
            raise DirePlugError(f"recipe {path}: no such file")
        return path
    try:
        return recipe_path(adapter.recipes(), name)
    except DirePlugError as error:
        if Path(f"{name}.yaml").is_file():
            raise DirePlugError(f"{error}; did you mean the file {name}.yaml?") from error
        method, _, own = name.partition("/")
        if own and (method := find_method(method)) in known("methods"):
            raise DirePlugError(f"{error}; of the method {method} it would be: {method} --recipe {own}") from error
        raise


def load_loggers(names: Iterable[str]) -> pluggy.PluginManager:
    """Return the loggers of `--log`, registered by name.

    Raises:
        DirePlugError: a name isn't known, or what it needs isn't installed.
        PluginError: a logger can't be made, or implements an unknown hook.
    """
    made: dict[str, object] = {}
    for name in names:
        try:
            made[name] = load("loggers", name)()
        except DirePlugError:
            raise
        except Exception as error:
            raise PluginError(f"logger '{name}': it cannot be made: {error!r}") from error
    return build_manager(made)


def settings_model(name: str) -> type[BaseModel]:
    """Return the pydantic model that checks the settings of one regularizer, with the tool's own key `weight`.

    Raises:
        DirePlugError: the name isn't known, its package cannot be imported, it offers no such model, or one that has
            the key `weight` already.
    """
    model = getattr(load("regularizers", name), "settings_model", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PluginError(
            f"plugin '{name}' ({known('regularizers')[name].value}): its class must have `settings_model`, "
            f"a subclass of pydantic's BaseModel; it has {model!r}"
        )
    if KEY in model.model_fields:
        raise PluginError(
            f"plugin '{name}' ({known('regularizers')[name].value}): its settings have the key `{KEY}`, which every "
            "regularizer gets from the tool; rename it, or remove it and let the tool weigh the term"
        )
    return with_weight(model)


def regularizer_models() -> dict[str, Callable[[], type[BaseModel]]]:
    """Return the installed regularizers by name, each with the function that loads the model of its settings."""
    return {name: partial(settings_model, name) for name in known("regularizers")}


def is_built_in(kind: Kind, name: str) -> bool:
    """Return whether a plugin is one of ours."""
    return _point(kind, name).module.split(".")[0] == __package__


def code_of(kind: Kind, name: str) -> str:
    """Return the sha256, in hex, of a plugin's code as it is on disk: another formula makes other images.

    Of a third party's it is that of the bytes of its package (`package_digest`), of ours that of the meaning of its
    module, and of what that imports of its folder and of `api` (`own_digest`).

    Raises:
        DirePlugError: the name isn't known, or its package can't be found.
    """
    code: str = _once(("code", kind, name), lambda: _digest_code(kind, name))
    return code


def _digest_code(kind: Kind, name: str) -> str:
    point = _point(kind, name)
    ours = is_built_in(kind, name)
    found = own_digest(point.module) if ours else package_digest(point.module.split(".")[0])
    if found is None:
        raise PluginError(f"plugin '{name}' ({point.value}): its code can't be found; reinstall its package")
    return found


def _point(kind: Kind, name: str) -> EntryPoint:
    points = known(kind)
    if name not in points:
        load(kind, name)  # says what is known
    return points[name]


def build_manager(plugins: Mapping[str, object]) -> pluggy.PluginManager:
    """Register exactly these plugins, by name, and check their hooks against the specifications.

    Raises:
        PluginError: a plugin implements an unknown hook, or takes an argument that its hook doesn't have.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name, plugin in plugins.items():
        try:
            manager.register(plugin, name=name)
            # right after each registration, so that the error names the plugin
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin '{name}': {str(error).strip()}") from error
        for caller in manager.get_hookcallers(plugin) or []:
            for implementation in caller.get_hookimpls():
                if implementation.hookwrapper or implementation.wrapper:
                    raise PluginError(f"plugin '{implementation.plugin_name}': hook wrappers aren't supported")
    return manager
