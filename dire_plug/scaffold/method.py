"""`dire-plug new method`: a package whose adapter, flags, patch and recipe are begun from facts of the script."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dire_plug.api.checklist import IMPORT
from dire_plug.api.patch_file import make_patch
from dire_plug.errors import DirePlugError
from dire_plug.scaffold.flags_module import flag_lines, pydantic_names, typing_names
from dire_plug.scaffold.names import Names, choose_names
from dire_plug.scaffold.script import Facts, read_facts
from dire_plug.scaffold.source import published
from dire_plug.scaffold.writing import fill_templates, quote, write_package
from dire_plug.types import Upstream
from dire_plug.upstream.tree import object_hash


@dataclass(frozen=True)
class Published:
    """A published synthesis script: the repository, the commit of 40 hex digits, the path below its root."""

    repository: str
    commit: str
    script: str


def new_method(name: str, origin: Published, *, into: Path, offline: bool = False) -> tuple[Path, Facts]:
    """Write the package of a method; return its folder, which is below `into`, and what was read of the script.

    Raises:
        DirePlugError: the name can't be one or is taken, the folder is there already, the commit is no full hash, the
            repository, the commit or the script can't be reached, or the script isn't Python.
    """
    names = choose_names("methods", name, into=into)
    origin = _check(origin)
    upstream = Upstream(origin.repository, origin.commit, _paths(origin.script), "")
    tree = published(upstream, offline=offline)
    facts = read_facts(tree, origin.script)
    pins = {path: object_hash(tree, path) for path in upstream.paths}
    files = fill_templates("method", names.values() | _values(names, origin, facts, pins))
    files[f"{names.module}/patches/bridge.patch"] = _first_patch(origin, facts)
    write_package(names.folder, files)
    return names.folder, facts


def _check(origin: Published) -> Published:
    """Return the origin with a folder's path made absolute."""
    if not re.fullmatch(r"[0-9a-f]{40}", origin.commit):
        raise DirePlugError(
            f"--commit must be the full commit, 40 hex digits (is '{origin.commit}'); in a clone: git rev-parse HEAD"
        )
    repository, script = origin.repository.rstrip("/"), PurePosixPath(origin.script)
    if not repository or repository.startswith("-") or "::" in repository:
        raise DirePlugError(f"--repository must be an address or a folder that git clones (is '{origin.repository}')")
    if script.is_absolute() or ".." in script.parts or script.suffix != ".py":
        raise DirePlugError(
            f"--script must be a Python file's path below the root of the repository (is '{origin.script}')"
        )
    if "://" not in repository and Path(repository).expanduser().is_dir():
        repository = str(Path(repository).expanduser().absolute())
    return Published(repository, origin.commit, str(script))


def _paths(script: str) -> tuple[str, ...]:
    """Return what of the repository is fetched: the script's folder; everything where that is the root."""
    return (str(PurePosixPath(script).parent),)


def _values(names: Names, origin: Published, facts: Facts, pins: Mapping[str, str]) -> dict[str, str]:
    return {
        "repository": quote(origin.repository),
        "commit": origin.commit,
        "paths": f"({', '.join(map(quote, pins))},)",
        "pins": f"{{{', '.join(f'{quote(path)}: {quote(pin)}' for path, pin in pins.items())}}}",
        "packages": f"({''.join(f'{quote(one)}, ' for one in facts.packages).rstrip(' ')})" if facts.packages else "()",
        "script_path": quote(origin.script),
        "script_name": origin.script,
        "script": quote(PurePosixPath(origin.script).stem),
        "flag_lines": flag_lines(facts.flags),
        "typing_names": typing_names(facts.flags),
        "pydantic_names": pydantic_names(facts.flags),
        "folder": names.folder.name,
    }


def _first_patch(origin: Published, facts: Facts) -> str:
    """Return the patch with nothing but the import of bridge: it is valid, and changes no bit."""
    lines = {origin.script: {facts.imports_end: [IMPORT]}}
    return make_patch({origin.script: facts.content}, lines, commit=origin.commit)
