"""`dire-plug new regularizer` and `dire-plug new method`: write a small package to fill in."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from dire_plug import ui

into_option = click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The folder in which the package's folder is made; default: the current one.",
)


@click.group()
def new() -> None:
    """Write a small installable package: a regularizer, or a method."""


@new.command()
@click.argument("name")
@into_option
def regularizer(name: str, into: Path) -> None:
    """Write a package with the regularizer NAME: settings, a term that works, a test."""
    from dire_plug.scaffold.package import new_regularizer

    folder = new_regularizer(name, into=into)
    ui.show(f"made: {folder}")
    ui.show(f"next: {_install(folder)}")
    ui.show(f"      dire-plug run sre2l --regularizer {name}")


@new.command()
@click.argument("name")
@click.option("--repository", required=True, metavar="URL", help="Where the method is published, or a clone of it.")
@click.option("--commit", required=True, metavar="SHA", help="All 40 hex digits.")
@click.option("--script", required=True, metavar="PATH", help="The synthesis script, below the repository's root.")
@into_option
@click.option("--offline", is_flag=True, help="Don't use the network: the code must have been cloned before.")
def method(name: str, into: Path, offline: bool, **origin: str) -> None:
    """Write a package with the method NAME: adapter, typed flags, a patch to fill in, recipe, test.

    The script is read, never run or copied: its flags are, with their types and defaults.
    """
    from dire_plug.scaffold.package import Published, new_method

    folder, facts = new_method(name, Published(**origin), into=into, offline=offline)
    ui.show(f"made: {folder}")
    ui.show(f"      flags read: {', '.join(flag.name for flag in facts.flags) or 'none'}")
    if facts.others:
        ui.show(f"      arguments left to you: {', '.join(facts.others)}")
    ui.show(f"next: {_install(folder)}")
    ui.show(f"      dire-plug verify {name}")


def _install(folder: Path) -> str:
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"pip install --no-deps -e {shlex.quote(str(here))}"
