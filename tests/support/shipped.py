"""What tests of the recipes that ship ask of each."""

from typing import Any

from dire_plug.recipe import arm_names, header, read_yaml, resolve
from dire_plug.recipe.layers import flatten

SECTIONS = ("dataset", "ipc", "squeeze", "recover", "evaluate", "arms", "presets")


def keys_without_source(tree: dict[str, Any], *, sections: tuple[str, ...] = SECTIONS) -> list[str]:
    """Return the dotted keys of a recipe's sections of which `sources` says nothing."""
    keys = flatten({key: tree[key] for key in sections if key in tree})
    return [key for key in keys if not any(f"{key}.".startswith(f"{source}.") for source in tree["sources"])]


def check_shipped_recipe(adapter: Any, name: str, *, classes: int) -> None:
    """Resolve a recipe of the family in every arm and IPC; look at its plans, sources and printed figures."""
    path = adapter.recipes() / f"{name}.yaml"
    tree, said = read_yaml(path), header(path)
    for arm in arm_names(tree):
        for ipc in (None, *map(int, tree.get("by_ipc", {}))):
            one = resolve(tree, arm=arm, ipc=ipc, preset=None, settings=(), adapter=adapter, catalogue=None).recipe
            plan = adapter.plan(one.recover, classes=classes, ipc=one.ipc)
            assert (plan.chunks[-1][1], plan.ipc) == (classes, one.ipc)
    assert keys_without_source(tree) == []
    for figures in tree.get("paper", {}).get("figures", {}).values():
        assert all(figure in said for figure in figures.values())
