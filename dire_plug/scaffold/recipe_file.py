"""Copy a recipe to a file of the user's: to edit, or with one more preset."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.recipe import recipe_path
from dire_plug.recipe.as_printed import print_arm
from dire_plug.recipe.loading import Tree, merge, parse_yaml

WIDE = 10_000
"""A width at which no line of YAML is wrapped."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper without aliases, which recipes don't have: what stands in two places is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def new_recipe(name: str, *, origin: str, into: Path) -> tuple[Path, str]:
    """Write NAME.yaml, with every line of a recipe and a comment that says which; return the file and the method.

    Args:
        origin: METHOD/RECIPE.

    Raises:
        DirePlugError: there is no such recipe, the name is no file's name, or the file exists.
    """
    method, slash, recipe = origin.partition("/")
    if not slash:
        raise DirePlugError(f"--from {origin}: write it as METHOD/RECIPE, such as sre2l/quick")
    stem = name.removesuffix(".yaml")
    if not stem or stem != Path(stem).name or stem.startswith("."):
        raise DirePlugError(f"'{name}': must be a name without folders; the folder is said by --into")
    path = into.absolute() / f"{stem}.yaml"
    if path.exists():
        raise DirePlugError(f"{path}: exists already; give another name, or remove it")
    adapter = plugins.load_adapter(method)
    text = recipe_path(adapter.recipes(), recipe).read_text()
    write_atomically(path, f"# A copy of {origin}, to edit.\n\n{text}")
    return path, adapter.name


def write_preset(
    path: Path,
    origin: Path,
    name: str,
    preset: Tree,
    *,
    source: str,
    comment: str,
    printed_for: int | None = None,
) -> None:
    """Write a copy of a recipe with one more preset and its entry in `sources`; its comments stay.

    Args:
        origin: the recipe's file; a preset of this name isn't in it.
        source: what the recipe says on the preset's source: begins with `chosen: ` or `published: `.
        comment: the first line.
        printed_for: images per class for which the arm `dire` is written as printed, without the recipe's comments;
            None: the arm stays the recipe's.
    """
    text = origin.read_text()
    own = parse_yaml(text, where=str(origin))
    if printed_for is not None:
        own = print_arm(own, ipc=printed_for)
    whole = merge(own, {"presets": {name: preset}, "sources": {f"presets.{name}": source}})
    dumped = yaml.safe_dump({name: preset}, default_flow_style=None, sort_keys=False, allow_unicode=True, width=WIDE)
    found = _insert(text, "presets", dumped.splitlines())
    found = _insert(found, "sources", [f"presets.{name}: {json.dumps(source, ensure_ascii=False)}"])
    try:
        same = parse_yaml(found, where=str(path)) == whole
    except DirePlugError:
        same = False
    # a recipe in another style, such as one whose presets stand on one line, loses its comments
    content = found if same else yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    write_atomically(path, f"# {comment}\n\n{content}")


def _insert(text: str, section: str, block: Sequence[str]) -> str:
    """Put lines below the line of a top-level section, as deep as its own; append the section where it is missing."""
    lines = text.splitlines()
    at = next((number for number, line in enumerate(lines) if re.fullmatch(rf"{section}:\s*(#.*)?", line)), None)
    if at is None:
        return "\n".join([*lines, "", f"{section}:", *(f"  {line}" for line in block), ""])
    below = (line for line in lines[at + 1 :] if line.strip() and not line.lstrip().startswith("#"))
    depth = re.match(" *", next(below, "  "))
    assert depth is not None
    return "\n".join([*lines[: at + 1], *(f"{depth[0] or '  '}{line}" for line in block), *lines[at + 1 :], ""])
