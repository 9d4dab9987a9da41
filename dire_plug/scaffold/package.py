"""Write the packages of `dire-plug new`: adapter, flags, patch and recipe are begun from facts of the script."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from string import Template
from types import MappingProxyType

from dire_plug import plugins
from dire_plug.api.checklist import IMPORT
from dire_plug.api.patch_file import make_patch
from dire_plug.errors import DirePlugError
from dire_plug.files import expand_user, new_folder, write_atomically
from dire_plug.plugins import Kind
from dire_plug.recipe.check import RESERVED_ARMS
from dire_plug.scaffold.kinds import (
    ScriptKind,
    adapter_parts,
    asks_for_weights,
    find_architecture,
    find_roles,
    guess_kind,
    quote,
    reserved,
)
from dire_plug.scaffold.script import Facts, flag_lines, published, pydantic_names, read_facts, typing_names
from dire_plug.types import Upstream
from dire_plug.upstream.source.tree import object_hash

# The names of a new package: of the plugin, of what is installed, of the module; and whether they are free.


LONGEST = 40
_PLUGIN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TAKEN: Mapping[Kind, tuple[str, ...]] = MappingProxyType({"methods": (), "regularizers": (*RESERVED_ARMS, "upstream")})
"""Names with a meaning of their own, though no plugin has them: arms, and the key of upstream's own loss."""


@dataclass(frozen=True)
class Names:
    """The names of a new package in `folder`; the prefix keeps it apart from other packages of that name."""

    plugin: str
    folder: Path

    @property
    def distribution(self) -> str:
        """The name under which it is installed."""
        return f"dire-plug-{self.plugin}"

    @property
    def module(self) -> str:
        """The name under which it is imported."""
        return self.distribution.replace("-", "_")

    def values(self) -> dict[str, str]:
        """Return what every template may name."""
        return {"name": self.plugin, "distribution": self.distribution, "module": self.module}


def choose_names(kind: Kind, plugin: str, *, into: Path) -> Names:
    """Return the names of a new package that is to lie below the folder `into`.

    Raises:
        DirePlugError: the plugin's name can't be one, or is taken; or the package's folder is there already.
    """
    if not _PLUGIN.fullmatch(plugin) or len(plugin) > LONGEST:
        raise DirePlugError(
            f"the name '{plugin}' can't be a plugin's: small letters, digits and single '-', a letter first, at most "
            f"{LONGEST} in all, such as 'my-term'"
        )
    if plugin in plugins.known(kind):
        where = plugins.known(kind)[plugin].value
        update = "; or move that one to another commit: --update" if kind == "methods" else ""
        raise DirePlugError(f"the name '{plugin}' is taken among {kind}, by {where}; choose another{update}")
    if plugin in _TAKEN[kind]:
        raise DirePlugError(f"the name '{plugin}' is reserved; choose another")
    names = Names(plugin, into.absolute() / f"dire-plug-{plugin}")
    if names.folder.exists() or names.folder.is_symlink():
        raise DirePlugError(f"{names.folder}: exists already; move it away, or choose another folder with --into")
    return names


# Writes a package from templates: whole, or not at all.


TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".template"


def write_package(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, by their path below `folder`, which is made; nothing is left where one can't be written.

    Raises:
        DirePlugError: the folder can't be made, or the disk is full.
    """
    with new_folder(folder) as made:
        for name, text in files.items():
            write_atomically(made / name, text)


def fill_templates(kind: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return path in the package → text, of the templates of one kind; `$name` stands for a value, in paths too."""
    root = TEMPLATES / kind
    paths = sorted(root.rglob(f"*{SUFFIX}"))
    return {
        _fill(path.relative_to(root).as_posix().removesuffix(SUFFIX), values): _read(path, values) for path in paths
    }


def _read(path: Path, values: Mapping[str, str]) -> str:
    return _fill(path.read_text(), values)


def _fill(text: str, values: Mapping[str, str]) -> str:
    return Template(text).substitute(values)


@dataclass(frozen=True)
class Published:
    """A published synthesis script: the repository, the commit of 40 hex digits, the path below its root."""

    repository: str
    commit: str
    script: str


@dataclass(frozen=True)
class MethodPackage:
    """A package that was written.

    Attributes:
        folder: its own.
        facts: what was read of the script.
        kind: what the script is.
        roles: constant of the adapter → flag, of those that their names told.
    """

    folder: Path
    facts: Facts
    kind: ScriptKind
    roles: Mapping[str, str]


def new_method(
    name: str,
    origin: Published,
    *,
    into: Path,
    offline: bool = False,
    choose: Callable[[ScriptKind], ScriptKind] = lambda guessed: guessed,
) -> MethodPackage:
    """Write the package of a method into a folder below `into`.

    Args:
        choose: what the script is, given what it seems to be.

    Raises:
        DirePlugError: the name can't be one or is taken, the folder is there already, the commit is no full hash, the
            repository, the commit or the script can't be reached, or the script isn't Python.
    """
    names = choose_names("methods", name, into=into)
    origin = _check(origin)
    upstream = Upstream(origin.repository, origin.commit, (), "")
    facts = read_facts(published(upstream, offline=offline), origin.script)
    tree = published(replace(upstream, paths=facts.paths), offline=offline)
    pins = {path: object_hash(tree, path) for path in facts.paths}
    modules = list(facts.modules.values())
    roles = find_roles(facts.flags, modules)
    kind = choose(guess_kind(modules[0], roles))
    parts = adapter_parts(
        kind, roles, find_architecture(modules[0]), from_hub=any(asks_for_weights(module) for module in modules)
    )
    files = fill_templates(
        "method", names.values() | _values(names, origin, facts, pins) | parts | _flags(facts, roles)
    )
    files[f"{names.module}/patches/bridge.patch"] = _first_patch(origin, facts)
    write_package(names.folder, files)
    return MethodPackage(names.folder, facts, kind, roles)


def _flags(facts: Facts, roles: Mapping[str, str]) -> dict[str, str]:
    """Return what the template of the flags names."""
    taken = reserved(facts.flags, roles)
    free = [flag for flag in facts.flags if flag.name not in taken]
    lines = "".join(f"\n        {quote(flag)}: {reason}," for flag, reason in taken.items())
    return {
        "flag_lines": flag_lines(free),
        "flag_reasons": "".join(f"    {name},\n" for name in sorted(set(taken.values()))),
        "reserved_flags": f"\n    {{{lines}\n    }}\n" if lines else "{}",
        "typing_names": typing_names(free),
        "pydantic_names": pydantic_names(free),
    }


def _check(origin: Published) -> Published:
    """Return the origin with a folder's path made absolute."""
    if not re.fullmatch(r"[0-9a-f]{40}", origin.commit):
        raise DirePlugError(
            f"--commit must be the full commit, 40 hex digits (is '{origin.commit}'); in a clone: git rev-parse HEAD"
        )
    repository, script = origin.repository.rstrip("/"), PurePosixPath(origin.script)
    # git would take the first for an option, the second for a remote helper that runs a command
    if not repository or repository.startswith("-") or "::" in repository:
        raise DirePlugError(f"--repository must be an address or a folder that git clones (is '{origin.repository}')")
    if script.is_absolute() or ".." in script.parts or script.suffix != ".py":
        raise DirePlugError(
            f"--script must be a Python file's path below the root of the repository (is '{origin.script}')"
        )
    if "://" not in repository and (folder := expand_user(repository, where="--repository")).is_dir():
        repository = str(folder.absolute())
    return Published(repository, origin.commit, str(script))


def _values(names: Names, origin: Published, facts: Facts, pins: Mapping[str, str]) -> dict[str, str]:
    return {
        "repository": quote(origin.repository),
        "commit": origin.commit,
        "paths": f"({_listed([quote(path) for path in pins], one=',')})",
        "pins": f"{{{_listed([f'{quote(path)}: {quote(pin)}' for path, pin in pins.items()])}}}",
        "packages": f"({_listed([quote(one) for one in facts.packages], one=',')})",
        "script_path": quote(origin.script),
        "script_name": origin.script,
        "script": quote(PurePosixPath(origin.script).stem),
        "folder": names.folder.name,
    }


def _listed(items: list[str], *, one: str = "") -> str:
    """Return what stands between the brackets: two or more items on lines of their own; `one` ends a single one."""
    if len(items) > 1:
        return "".join(f"\n            {item}," for item in items) + "\n        "
    return "".join(f"{item}{one}" for item in items)


def _first_patch(origin: Published, facts: Facts) -> str:
    """Return the patch with nothing but the import of bridge: it is valid, and changes no bit."""
    lines = {origin.script: {facts.imports_end: [IMPORT]}}
    return make_patch({origin.script: facts.content}, lines, commit=origin.commit)


# `dire-plug new regularizer`: a package with a term that works at once, and its test.


def new_regularizer(name: str, *, into: Path) -> Path:
    """Write the package of a regularizer; return its folder, which is below `into`.

    Raises:
        DirePlugError: the name can't be one or is taken, or the folder is there already.
    """
    names = choose_names("regularizers", name, into=into)
    write_package(names.folder, fill_templates("regularizer", names.values()))
    return names.folder
