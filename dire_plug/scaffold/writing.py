"""Writes a package from templates: whole, or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template

from dire_plug.files import new_folder, write_atomically

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


def quote(text: str) -> str:
    """Return text as a literal that Python, TOML and YAML all read."""
    return json.dumps(text, ensure_ascii=False)


def _read(path: Path, values: Mapping[str, str]) -> str:
    return _fill(path.read_text(), values)


def _fill(text: str, values: Mapping[str, str]) -> str:
    return Template(text).substitute(values)
