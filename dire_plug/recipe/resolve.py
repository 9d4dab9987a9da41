"""Resolve a recipe for one arm: defaults, file, by_ipc, preset, the arm's overrides and `--set`, in this order."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from dire_plug.errors import DirePlugError, nearest, wrap_names
from dire_plug.recipe.as_printed import AS_PRINTED, preset_names, print_arm
from dire_plug.recipe.check import (
    PROBE,
    REAL_IMAGE_ARMS,
    RESERVED_ARMS,
    Catalogue,
    fill_recipe,
    find_problems,
    overlay_problems,
    raise_problems,
)
from dire_plug.recipe.ladder import RUNG, cut_ladder
from dire_plug.recipe.loading import (
    Layer,
    Tree,
    find_source,
    flatten,
    mapping,
    merge,
    prefixes,
    settings_tree,
    split_setting,
    stack,
)
from dire_plug.recipe.messages import UNKNOWN, Problem, model_keys, with_path
from dire_plug.recipe.model import RDED, Recipe
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import PLAIN
from dire_plug.types import Adapter

SUM = "+"
"""Joins the names of regularizers to that of an arm which has them all."""
DEFINITIONS = {"by_ipc", "arms", "presets", "paper", "sources"}
"""Keys that a resolved recipe has used already, or that only describe it."""


@dataclass(frozen=True)
class Resolved:
    """One arm of a recipe, wholly specified.

    Attributes:
        recipe: with every default filled in.
        regularizers: name → settings; empty in an arm without a term.
        origin: dotted key → where the value comes from, and the recipe's words on its source.
        arm: the arm's name.
    """

    recipe: Recipe
    regularizers: dict[str, dict[str, Any]]
    origin: dict[str, str]
    arm: str


def resolve(  # one parameter for each thing that a command line may say; a holder of them would only rename it
    raw: Tree,
    *,
    arm: str,
    ipc: int | None,
    preset: str | None,
    settings: Sequence[str],
    adapter: Adapter,
    sections: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Resolved:
    """Lay the layers over each other for one arm and check what comes out.

    Settings of regularizers that this arm lacks are checked and otherwise ignored, so that one command line serves
    every arm of a comparison. With a catalogue the regularizers are checked, and their defaults filled in.

    Args:
        raw: the recipe as `read_yaml` returns it.
        settings: `KEY.KEY=VALUE` of each `--set`.
        sections: `KEY.KEY=VALUE`, each of which replaces all that the layers and `sources` say there.

    Raises:
        DirePlugError: an unknown arm, preset or key, or a recipe that isn't valid; all problems of the recipe at once.
    """
    given = Layer("--set", settings_tree(settings))
    chosen = _choose_ipc(raw, ipc, given)  # first: it chooses the by_ipc
    raw = _with_preset(raw, ipc=chosen, preset=preset)
    overlays = _overlays(raw, ipc=chosen, preset=preset)
    changes = [*overlays, given]
    definitions = _definitions(raw, changes, catalogue)
    layers = [Layer("recipe file", raw, ""), *map(_recipe_part, overlays)]
    layers += _arm_layer(arm, definitions, catalogue)
    # last: the command line wins over everything
    layers += [_recipe_part(given), Layer("--ipc", {} if ipc is None else {"ipc": ipc})]
    tree, layer_of = stack(_replace(layers, sections))
    if definitions:
        tree["arms"] = definitions
    terms, term_origin = _terms(arm, definitions, changes, catalogue)
    problems = _change_problems(changes, definitions, catalogue)
    found = find_problems(tree, adapter=adapter, catalogue=catalogue)
    if any(one.message.startswith(UNKNOWN) for one in found):
        known = [*_known_keys(tree, adapter), *_term_keys(definitions, catalogue)]
        found = [with_path(one, [key for key in known if key != one.location]) for one in found]
    problems += [_with_layer(one, layer_of) for one in found]
    raise_problems(problems, name=tree.get("name"))
    if catalogue is not None:
        # filled-in defaults belong to the run's identity: a later default must not change old runs
        terms = {name: catalogue[name]()(**terms[name]).model_dump(mode="json") for name in terms}
    recipe = fill_recipe(tree, adapter=adapter)
    values = flatten(recipe.model_dump(mode="json", exclude=DEFINITIONS))
    sources = mapping(raw, "sources")
    origin = {key: _tell(key, layer_of.get(key), sources) for key in values}
    origin |= {f"regularizers.{key}": _tell(key, term_origin.get(key), sources) for key in flatten(terms)}
    return Resolved(recipe, terms, origin, arm)


def _replace(layers: Sequence[Layer], sections: Sequence[str]) -> list[Layer]:
    """Return the layers without what they say of some sections, and these as the last layer."""
    if not sections:
        return list(layers)
    found = list(layers)
    for path, _ in map(split_setting, sections):
        found = [Layer(one.label, _without(one.values, path), one.place) for one in found]
    return [*found, Layer("--protocol", settings_tree(sections))]


def _without(tree: Tree, path: tuple[str, ...]) -> Tree:
    """Return a recipe's values without those at a path, and without their sources."""
    first, *rest = path
    found = {key: value for key, value in tree.items() if rest or key != first}
    if rest and isinstance(found.get(first), dict):
        found[first] = _without(found[first], tuple(rest))
    if sources := mapping(found, "sources"):
        gone = ".".join(path)
        found["sources"] = {key: text for key, text in sources.items() if not f"{key}.".startswith(f"{gone}.")}
    return found


def _known_keys(tree: Tree, adapter: Adapter) -> list[str]:
    """Return the dotted keys that a recipe may have: those of its sections, and upstream's flags."""
    script = str(mapping(tree, "recover").get("script"))
    flags = adapter.flags_model(script).model_fields if script in adapter.scripts else {}
    return [*model_keys(Recipe), *(f"recover.flags.{field.alias or name}" for name, field in flags.items())]


def _term_keys(definitions: Tree, catalogue: Catalogue | None) -> list[str]:
    """Return the dotted keys of the settings of the arms' regularizers."""
    names = dict.fromkeys(name for arm in definitions for name in mapping(definitions, arm, "regularizers"))
    models = {name: catalogue[name]() for name in names if catalogue is not None and name in catalogue}
    return [f"regularizers.{name}.{key}" for name, model in models.items() for key in model.model_fields]


def as_file(resolved: Resolved) -> Tree:
    """Return the arm as a recipe of its own: the same arm of it, or baseline where there is no term, is the same run.

    What other arms, presets and IPCs would change is gone, and so are the sources of keys that are gone.
    """
    content = resolved.recipe.model_dump(mode="json", exclude={"arms", "presets", "by_ipc"}, exclude_none=True)
    if resolved.regularizers:
        content["arms"] = {resolved.arm: {"regularizers": resolved.regularizers}}
    known = {part for key in flatten(content) for part in prefixes(key)}
    content["sources"] = {key: text for key, text in resolved.recipe.sources.items() if key in known}
    return content


def arm_names(raw: Tree) -> list[str]:
    """Return the arms that a recipe has: baseline, those that it defines, control, and the real-image ones."""
    defined = list(mapping(raw, "arms"))
    return ["baseline", *(["control"] if "dire" in defined else []), *defined, *REAL_IMAGE_ARMS]


def ladder_arms(
    raw: Tree, *, ipc: int | None, preset: str | None, settings: Sequence[str], catalogue: Catalogue | None = None
) -> tuple[str, ...]:
    """Return the arms from baseline to `dire`, each with one more of the changes of `dire` than the one before.

    Args:
        raw, ipc, preset, settings, catalogue: as `resolve` takes them.

    Raises:
        DirePlugError: the recipe has no arm `dire`; an unknown preset or arm.
    """
    given = Layer("--set", settings_tree(settings))
    chosen = _choose_ipc(raw, ipc, given)
    raw = _with_preset(raw, ipc=chosen, preset=preset)
    overlays = _overlays(raw, ipc=chosen, preset=preset)
    definitions = _definitions(raw, [*overlays, given], catalogue)
    if "dire" not in definitions:
        raise DirePlugError("this recipe has no arm 'dire', so there is no ladder to it; name its arms with --arms")
    return ("baseline", *cut_ladder(mapping(definitions, "dire", "overrides")), "control", "dire")


def _choose_ipc(raw: Tree, ipc: int | None, given: Layer) -> Any:
    asked = given.values.get("ipc")
    if ipc is not None and asked is not None and asked != ipc:
        raise DirePlugError(f"--ipc {ipc} and --set ipc={asked} contradict each other; give one of them")
    return next((value for value in (ipc, asked) if value is not None), raw.get("ipc"))


def _with_preset(raw: Tree, *, ipc: Any, preset: str | None) -> Tree:
    """Return the recipe, with its arm `dire` as printed where the preset `as-printed` asks for that.

    Raises:
        DirePlugError: the recipe has no such preset.
    """
    known = preset_names(raw)
    if preset is not None and preset not in known:
        raise DirePlugError(
            f"no preset '{preset}'{nearest(preset, known)}; this recipe has {', '.join(known) or 'none'}"
        )
    return print_arm(raw, ipc=ipc) if preset == AS_PRINTED else raw


def _overlays(raw: Tree, *, ipc: Any, preset: str | None) -> list[Layer]:
    layers = []
    if values := mapping(raw, "by_ipc", ipc):
        layers.append(Layer(f"by_ipc {ipc}", values, f"by_ipc.{ipc}"))
    if preset is not None:
        layers.append(Layer(f"preset {preset}", mapping(raw, "presets", preset), f"presets.{preset}"))
    return layers


def _recipe_part(layer: Layer) -> Layer:
    """Return the layer without its settings for arms and regularizers."""
    values = {key: value for key, value in layer.values.items() if key not in ("arms", "regularizers")}
    return Layer(layer.label, values, layer.place)


def _definitions(raw: Tree, overlays: Sequence[Layer], catalogue: Catalogue | None) -> Tree:
    """Return the definitions of arms with what overlays change in them; an overlay can't invent an arm."""
    definitions = mapping(raw, "arms")
    known = {*definitions, *(catalogue or ())}
    for layer in overlays:
        changes = mapping(layer.values, "arms")
        for name in changes:
            if name not in known:
                raise DirePlugError(f"{layer.label}: arms.{name}: no such arm{nearest(name, known)}")
        definitions = merge(definitions, changes)
    return definitions


def _arm_layer(arm: str, definitions: Tree, catalogue: Catalogue | None) -> list[Layer]:
    """Return the overrides that `arm` lays over the recipe: none for baseline and real images.

    Raises:
        DirePlugError: there is no such arm.
    """
    if arm == "baseline" or arm in REAL_IMAGE_ARMS:
        return []
    twice = [name for name in arm.split(SUM) if arm.split(SUM).count(name) > 1]
    if twice:
        raise DirePlugError(f"arm '{arm}': names {twice[0]} twice; each regularizer is added once")
    if arm.startswith(RUNG):
        rungs = cut_ladder(mapping(definitions, "dire", "overrides"))
        if arm not in rungs:
            names = ", ".join(rungs) or "none"
            raise DirePlugError(f"no arm '{arm}'{nearest(arm, rungs)}; this recipe's ladder has {names}")
        return [Layer(f"arm {arm}", rungs[arm], "arms.dire.overrides")]
    # control and the arm of any regularizer are `dire` without, or with another, term
    name = "dire" if arm == "control" or _is_regularizer(arm, definitions, catalogue) else arm
    if name not in definitions:
        groups = {
            "this recipe has": [*RESERVED_ARMS[:2], *definitions],
            "of real images": REAL_IMAGE_ARMS,
            "with another term": [one for one in catalogue or () if one not in (*definitions, PROBE)],
        }
        hint = " (it takes the settings of the arm `dire`, which this recipe lacks)" if name != arm else ""
        hint = hint or nearest(arm, [one for names in groups.values() for one in names])
        lines = [wrap_names(what, names) for what, names in groups.items() if names]
        raise DirePlugError("\n".join([f"no arm '{arm}'{hint}", *lines]))
    return [Layer(f"arm {name}", mapping(definitions, name, "overrides"), f"arms.{name}.overrides")]


def _is_regularizer(arm: str, definitions: Tree, catalogue: Catalogue | None) -> bool:
    """Return whether an arm is `dire` with the regularizers of the arm's name, joined by `+`, instead of its own."""
    if arm in definitions:
        return arm != "dire" and arm in mapping(definitions, arm, "regularizers")
    return catalogue is not None and all(name in catalogue for name in arm.split(SUM))


def _terms(
    arm: str, definitions: Tree, changes: Sequence[Layer], catalogue: Catalogue | None
) -> tuple[Tree, dict[str, Layer]]:
    """Return the arm's regularizers with their settings, and the layer of each setting."""
    base = mapping(definitions, arm, "regularizers")
    if arm not in definitions and _is_regularizer(arm, definitions, catalogue):
        base = {name: mapping(definitions, name, "regularizers", name) for name in arm.split(SUM)}
    layers = [Layer(f"arm {arm}", base, f"arms.{arm}.regularizers")]
    for layer in changes:
        settings = mapping(layer.values, "regularizers")
        place = None if layer.place is None else f"{layer.place}.regularizers"
        layers.append(Layer(layer.label, {name: settings[name] for name in settings if name in base}, place))
    return stack(layers)


def _change_problems(changes: Sequence[Layer], definitions: Tree, catalogue: Catalogue | None) -> list[Problem]:
    """Return what a by_ipc, preset or `--set` may not say, whichever arm runs."""
    known = {name for arm in definitions for name in mapping(definitions, arm, "regularizers")}
    known |= set(catalogue or ())
    problems = []
    for layer in changes:
        # `--set ipc=…` is `--ipc` in other words, so it may say what a preset may not
        values = {key: value for key, value in layer.values.items() if layer.place is not None or key != "ipc"}
        found = overlay_problems(values, catalogue=catalogue)
        for name in mapping(values, "regularizers"):
            if catalogue is None and name not in known:
                found.append(Problem(f"regularizers.{name}", f"no arm has this regularizer{nearest(name, known)}"))
        problems += [Problem(problem.location, f"{problem.message} (from {layer.label})") for problem in found]
    return problems


def _with_layer(problem: Problem, layer_of: Mapping[str, Layer]) -> Problem:
    """Add where an invalid value comes from, unless from the recipe file."""
    layer = layer_of.get(problem.location)
    if layer is None or layer.place == "":
        return problem
    return Problem(problem.location, f"{problem.message} (from {layer.label})")


def _tell(key: str, layer: Layer | None, sources: Tree) -> str:
    """Return a layer's label, and what the recipe's `sources` say of the key, by its longest prefix there."""
    if layer is None:
        return "default"
    if layer.place is None:
        return layer.label
    source = find_source(sources, f"{layer.place}.{key}" if layer.place else key)
    return f"{layer.label}; {source}" if source else layer.label


_DESCRIPTION = {"name", "title", "demonstration", *DEFINITIONS}


def counted(recipe: Tree, *, arm: str, regularizers: Mapping[str, Tree]) -> Tree:
    """Return the values of a resolved recipe that change an arm's results; a run's own recipe.yaml will do, too.

    `real`, `term` and `squeeze.frozen` count only where a term sees them, `rded` where its images are made; real-image
    arms don't depend on how images would be synthesized; a dataset's path doesn't count, nor do keys that came later at
    their defaults.
    """
    unused = _DESCRIPTION | ({"real", "term"} if not regularizers else set())
    if arm in REAL_IMAGE_ARMS:
        unused |= {"recover", "prepare", "upstream"}
    if arm != RDED and (arm in REAL_IMAGE_ARMS or mapping(recipe, "recover").get("start") != RDED):
        unused |= {RDED}
    # a copy, since `frozen` is taken out of it below
    content = deepcopy({key: value for key, value in recipe.items() if key not in unused})
    # the images count, by the dataset's digest, and not where they lie
    content.get("dataset", {}).pop("path", None)
    if not regularizers:
        # frozen networks only embed for a term, so a baseline with and without them is one run
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
