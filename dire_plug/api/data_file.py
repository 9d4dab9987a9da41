"""Constants of a plugin in a file beside its module, which count in its identity."""

import sys
from pathlib import Path
from typing import Any

import yaml

from dire_plug.code_identity import DATA
from dire_plug.errors import DirePlugError, nearest


def data(owner: type, name: str) -> Any:
    """Return what a YAML file beside the module of a class holds.

    Args:
        owner: the plugin's class. Its attribute `DATA` names its files, literally: a built-in's identity is read from
            the source, and holds the values of just these files (a third party's holds its whole package).
        name: one of them.

    Raises:
        DirePlugError: `DATA` doesn't name the file, or it can't be read as YAML.
    """
    named: tuple[str, ...] = getattr(owner, DATA, ())
    if name not in named:
        known = ", ".join(named) or "nothing"
        raise DirePlugError(
            f"{owner.__qualname__}.{DATA} doesn't name '{name}'{nearest(name, named)}; it names {known}"
        )
    path = Path(str(sys.modules[owner.__module__].__file__)).parent / name
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DirePlugError(f"{path}: the data of {owner.__qualname__} can't be read: {error}") from error
