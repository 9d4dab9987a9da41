"""What of a resolved recipe changes an arm's results, and what makes arms differ by their terms alone."""

from collections.abc import Mapping
from copy import deepcopy

from dire_plug.recipe.check import REAL_IMAGE_ARMS
from dire_plug.recipe.layers import Tree
from dire_plug.recipe.resolve import DEFINITIONS
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import PLAIN

_DESCRIPTION = {"name", "title", "demonstration", *DEFINITIONS}


def counted(recipe: Tree, *, arm: str, regularizers: Mapping[str, Tree]) -> Tree:
    """Return the values of a resolved recipe that change an arm's results; a run's own recipe.yaml will do, too.

    `real`, `term` and `squeeze.frozen` count only where a term sees them; real-image arms don't depend on how images
    would be synthesized; keys that came later don't count at their defaults.
    """
    unused = _DESCRIPTION | ({"real", "term"} if not regularizers else set())
    if arm in REAL_IMAGE_ARMS:
        unused |= {"recover", "prepare", "upstream"}
    content = deepcopy({key: value for key, value in recipe.items() if key not in unused})
    if not regularizers:
        content.get("squeeze", {}).pop("frozen", None)
    return content | {"regularizers": {name: _own(terms) for name, terms in regularizers.items()}}


def _own(settings: Tree) -> Tree:
    """Return a regularizer's settings without a weight that leaves its term as it is."""
    return {key: value for key, value in settings.items() if (key, value) != (WEIGHT, PLAIN)}


def without_terms(recipe: Tree) -> Tree:
    """Return what counts where no term does: where two arms have it in common, they differ by their terms alone.

    Args:
        recipe: as `counted` takes it.
    """
    return counted(recipe, arm="baseline", regularizers={})
