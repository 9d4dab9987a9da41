"""Copy a recipe to a file of the user's, to edit."""

from __future__ import annotations

from pathlib import Path

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.recipe import recipe_path


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
    text = recipe_path(plugins.load_adapter(method).recipes(), recipe).read_text()
    write_atomically(path, f"# A copy of {origin}, to edit.\n\n{text}")
    return path, method
