"""Derive the preset `as-printed` of a recipe: its arm `dire` as Algorithm 1 and Equations 1–5 of the paper have it.

Algorithm 1 adds a term to a method and changes nothing else: images start as the method's own do (SRe2L's from
Gaussian noise), its learning rate and its weights stay, the term has no factor, and it sees all images of a class at
once. r_c and r_e aren't printed; they stay the recipe's. What is particular to a method's batches stands in the
recipe's own preset of this name, which is laid over.
"""

from typing import Any

from dire_plug.recipe.loading import Tree, find_source, flatten, mapping, merge, prefixes

AS_PRINTED = "as-printed"
WEIGHTS = ("r_c", "r_e")
"""The settings of DiRe that the paper doesn't print."""
ARM = "arms.dire"
ALONE = "published: paper, Algorithm 1: nothing but the term is added; start, lr and r-bn are the method's own"
WHOLE = "published: paper, Equation 1 and Algorithm 1: all images of a class"
BATCH = "chosen: about as many images in a batch as the recipe's arm dire has"
TERM = "published: paper, Equations 1–5 and Algorithm 1, which has no factor"


def preset_names(raw: Tree) -> list[str]:
    """Return the presets that a recipe has: its own, and `as-printed` where its arm `dire` has DiRe."""
    can_be_printed = "dire" in mapping(raw, "arms", "dire", "regularizers")
    return list(dict.fromkeys([*mapping(raw, "presets"), *([AS_PRINTED] if can_be_printed else [])]))


def print_arm(raw: Tree, *, ipc: Any) -> Tree:
    """Return a recipe whose arm `dire` is as printed, with its sources.

    Args:
        raw: the recipe as `read_yaml` returns it, with an arm `dire` that has DiRe.
        ipc: images per class; what isn't a number is left to the check of the recipe.
    """
    tree, sources = merge(raw, mapping(raw, "by_ipc", ipc)), mapping(raw, "sources")
    own = mapping(tree, "arms", "dire", "regularizers", "dire")
    weights = {key: own[key] for key in WEIGHTS if key in own}
    particular = mapping(raw, "presets", AS_PRINTED, "arms", "dire")
    arm: Tree = {
        "overrides": {"recover": _whole_classes(tree, ipc)},
        "regularizers": {"dire": {"variant": "paper", "multiplier": 1.0, **weights}},
    }
    said = {"overrides": ALONE, "overrides.recover.plan": WHOLE, "overrides.recover.flags": BATCH, "regularizers": TERM}
    said |= {f"regularizers.dire.{key}": find_source(sources, f"{ARM}.regularizers.dire.{key}") for key in weights}
    arm = merge(arm, particular)
    said |= {key: find_source(sources, f"presets.{AS_PRINTED}.{ARM}.{key}") for key in flatten(particular)}
    there = {part for key in flatten(arm) for part in prefixes(key)}
    printed = {f"{ARM}.{key}": text for key, text in said.items() if text and key in there}
    kept = {key: text for key, text in sources.items() if not f"{key}.".startswith(f"{ARM}.")}
    return {**raw, "arms": {**mapping(raw, "arms"), "dire": arm}, "sources": kept | printed}


def _whole_classes(tree: Tree, ipc: Any) -> Tree:
    """Return the changes of `recover` with which a batch holds whole classes: none where the arm `dire` regroups
    nothing, as its script's batches hold several images of a class by themselves."""
    dire = mapping(tree, "arms", "dire", "overrides", "recover")
    per_class = mapping(dire, "plan").get("per_class")
    classes = merge(mapping(tree, "recover", "flags"), mapping(dire, "flags")).get("batch-size")
    if not isinstance(per_class, int) or not isinstance(ipc, int) or ipc < 1:
        return {}
    whole: Tree = {"plan": {"per_class": ipc}}
    if isinstance(classes, int):
        # a GPU that holds the batches of `dire` holds these, too
        whole["flags"] = {"batch-size": max(1, min(classes, classes * per_class // ipc))}
    return whole
