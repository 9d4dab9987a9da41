"""Check a recipe, in two steps: its frame, then by the method's adapter and the regularizers.

All problems are reported at once, one `location: message` a line.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ValidationError

from dire_plug.errors import DirePlugError, nearest
from dire_plug.recipe.ladder import RUNG
from dire_plug.recipe.loading import Tree, flatten, mapping, merge, prefixes
from dire_plug.recipe.messages import Problem, describe
from dire_plug.recipe.model import RDED, Recipe
from dire_plug.types import IMAGE_SUFFIXES, Adapter

FULL = "full"
CHOSEN = ("herding", "k-center", "k-means")
"""The arms whose images the teacher's embeddings choose."""
REAL_IMAGE_ARMS = ("random", RDED, *CHOSEN, FULL)
"""Arms that take real images instead of synthesizing; which of them can run, the pipeline says."""
SUBSET_ARMS = tuple(arm for arm in REAL_IMAGE_ARMS if arm != FULL)
"""Those with as many images as a synthesis has."""
METHOD_ARMS = ("baseline", "control", "dire")
"""The arms of a method that `compare-methods` shows."""
DEFAULT_ARMS = (*METHOD_ARMS, "random")
"""The arms that `compare` shows side by side."""
PROBE = "verify-probe"
"""The regularizer of `verify`: it is installed, and nobody is told to run it."""
RESERVED_ARMS = ("baseline", "control", *REAL_IMAGE_ARMS)
FIXED = ("name", "title", "method", "demonstration", "by_ipc", "presets", "paper", "sources")
"""Keys that describe the recipe itself; no arm, preset or `--set` changes them."""
_COMMIT = re.compile("[0-9a-f]{40}")


Catalogue = Mapping[str, Callable[[], type[BaseModel]]]
"""Installed regularizer → the function that loads the model of its settings; called for those that a recipe names."""


def fill_recipe(tree: Tree, *, adapter: Adapter) -> Recipe:
    """Return a recipe in which `find_problems` found none, with every default filled in, upstream's flags too."""
    recipe = Recipe.model_validate(tree)
    # with upstream's defaults, which belong to the run's identity as ours do
    flags = adapter.flags_model(recipe.recover.script).model_validate(recipe.recover.flags)
    recover = recipe.recover.model_copy(update={"flags": flags.model_dump(by_alias=True)})
    return recipe.model_copy(update={"recover": recover})


def check_recipe(tree: Tree, *, adapter: Adapter, catalogue: Catalogue | None = None) -> None:
    """Check a recipe as its file has it: by itself, and with each `by_ipc`, preset and arm laid over it.

    Raises:
        DirePlugError: all that is wrong, one `location: message` a line.
    """
    problems = find_problems(tree, adapter=adapter, catalogue=catalogue)
    # an overlay inherits the recipe's own problems, which are reported once only
    known = set(map(str, problems))
    for place, values in _overlays(tree):
        problems += overlay_problems(values, prefix=f"{place}.", catalogue=catalogue)
        changed = {key: value for key, value in values.items() if key not in (*FIXED, "ipc", "regularizers")}
        for problem in find_problems(merge(tree, changed), adapter=adapter, catalogue=catalogue):
            if str(problem) not in known:
                problems.append(Problem(f"{place}.{problem.location}", problem.message))
    raise_problems(problems, name=tree.get("name"))


def raise_problems(problems: Iterable[Problem], *, name: object) -> None:
    """Raise one error that lists the problems, each once, if there are any."""
    lines = dict.fromkeys(map(str, problems))
    if lines:
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise DirePlugError("\n".join([f"recipe '{name}' has {count}:", *(f"  {line}" for line in lines)]))


def find_problems(
    tree: Tree, *, adapter: Adapter, catalogue: Catalogue | None = None, classes: int | None = None
) -> list[Problem]:
    """Return all that is wrong with a recipe; without a catalogue, regularizers aren't looked at."""
    # every check works on the raw tree, so that one bad section doesn't hide the problems of another
    problems = [_reword(problem) for problem in _frame_problems(tree)]
    problems += _upstream_problems(tree, adapter) + _script_problems(tree, adapter)
    problems += _arm_problems(tree) + _source_problems(tree)
    if catalogue is not None:
        for arm in mapping(tree, "arms"):
            settings = mapping(tree, "arms", arm, "regularizers")
            problems += regularizer_problems(settings, catalogue, prefix=f"arms.{arm}.regularizers")
    # the adapter gets a validated recipe, never a half-typed tree
    if not problems:
        found = adapter.problems(Recipe.model_validate(tree), classes=classes)
        problems = [Problem(location, message) for location, message in found]
    return problems


def overlay_problems(values: Tree, *, prefix: str = "", catalogue: Catalogue | None = None) -> list[Problem]:
    """Return what a `by_ipc`, preset or arm can't say: what describes the recipe, the IPC, settings of no mapping."""
    problems = [Problem(f"{prefix}{key}", "can't be changed here") for key in (*FIXED, "ipc") if key in values]
    for key in ("arms", "regularizers"):
        named = values.get(key, {})
        wrong = (
            [key]
            if not isinstance(named, dict)
            else [f"{key}.{name}" for name in named if not isinstance(named[name], dict)]
        )
        problems += [Problem(f"{prefix}{place}", "must be a mapping of keys to values") for place in wrong]
    if catalogue is not None and not problems:
        problems = regularizer_problems(mapping(values, "regularizers"), catalogue, prefix=f"{prefix}regularizers")
    return problems


def regularizer_problems(settings: Mapping[str, Any], catalogue: Catalogue, *, prefix: str) -> list[Problem]:
    """Return what is wrong with the regularizers named in `settings` and with their settings."""
    problems: list[Problem] = []
    for name, values in settings.items():
        if name not in catalogue:
            known = ", ".join(one for one in catalogue if one != PROBE)
            message = f"no regularizer of this name is installed{nearest(name, catalogue)}; known: {known}"
            problems.append(Problem(f"{prefix}.{name}", message))
            continue
        model = catalogue[name]()
        try:
            model.model_validate(values)
        except ValidationError as error:
            problems += describe(error, model, prefix=f"{prefix}.{name}")
    return problems


def _frame_problems(tree: Tree) -> list[Problem]:
    try:
        Recipe.model_validate(tree)
    except ValidationError as error:
        return describe(error, Recipe)
    return []


def _reword(problem: Problem) -> Problem:
    if problem.location == "upstream.commit" and "missing" not in problem.message:
        found = problem.message.rpartition("(is ")[2].removesuffix(")")
        # quotes, because YAML reads digits alone as a number
        return Problem("upstream.commit", f"must be the full commit, 40 hex digits in quotes (is {found})")
    if problem.location.split(".")[0] in ("name", "arms", "presets") and "pattern" in problem.message:
        message = "must be made of letters, digits, '.', '_' and '-', and begin with a letter or digit"  # not a pattern
        return Problem(problem.location, message)
    return problem


def _upstream_problems(tree: Tree, adapter: Adapter) -> list[Problem]:
    problems = []
    method, commit = tree.get("method"), mapping(tree, "upstream").get("commit")
    if isinstance(method, str) and method != adapter.name:
        problems.append(Problem("method", f"is '{method}', but the recipe was asked for as one of {adapter.name}"))
    repository = mapping(tree, "upstream").get("repository")
    if isinstance(repository, str) and repository != adapter.upstream.repository:
        message = f"{adapter.name} comes from {adapter.upstream.repository} (is '{repository}')"
        problems.append(Problem("upstream.repository", message))
    if isinstance(commit, str) and _COMMIT.fullmatch(commit) and commit != adapter.upstream.commit:
        message = f"the patch of {adapter.name} fits {adapter.upstream.commit} only (is '{commit}')"
        problems.append(Problem("upstream.commit", message))
    return problems


def _script_problems(tree: Tree, adapter: Adapter) -> list[Problem]:
    """Return what is wrong with the script's name, its flags, and the heads that it fixes."""
    recover, name = mapping(tree, "recover"), mapping(tree, "recover").get("script")
    if not isinstance(name, str):
        return []
    if name not in adapter.scripts:
        known = ", ".join(adapter.scripts)
        message = f"{adapter.name} has no script '{name}'{nearest(name, adapter.scripts)}; it has {known}"
        return [Problem("recover.script", message)]
    flags = mapping(recover, "flags")
    problems = [
        Problem(f"recover.flags.{flag}", f"can't be set in a recipe: {adapter.reserved_flags[flag]}")
        for flag in flags
        if flag in adapter.reserved_flags
    ]
    model = adapter.flags_model(name)
    try:
        # reserved flags have their own message above; they would be unknown keys here
        model.model_validate({flag: value for flag, value in flags.items() if flag not in adapter.reserved_flags})
    except ValidationError as error:
        problems += describe(error, model, prefix="recover.flags")
    # otherwise only the saving of the first image would fail, after its whole synthesis
    if adapter.scripts[name].suffix is None and (wrong := suffix_problem(adapter.image_path(0, 0))):
        problems.append(Problem("recover.script", f"image_path of {adapter.name}'s adapter: {wrong}"))
    outputs, expected = mapping(tree, "squeeze").get("outputs"), adapter.scripts[name].classes
    # the native engine counts to the number of classes, however many the network has
    wider = adapter.has_native(name) and isinstance(outputs, int) and outputs > expected
    if isinstance(outputs, int) and outputs != expected and not wider:
        message = f"the script '{name}' builds a network with {expected} outputs, so this must be {expected}"
        problems.append(Problem("squeeze.outputs", f"{message} (is {outputs})"))
    return problems


def suffix_problem(path: str) -> str | None:
    """Return what is wrong with the suffix of an image's file, or None."""
    suffix = PurePath(path).suffix
    if suffix.lower() in IMAGE_SUFFIXES:
        return None
    return f"'{path}' ends in no format of images{nearest(suffix, IMAGE_SUFFIXES)}; use {', '.join(IMAGE_SUFFIXES)}"


def _arm_problems(tree: Tree) -> list[Problem]:
    problems = []
    for name in mapping(tree, "arms"):
        arm = mapping(tree, "arms", name)
        if name in RESERVED_ARMS or name.startswith(RUNG):
            problems.append(Problem(f"arms.{name}", "this name is reserved; choose another"))
        if name != "dire" and name in mapping(arm, "regularizers") and mapping(arm, "overrides"):
            message = (
                f"the arm of a regularizer shares dire's overrides and control; move them to an arm not named {name}"
            )
            problems.append(Problem(f"arms.{name}.overrides", message))
        for key in (*FIXED, "ipc", "arms", "regularizers"):
            if key in mapping(arm, "overrides"):
                problems.append(Problem(f"arms.{name}.overrides.{key}", "can't be changed here"))
    return problems


def _source_problems(tree: Tree) -> list[Problem]:
    problems = []
    sections = [name for name in tree if name not in ("sources", "paper")]
    known = {part for key in flatten({name: tree[name] for name in sections}) for part in prefixes(key)}
    for key, text in mapping(tree, "sources").items():
        if key not in known:
            problems.append(Problem(f"sources.{key}", f"the recipe has no such key{nearest(str(key), known)}"))
        if isinstance(text, str) and not text.startswith(("published: ", "chosen: ")):
            problems.append(Problem(f"sources.{key}", "must begin with 'published: ' or 'chosen: '"))
    return problems


def _overlays(tree: Tree) -> Iterable[tuple[str, Tree]]:
    """Yield the place and the values of each `by_ipc` and preset, and of each arm's overrides."""
    for kind in ("by_ipc", "presets"):
        for name in mapping(tree, kind):
            yield f"{kind}.{name}", mapping(tree, kind, name)
    for name in mapping(tree, "arms"):
        yield f"arms.{name}.overrides", mapping(tree, "arms", name, "overrides")
