"""`dire-plug new` and `dire-plug patch`: write a small package to fill in, and edit the patch of a method in one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dire_plug import ui
from dire_plug.commands.completion import offer_any_recipes
from dire_plug.files import from_here
from dire_plug.scaffold.kinds import ONE_OF_A_CLASS

if TYPE_CHECKING:
    from dire_plug.types import Adapter


into_option = click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The folder in which it is made; default: the current one.",
)


@click.group()
def new() -> None:
    """Write a package of a regularizer or a method, or a recipe file."""


@new.command()
@click.argument("name")
@into_option
def regularizer(name: str, into: Path) -> None:
    """Write a package with a regularizer and its test."""
    from dire_plug.scaffold.package import new_regularizer

    folder = new_regularizer(name, into=into)
    ui.show(f"made: {folder}")
    ui.show(f"next: {_install(folder)}")
    ui.show(f"      dire-plug run sre2l --regularizer {name}")


@new.command()
@click.argument("name")
@click.option("--repository", metavar="URL", help="Where the method is published, or a clone of it.")
@click.option("--commit", required=True, metavar="SHA", help="All 40 hex digits.")
@click.option("--script", metavar="PATH", help="The synthesis script, below the repository's root.")
@click.option("--passes", type=click.Choice(["many", "one"]), help="Calls of the script: one an IPC, or one for all.")
@click.option("--images", type=click.Choice(["files", "tensor"]), help="An image a file, or all in one file.")
@click.option("--loss", type=click.Choice(["named", "unnamed"]), help="Unnamed: as in (a + b).backward().")
@click.option("--update", is_flag=True, help="Move the package of NAME to this commit instead.")
@click.option("--checkpoint", help="What it loads: bare, model, state_dict or state_dict.module.")
@into_option
@click.option("--offline", is_flag=True, help="Don't use the network: the code must have been cloned before.")
def method(
    name: str,
    repository: str | None,
    commit: str,
    script: str | None,
    into: Path,
    offline: bool,
    update: bool,
    **answers: str | None,
) -> None:
    """Write a package with a method, from its published script.

    The script is read, never run or copied: its flags are, with their types and defaults. What it is, is guessed and
    asked on a terminal, unless an option says it.
    """
    from dataclasses import asdict

    from dire_plug.scaffold.kinds import QUESTIONS, ScriptKind
    from dire_plug.scaffold.package import Published, new_method

    if update:
        given = [key for key, value in {"repository": repository, "script": script, **answers}.items() if value]
        if given:
            raise click.UsageError(f"--update goes with --commit alone, not with --{given[0]}")
        return _update(name, commit, into=into, offline=offline)
    if repository is None or script is None:
        raise click.UsageError(f"Missing option '--{'script' if repository else 'repository'}'.")

    def choose(guessed: ScriptKind) -> ScriptKind:
        found = asdict(guessed)
        for key, (question, choices) in QUESTIONS.items():
            if (answer := answers[key]) is not None:
                found[key] = click.Choice(choices).convert(answer, None, None)
            elif sys.stdin.isatty():
                found[key] = click.prompt(question, type=click.Choice(choices), default=found[key], err=True)
        return ScriptKind(**found)

    made = new_method(name, Published(repository, commit, script), into=into, offline=offline, choose=choose)
    folder, facts = made.folder, made.facts
    ui.show(f"made: {folder}")
    where = "" if facts.parser in (script, None) else f", in {facts.parser}"
    nothing = "none: neither the script nor a module of upstream's that it imports has an argparse parser"
    ui.show(f"      flags read: {', '.join(flag.name for flag in facts.flags) + where or nothing}")
    if made.roles:
        ui.show(f"      told by their names: {', '.join(f'{role} {flag}' for role, flag in made.roles.items())}")
    if facts.others:
        ui.show(f"      arguments left to you: {', '.join(facts.others)}")
    if len(facts.paths) > 1:
        ui.show(f"      upstream's own, beside its folder: {', '.join(facts.paths[1:])}")
    if facts.packages:
        ui.show(f"      packages that it imports: {', '.join(facts.packages)}")
    ui.show(f"      taken for: {made.kind}")
    if made.kind.passes == "one":
        ui.show(f"      {ONE_OF_A_CLASS}")
    ui.show(f"next: {_install(folder)}")
    ui.show(f"      dire-plug verify {name}")


@new.command()
@click.argument("name")
@click.option(
    "--from",
    "origin",
    default="sre2l/quick",
    show_default=True,
    metavar="METHOD/RECIPE",
    shell_complete=offer_any_recipes,
    help="The recipe that is copied.",
)
@into_option
def recipe(name: str, origin: str, into: Path) -> None:
    """Write NAME.yaml, a copy of a recipe to edit.

    `--recipe NAME.yaml` takes it.
    """
    from dire_plug.scaffold.recipe_file import new_recipe

    path, method = new_recipe(name, origin=origin, into=into)
    ui.show(f"made: {path}")
    ui.show(f"next: dire-plug run {method} --recipe {shlex.quote(from_here(path))} --dry-run")


def _update(name: str, commit: str, *, into: Path, offline: bool) -> None:
    from dire_plug.scaffold.update import update_method

    done = update_method(name, commit, into=into, offline=offline)
    ui.show(f"moved to {commit[:12]}: {done.folder}")
    ui.show(f"      calls that moved along: {len(done.moved)}")
    for line in done.lost:
        ui.show(f"      insert again, the code around it changed: {line.text.strip()} (was at {line.place})")
    for what, flags in (("new flags, for flags.py", done.added), ("flags that are gone", done.removed)):
        if flags:
            ui.show(f"      {what}: {', '.join(flags)}")
    ui.show(f"next: dire-plug vendor {name} && dire-plug verify {name}")


def _install(folder: Path) -> str:
    return f"pip install --no-deps -e {shlex.quote(from_here(folder))}"


package_option = click.option(
    "--package",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Of the method's package, where it isn't installed.",
)
offline_option = click.option("--offline", is_flag=True, help="Never touch the network: the code must be here.")


@click.group()
def patch() -> None:
    """Edit the patch of a method of your own.

    PLACE is FILE:LINE, a line of the published file; what is inserted stands after it. The patch keeps numbers and
    hashes, and no line of the published code.
    """


@patch.command()
@click.argument("method")
@click.argument("place")
@click.argument("call")
@click.option(
    "--indent", type=click.IntRange(min=0), metavar="N", help="Spaces before it; default: as the line before."
)
@package_option
@offline_option
def insert(method: str, place: str, call: str, indent: int | None, package: Path | None, offline: bool) -> None:
    """Insert CALL, one call of bridge, after PLACE into the patch."""
    from dire_plug.scaffold.patch_edit import find_owner, insert_line, parse_location
    from dire_plug.scaffold.script import published

    where, adapter = parse_location(place), find_owner(method, package=package)
    done = insert_line(adapter, published(adapter.upstream, offline=offline), where, call, indent=indent)
    ui.show(f"{where}: inserted, as line {done.number} of the patched file:")
    ui.show(f"  {done.text}")
    if done.outer:
        ui.show(f"a block ends there; to stand behind it: --indent {' or '.join(map(str, done.outer))}")
    _show_missing(adapter, method)


@patch.command()
@click.argument("method")
@package_option
def show(method: str, package: Path | None) -> None:
    """List the lines of the patch, with the line before each."""
    from dire_plug.scaffold.patch_edit import find_owner, show_lines

    adapter = find_owner(method, package=package)
    for line in show_lines(adapter):
        ui.show(f"{line.place}  {line.number}  {line.text}")
    _show_missing(adapter, method)


@patch.command()
@click.argument("method")
@click.argument("place")
@click.argument("call", required=False)
@package_option
@offline_option
def remove(method: str, place: str, call: str | None, package: Path | None, offline: bool) -> None:
    """Take what stands after PLACE, or CALL of it, out of the patch."""
    from dire_plug.scaffold.patch_edit import find_owner, parse_location, remove_lines
    from dire_plug.scaffold.script import published

    where, adapter = parse_location(place), find_owner(method, package=package)
    for line in remove_lines(adapter, published(adapter.upstream, offline=offline), where, call):
        ui.show(f"{where}: removed: {line.text.strip()}")
    _show_missing(adapter, method)


def _show_missing(adapter: Adapter, method: str) -> None:
    """Print which calls the patch lacks, of those that an adapter from `new method` asks for."""
    from dire_plug.api.checklist import missing_calls
    from dire_plug.scaffold.patch_edit import NAME

    if missing := missing_calls(adapter.patches() / NAME, getattr(adapter, "calls", ())):
        ui.show(f"not in the patch yet: {', '.join(f'bridge.{name}' for name in missing)}")
    else:
        ui.show(f"next: dire-plug vendor {method}")
