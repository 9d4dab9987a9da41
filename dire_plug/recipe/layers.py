"""Merge the layers of a recipe, and remember which layer each value comes from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.recipe.loading import parse_yaml

Tree = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One mapping of values.

    Attributes:
        label: how the layer is called in `--dry-run`: "recipe file", "preset released", "--set", …
        values: sections and keys as in a recipe.
        place: where in the recipe file the mapping stands, as a dotted key ("" for the file itself); None: elsewhere.
    """

    label: str
    values: Tree
    place: str | None = None


def merge(base: Tree, over: Tree) -> Tree:
    """Return `base` with the values of `over` in their place; mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        # lists are replaced whole: extending them would leave no way to shorten one
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Return dotted key → value of every leaf; an empty mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def stack(layers: Iterable[Layer]) -> tuple[Tree, dict[str, Layer]]:
    """Merge layers, later ones over earlier ones; return the values and, by dotted key, the layer of each."""
    merged: Tree = {}
    origin: dict[str, Layer] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
        origin |= dict.fromkeys(flatten(layer.values), layer)
    return merged, {key: origin[key] for key in flatten(merged) if key in origin}


def split_setting(text: str) -> tuple[tuple[str, ...], Any]:
    """Split `a.b=value` into its keys and its value, read as YAML.

    Raises:
        DirePlugError: there is no `=`, or a key is empty.
    """
    name, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    if not equals or not all(keys):
        raise DirePlugError(f"--set {text}: expected KEY.KEY=VALUE, for example --set recover.flags.lr=0.1")
    return keys, parse_yaml(value, where=f"--set {text}")


def settings_tree(settings: Sequence[str]) -> Tree:
    """Return what several `--set` say as one mapping; a later one wins over an earlier one."""
    tree: Tree = {}
    for text in settings:
        keys, value = split_setting(text)
        for key in reversed(keys):
            value = {key: value}
        tree = merge(tree, value)
    return tree


def mapping(tree: Tree, *keys: object) -> Tree:
    """Return the mapping at `keys` (50 and "50" are one key), or an empty one where there is none."""
    found: Any = tree
    for key in keys:
        values = found.items() if isinstance(found, dict) else ()
        found = next((value for name, value in values if str(name) == str(key)), None)
    return found if isinstance(found, dict) else {}
