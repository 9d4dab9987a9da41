"""Read recipe files, and merge the layers of a recipe, remembering which layer each value comes from.

Files are found by glob and read as YAML 1.2 (1e-7 is a number, `no` is text), each key once.
"""

import copy
import json
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dire_plug.errors import DirePlugError, nearest

_RESOLVERS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
)
"""Tag, pattern and first characters, after the core schema of YAML 1.2.2, section 10.3.2; the first match wins."""


_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character of UTF-16, which no file, terminal or JSON takes."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2, without aliases and tags; keys are text, each stands once."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own way)

    def compose_node(self, parent: Any, index: Any) -> Any:
        # checked at the event, before any node is composed: an alias would already be resolved in the node
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"line {line}: aliases (*name) aren't supported; write the value out")
        if event.tag is not None:  # a value that isn't what it looks like, such as a commit in !!binary
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.YAMLError(f"line {line}: tags ({tag}) aren't supported; write the plain value, text in quotes")
        if isinstance(event, yaml.ScalarEvent) and _SURROGATE.search(event.value):
            raise yaml.YAMLError(f"line {line}: {event.value!a} isn't Unicode text; write the character itself")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise yaml.YAMLError(f"line {line}: a key must be text or a whole number (is {key!r})")
            # PyYAML keeps the last of two equal keys without a word
            if str(key) in seen:
                raise yaml.YAMLError(f"line {line}: the key '{key}' appears twice; keep one")
            seen.add(str(key))
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


# PyYAML follows YAML 1.1, where 1e-7 is text and `no` is false; these patterns replace its own
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def recipe_names(folder: Path) -> list[str]:
    """Return the names of the recipes in a folder, sorted; a folder that doesn't exist has none."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def is_recipe_file(name: str) -> bool:
    """Return whether a recipe is named by a YAML file instead of a name of the method's own."""
    return name.endswith((".yaml", ".yml"))


def recipe_path(folder: Path, name: str) -> Path:
    """Return the file of the recipe `name` in a folder.

    Raises:
        DirePlugError: there is no such recipe; the message names the nearest one and all that there are.
    """
    names = recipe_names(folder)
    if name not in names:
        raise DirePlugError(
            f"no recipe '{name}' in {folder}{nearest(name, names)}; known: {', '.join(names) or 'none'}"
        )
    return folder / f"{name}.yaml"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe file, unchecked: one mapping, whose `name` defaults to the file's stem.

    Raises:
        DirePlugError: the file can't be read, its syntax is wrong (with the line), a key stands twice, or it holds
            something other than a mapping.
    """
    if not path.stem.strip("."):
        raise DirePlugError(f"{path}: runs lie in a folder of the recipe's name; give the file another name than dots")
    content = parse_yaml(_read_text(path), where=str(path))
    if not isinstance(content, dict):
        raise DirePlugError(f"{path}: a recipe is a mapping of keys to values; this file holds {_kind(content)}")
    return {"name": path.stem, **content}


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse YAML text; `where` names it in errors."""
    # a copy: PyYAML takes a tenth of a second for a recipe, and a table has dozens of runs of each
    return copy.deepcopy(_parse(text, where))


@lru_cache(maxsize=64)
def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DirePlugError(f"{where}: {line}{error.problem or error.context or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise DirePlugError(f"{where}: {error}") from error
    # PyYAML recurses into nested lists; a file of brackets would end in a traceback
    except RecursionError as error:
        raise DirePlugError(f"{where}: nested too deeply to be a recipe") from error


def header(path: Path) -> str:
    """Return the comment at the head of a recipe file, without the comment signs."""
    lines = []
    for line in _read_text(path).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines).strip()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DirePlugError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DirePlugError(f"{path}: cannot be read: {error.strerror}") from error


def _kind(content: Any) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"


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


def find_source(sources: Tree, key: str) -> Any:
    """Return what a recipe's `sources` say of a dotted key, by its longest prefix there; None where they don't."""
    return next((sources[one] for one in reversed(prefixes(key)) if one in sources), None)


def prefixes(key: str) -> list[str]:
    """Return the prefixes of a dotted key, from its first part to itself."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


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


def is_folder(real: str) -> bool:
    """Return whether what a user calls a dataset is the path of a folder of images: it looks like a path."""
    return "/" in real or real.startswith((".", "~"))


def dataset_settings(real: str) -> tuple[str, ...]:
    """Return the settings, as `--set` takes them, that name a dataset or a folder of images."""
    if is_folder(real):
        return "dataset.name=folder", path_setting("dataset.path", real)
    return (f"dataset.name={real}",)


def path_setting(key: str, path: str) -> str:
    """Return the setting of a path, as `--set` takes it: quoted, since it may hold what YAML reads otherwise."""
    return f"{key}={json.dumps(path)}"


def settings_tree(settings: Sequence[str]) -> Tree:
    """Return what several `--set` say as one mapping; a later one wins over an earlier one."""
    tree: Tree = {}
    for text in settings:
        keys, value = split_setting(text)
        tree = merge(tree, nest(keys, value))
    return tree


def nest(keys: Sequence[str], value: Any) -> Tree:
    """Return the mapping that has one value, at `keys`; there is at least one."""
    *outer, last = keys
    tree: Tree = {last: value}
    for key in reversed(outer):
        tree = {key: tree}
    return tree


def mapping(tree: Tree, *keys: object) -> Tree:
    """Return the mapping at `keys` (50 and "50" are one key), or an empty one where there is none."""
    found: Any = tree
    for key in keys:
        values = found.items() if isinstance(found, dict) else ()
        found = next((value for name, value in values if str(name) == str(key)), None)
    return found if isinstance(found, dict) else {}
