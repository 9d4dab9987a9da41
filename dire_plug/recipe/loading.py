"""Find recipe files by glob; read them as YAML 1.2 (1e-7 is a number, `no` is text), each key once."""

import re
from collections.abc import Hashable
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
