"""`dire-plug list` and `dire-plug show`: list plugins, recipes, runs and artefacts; show a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Group, RenderableType

from dire_plug import home, plugins, ui
from dire_plug.commands.options import table_files
from dire_plug.errors import DirePlugError
from dire_plug.files import format_bytes, read_json
from dire_plug.recipe import REAL_IMAGE_ARMS, read_yaml, recipe_names
from dire_plug.store.cleaning import KINDS, read_entries, runs_naming, weigh
from dire_plug.store.provenance import Code
from dire_plug.store.runs import find_run, list_runs
from dire_plug.tables import Table

out_option = click.option("--out", type=click.Path(path_type=Path), help="Folder of run directories; default: runs/.")


@click.command("list")
@click.argument("what", type=click.Choice(["methods", "recipes", "plugins", "runs", "artefacts"]))
@click.option("--kind", metavar="KIND", type=click.Choice(KINDS), help="Only artefacts of this kind.")
@out_option
@table_files
def list_(what: str, kind: str | None, out: Path | None) -> None:
    """List methods, recipes, plugins, runs, or the artefacts in the store."""
    if kind is not None and what != "artefacts":
        raise DirePlugError(f"--kind {kind}: only artefacts are of a kind; write `dire-plug list artefacts`")
    if what == "runs":
        ui.show(_runs(out))
    elif what == "artefacts":
        ui.show(_artefacts(kind))
    else:
        ui.show({"methods": _methods, "recipes": _recipes, "plugins": _plugins}[what]())


def _methods() -> Table:
    table = Table("method")
    table.add_prose("title", "upstream", "commit", "licence", "scripts")
    for name in plugins.known("methods"):
        with _one_row(table, name):
            adapter = plugins.load_adapter(name)
            upstream = adapter.upstream
            repository = upstream.repository.removeprefix("https://github.com/")  # the table is wide enough
            scripts = ", ".join(adapter.scripts)
            table.add_row(name, adapter.title, repository, upstream.commit[:12], upstream.licence, scripts)
    return table


def _recipes() -> Table:
    table = Table("method", "recipe")
    table.add_prose("title", "arms", "presets")
    for method in plugins.known("methods"):
        with _one_row(table, method, ""):
            folder = plugins.load_adapter(method).recipes()
            for name in recipe_names(folder):
                with _one_row(table, method, name):
                    raw = read_yaml(folder / f"{name}.yaml")
                    arms = ["baseline", "control", *raw.get("arms", {}), *REAL_IMAGE_ARMS]
                    cells = str(raw.get("title", "")), ", ".join(arms), ", ".join(raw.get("presets", {}))
                    table.add_row(method, name, *cells)
    return table


@contextlib.contextmanager
def _one_row(table: Table, *cells: str) -> Iterator[None]:
    """Add the row `cells` with the error where the block, which adds a row, fails, so that the others are shown.

    A third-party package may raise anything.
    """
    try:
        yield
    except DirePlugError as error:
        table.add_row(*cells, f"problem: {error}")
    except Exception as error:
        table.add_row(*cells, f"problem: {error!r}")


def _plugins() -> Table:
    table = Table("kind", "name")
    table.add_prose("package", "entry point")
    for kind in get_args(plugins.Kind):
        for name, point in plugins.known(kind).items():
            # not every entry point knows its package
            table.add_row(kind[:-1], name, point.dist.name if point.dist else "?", point.value)
    return table


def _runs(out: Path | None) -> Table:
    root = (out or home.runs()).absolute()
    table = Table("run")
    table.add_prose("state", "stage", "updated")
    for run in list_runs(root):
        name = str(run.path.relative_to(root))
        with _one_row(table, name):
            status = run.status()
            table.add_row(name, run.state(), str(status.get("stage", "?")), str(status.get("updated", "?")))
    return table


def _provenance(content: dict[str, Any]) -> Table:
    table = Table("provenance")
    table.add_prose("")
    for key in ("engine", "commit", "patch", "dataset", "seed"):
        table.add_row(key, str(content[key]))
    for session in content["sessions"]:
        table.add_row("command", " ".join(session["command"]))
        table.add_row("code", str(Code(**session["code"])))
        for group in ("versions", "hardware"):
            table.add_row(group, ", ".join(f"{name} {value}" for name, value in session[group].items()))
    return table


@contextlib.contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    """Turn an error of a file's wrong shape into one that names the file, which may be damaged or not of a run."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DirePlugError(f"{path}: isn't a file of this version's runs ({what}); run its command again") from error


def _artefacts(kind: str | None) -> RenderableType:
    store = home.store()
    found = [one for one in read_entries(store).values() if kind in (None, one.kind)]
    if not found:
        which = "no artefact" if kind is None else f"no artefact of kind {kind}"
        return f"{store}: holds {which} yet; runs leave them there: dire-plug run sre2l --dire"
    table = Table("kind", "digest")
    table.add_numbers("size", "runs")
    table.add_prose("made", "torch", "threads", "device")
    counts = runs_naming(store, [home.runs()])
    for one in found:
        versions, hardware = one.made.get("versions", {}), one.made.get("hardware", {})
        machine = versions.get("torch", "?"), hardware.get("threads", "?"), hardware.get("device", "?")
        cells = one.kind, one.path.name, format_bytes(one.bytes), counts.get(one.name, 0), one.made.get("when", "?")
        table.add_row(*map(str, (*cells, *machine)))
    freed, linked = weigh(one.path for one in found)
    count = f"{len(found)} artefact{'' if len(found) == 1 else 's'}"
    return Group(table, f"{count}, {format_bytes(freed + linked)} in {store}")


@click.command()
@click.argument("run")
@out_option
def show(run: str, out: Path | None) -> None:
    """Show one RUN: its folder name, an unambiguous part of it, or a path."""
    from dire_plug.commands.tables import run_summary
    from dire_plug.pipeline import FinishedRun

    found = find_run((out or home.runs()).absolute(), run)
    state = found.state()
    ui.show(f"{found.path}: {state}")
    if state == "finished":
        with _naming_file(found.path / "metrics.json"):
            ui.show(run_summary(FinishedRun(found, found.metrics(), reused=True)))
    elif error := found.status().get("error"):
        ui.show(f"it ended with: {error}")
    provenance = found.path / "provenance.json"
    if not provenance.is_file():
        raise DirePlugError(f"{provenance}: missing, so the run never started; run its command again")
    content = read_json(provenance)
    with _naming_file(provenance):
        ui.show(_provenance(content))
    for name in ("recipe.yaml", "plan.json", "metrics.json", "images", "images.safetensors", "log.txt"):
        if (found.path / name).exists():
            ui.show(f"  {found.path / name}")
