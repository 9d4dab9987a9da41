"""What makes two arms the same run, and what makes them differ by their terms alone."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from dire_plug.files import digest_file
from dire_plug.recipe.check import REAL_IMAGE_ARMS
from dire_plug.recipe.layers import Tree
from dire_plug.recipe.resolve import DEFINITIONS, Resolved
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import PLAIN

_DESCRIPTION = {"name", "title", "demonstration", *DEFINITIONS}
_LATER: dict[tuple[str, ...], Any] = {
    ("dataset", "validation"): None,
    ("evaluate", "judge"): "test",
    ("evaluate", "randaugment"): None,
    ("real", "coreset"): None,
    ("term", "network"): ["loop"],
    ("squeeze", "frozen"): {},
    ("recover", "embedder", "network"): "teacher",
}
"""Keys that came after runs had been made: at their default they don't count, so that those runs are still found."""


def identity(resolved: Resolved) -> Tree:
    """Return, JSON-like, every value that changes results: no titles, sources or definitions, no paths.

    A teacher's checkpoint counts by its content; see `counted` for the rest.
    """
    content = counted(resolved.recipe.model_dump(mode="json"), arm=resolved.arm, regularizers=resolved.regularizers)
    squeeze = content["squeeze"]
    named = [*squeeze["others"].values(), *squeeze.get("frozen", {}).values()]
    for training in (squeeze["teacher"], squeeze["independent"], *named):
        training["checkpoint"] = _by_content(training["checkpoint"])
    return content


def counted(recipe: Tree, *, arm: str, regularizers: Mapping[str, Tree]) -> Tree:
    """Return the values of a resolved recipe that change an arm's results; a run's own recipe.yaml will do, too.

    `real`, `term` and `squeeze.frozen` count only where a term sees them; real-image arms don't depend on how images
    would be synthesized; keys that came later don't count at their defaults.
    """
    unused = _DESCRIPTION | ({"real", "term"} if not regularizers else set())
    if arm in REAL_IMAGE_ARMS:
        unused |= {"recover", "prepare", "upstream"}
    content = deepcopy({key: value for key, value in recipe.items() if key not in unused})
    _drop_later_defaults(content)
    if not regularizers:
        content["squeeze"].pop("frozen", None)
    return content | {"regularizers": {name: _own(terms) for name, terms in regularizers.items()}}


def _drop_later_defaults(content: Tree) -> None:
    """Drop the keys of `_LATER` that are at their default, and `term` where nothing is left of it."""
    for (*sections, key), default in _LATER.items():
        section: Any = content
        for name in sections:
            section = (section or {}).get(name)
        if section and section.get(key, default) == default:
            section.pop(key, None)
    if not content.get("term"):
        content.pop("term", None)


def _own(settings: Tree) -> Tree:
    """Return a regularizer's settings without a weight that leaves its term as it is."""
    return {key: value for key, value in settings.items() if (key, value) != (WEIGHT, PLAIN)}


def _by_content(checkpoint: str | None) -> str | None:
    if checkpoint is None or checkpoint.startswith("torchvision:"):
        return checkpoint
    path = Path(checkpoint).expanduser()
    return f"sha256:{digest_file(path)}" if path.is_file() else checkpoint


def without_terms(recipe: Tree) -> Tree:
    """Return what counts where no term does: where two arms have it in common, they differ by their terms alone.

    Args:
        recipe: as `counted` takes it.
    """
    return counted(recipe, arm="baseline", regularizers={})
