"""`dire-plug completion SHELL`, and what a shell offers when it completes methods, recipes, arms, presets and runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from dire_plug import home, plugins
from dire_plug.errors import DirePlugError
from dire_plug.recipe import PROBE, REAL_IMAGE_ARMS, arm_names, preset_names, read_yaml, recipe_names
from dire_plug.recipe.loading import is_recipe_file
from dire_plug.store.runs import list_runs

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
VARIABLE = "_DIRE_PLUG_COMPLETE"
"""Set by a shell when it asks what to offer."""
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the lines that let a shell complete commands and names.

    \b
    bash:  eval "$(dire-plug completion bash)"      in ~/.bashrc
    zsh:   eval "$(dire-plug completion zsh)"       in ~/.zshrc, after compinit
    fish:  dire-plug completion fish | source       in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(context.find_root().command, {}, "dire-plug", VARIABLE)
    # not `source()`, which starts bash to ask for its version
    click.echo(script.source_template % script.source_vars())


def _offering(names: Callable[[click.Context, str], Iterable[str]]) -> Offer:
    """Return the function that click asks, of one that returns all names; an error offers none."""

    @wraps(names)
    def offer(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return [CompletionItem(name) for name in names(context, incomplete) if name.startswith(incomplete)]
        except Exception:  # a third party's package may raise anything, and a shell shows nothing
            return []

    return offer


def _recipes(method: str) -> tuple[Path, list[str]]:
    folder = plugins.load_adapter(method).recipes()
    return folder, recipe_names(folder)


def _method(context: click.Context) -> str:
    """Return the method that stands before, of several the first; click leaves it among the rest where an option's
    value is what is asked."""
    known = plugins.known("methods")
    words = [*filter(None, (context.params.get("method"), context.params.get("methods"))), *context.args]
    firsts = [word.partition(",")[0].partition("/")[0] for word in words]
    return next(word for word in ("sre2l" if first == "all" else first for first in firsts) if word in known)


def _recipe(context: click.Context) -> dict[str, Any]:
    """Return the content of the recipe that the words before name."""
    folder, _ = _recipes(_method(context))
    name = context.params.get("recipe") or "quick"
    return read_yaml(Path(name) if is_recipe_file(name) else folder / f"{name}.yaml")


def regularizers() -> list[str]:
    """Return the names of the regularizers that a user may run."""
    return [name for name in plugins.known("regularizers") if name != PROBE]


def _arms(context: click.Context) -> list[str]:
    return [*arm_names(_recipe(context)), *regularizers()]


@_offering
def offer_methods(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the installed methods."""
    return plugins.known("methods")


@_offering
def offer_timed(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer METHOD, and METHOD+ARM behind the sign."""
    method, plus, _ = incomplete.partition("+")
    if not plus:
        return plugins.known("methods")
    context.params["method"] = method
    return [f"{method}+{arm}" for arm in _arms(context)]


@_offering
def offer_recipes(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the recipes of the method before, and recipe files."""
    files = [f"{path}" for path in Path().glob(f"{incomplete}*.y*ml")]
    return [*_recipes(_method(context))[1], *files]


@_offering
def offer_any_recipes(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer METHOD/RECIPE of all methods."""
    method, slash, _ = incomplete.partition("/")
    if not slash:
        return [f"{name}/" for name in plugins.known("methods")]
    return [f"{method}/{name}" for name in _recipes(method)[1]]


@_offering
def offer_presets(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the presets of the recipe."""
    return preset_names(_recipe(context))


@_offering
def offer_arms(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the arms of the recipe; behind a comma, one more."""
    return _one_more(_arms(context), incomplete)


@_offering
def offer_subsets(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the arms of real images; behind a comma, one more."""
    return _one_more(REAL_IMAGE_ARMS, incomplete)


@_offering
def offer_method_list(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the installed methods, and all of them; behind a comma, one more."""
    return _one_more([*plugins.known("methods"), *([] if "," in incomplete else ["all"])], incomplete)


def _one_more(names: Iterable[str], incomplete: str) -> Iterable[str]:
    """Return a list of names, separated by commas, with each one that it lacks."""
    before, comma, _ = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in names if name not in taken]


@_offering
def offer_regularizers(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the installed regularizers."""
    return regularizers()


@_offering
def offer_runs(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer runs by METHOD/RECIPE/RUN, and by the name of their folder alone."""
    root = Path(context.params.get("runs_folder") or home.runs()).absolute()
    runs = [run.path.relative_to(root) for run in list_runs(root)]
    return [*map(str, runs), *(run.name for run in runs if incomplete and run.name.startswith(incomplete))]


@_offering
def offer_targets(context: click.Context, incomplete: str) -> Iterable[str]:
    """Offer the paper's tables and figures."""
    # not by the room's own function: it imports torch
    return ["all", *(path.stem for path in (home.PACKAGE / "paper" / "reproduce" / "tables").glob("*.yaml"))]


def name_methods() -> str:
    """Return the names of the methods, for a help text; empty where they can't be read."""
    try:
        return ", ".join(plugins.known("methods"))
    except DirePlugError:
        return ""
