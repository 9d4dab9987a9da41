"""Random bad input for the command line: how much of it, what it is made of, and what may not come out.

`make test` tries the same few examples each time. `make fuzz` tries the thousands that each test names.
"""

import contextlib
import copy
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from dire_plug.cli import main

LONG = "DIRE_PLUG_FUZZ"
"""The variable that `make fuzz` sets: the share of the named thousands that is tried, 1 for all."""


def tries(many: int, *, few: int = 12) -> Callable[[Any], Any]:
    """Decorate a property with the number of its examples: `many` in the long run, else `few`, always the same."""
    share = float(os.environ.get(LONG, 0))
    return settings(
        max_examples=max(1, int(many * share)) if share else few,
        derandomize=True,
        database=None,
        deadline=None,
        # a smaller example of the same failure isn't worth the minutes that it takes to find
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def ask(*arguments: str) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and all that it printed."""
    printed = io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return code, printed.getvalue()


def check_foreseen(*arguments: str) -> int:
    """Fail where a command ends in an error that nobody wrote a message for; return its exit code."""
    code, printed = ask(*arguments)
    line = f"dire-plug {' '.join(arguments)}"
    assert "unexpected error" not in printed, f"{line}\n{printed}"
    assert "Traceback" not in printed, f"{line}\n{printed}"
    assert code in (0, 1, 2), f"{line}\n{printed}"
    return code


WORDS = ("dire", "real", "noise", "..", "~", "/", "digits", "resnet-18", "1e3", "0", "-1", "nan", "null", "a" * 300, "")
TAGS = ("!!timestamp 1", "!!bool x", '!!binary ""', "!!python/none x", "!!set {a}", "!!float x", "&a [*a]", "!!int ''")

texts = st.one_of(st.sampled_from(WORDS), st.text(st.characters(), max_size=12))
"""Any text, lone surrogates and control characters included."""
numbers = st.one_of(
    st.integers(-3, 200),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 2**70, 10**30]),
    st.floats(),
    st.sampled_from([1e-320, 1e308, -0.0]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, st.dates(), st.binary(max_size=4))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
"""Whatever YAML or JSON can say."""


def places(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every key and item of nested mappings and lists."""
    found: list[tuple[Any, ...]] = []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        found += [(*before, key), *places(value, (*before, key))]
    return found


def change(draw: Callable[[Any], Any], tree: Any) -> None:
    """Change one random place of a tree: another value, none, a second key, another key's name or value."""
    where = places(tree)
    if not where:
        return
    path = draw(st.sampled_from(where))
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    kind = draw(st.sampled_from(["value", "value", "value", "remove", "add", "rename", "move"]))
    if kind == "value":
        inner[path[-1]] = draw(values)
    elif kind == "remove":
        del inner[path[-1]]
    elif kind == "move":
        inner[path[-1]] = follow(tree, draw(st.sampled_from(where)))
    elif isinstance(inner, dict):
        inner[draw(texts)] = inner.pop(path[-1]) if kind == "rename" else draw(values)
    else:
        inner.append(draw(values))


def follow(tree: Any, path: Sequence[Any]) -> Any:
    """Return a copy of what lies at a path, so that no tree holds itself."""
    for key in path:
        tree = tree[key]
    return copy.deepcopy(tree)


def damage(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """Return a file's bytes cut, with some of them changed, emptied, doubled, or others altogether."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "insert", "empty", "other", "double"]))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        changed = bytearray(content or b"\0")
        for _ in range(draw(st.integers(1, 4))):
            changed[draw(st.integers(0, len(changed) - 1))] ^= draw(st.integers(1, 255))
        return bytes(changed)
    other: bytes = draw(st.binary(min_size=1, max_size=40))
    if kind == "insert":
        return content[:place] + other + content[place:]
    return {"empty": b"", "double": content * 2}.get(kind, other)
