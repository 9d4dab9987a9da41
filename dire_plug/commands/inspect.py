"""`dire-plug list` and `dire-plug show`: list plugins, recipes, runs and artefacts; show a run."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Group, RenderableType

from dire_plug import home, plugins, ui
from dire_plug.commands.completion import offer_arms, offer_methods, offer_recipes, offer_runs
from dire_plug.commands.options import JSON, RUNS_FOLDER, table_files
from dire_plug.commands.tables import run_json, run_summary
from dire_plug.errors import DirePlugError, count_of
from dire_plug.files import format_bytes, from_here, read_json
from dire_plug.measures import ACCURACY, read_values
from dire_plug.recipe import PROBE, REAL_IMAGE_ARMS, arm_names, preset_names, read_yaml, recipe_names
from dire_plug.store.cleaning import KINDS, Entry, list_entries, read_entries, runs_naming, weigh
from dire_plug.store.provenance import Code
from dire_plug.store.runs import ARTEFACTS, FinishedRun, RunFolder, find_run, list_runs
from dire_plug.tables import Table, with_notes

WHAT = ("methods", "recipes", "plugins", "runs", "artefacts")
FILTERS = {
    "method": ("recipes", "runs"),
    "recipe": ("runs",),
    "arm": ("runs",),
    "state": ("runs",),
    "kind": ("artefacts",),
}
"""Filter → the lists that it is for."""
STATES = ("new", "running", "interrupted", "failed", "finished")
STANDARD = ("baseline", "control", "dire", *REAL_IMAGE_ARMS)
"""The arms of nearly every recipe."""
Listing = tuple[RenderableType, list[dict[str, Any]]]
"""A list as shown, and as data."""


@click.command("list")
@click.argument("what", type=click.Choice(WHAT))
@click.option("--method", shell_complete=offer_methods, help="Only recipes or runs of this method.")
@click.option("--recipe", shell_complete=offer_recipes, help="Only runs of this recipe.")
@click.option("--arm", shell_complete=offer_arms, help="Only runs of this arm.")
@click.option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@click.option("--kind", metavar="KIND", type=click.Choice(KINDS), help="Each artefact of this kind.")
@click.option("--all", "each", is_flag=True, help="Each artefact, not totals by kind.")
@RUNS_FOLDER
@JSON
@table_files
def list_(what: str, each: bool, runs_folder: Path | None, **filters: str | None) -> None:
    """List methods, recipes, plugins, runs, or artefacts of the store."""
    given = {name: value for name, value in filters.items() if value is not None}
    if "method" in given:
        given["method"] = plugins.find_method(given["method"])
    for name, value in given.items():
        if what not in FILTERS[name]:
            lists = " and ".join(FILTERS[name])
            lines = " or ".join(f"`dire-plug list {one}`" for one in FILTERS[name])
            raise DirePlugError(f"--{name} {value}: only {lists} are filtered by it; write {lines}")
    if each and what != "artefacts":
        raise DirePlugError(
            "--all: only artefacts are shown by totals; leave it out, or write `dire-plug list artefacts`"
        )
    if what == "runs":
        shown, data = _runs((runs_folder or home.runs()).absolute(), given)
    elif what == "artefacts":
        shown, data = _artefacts(given.get("kind"), each=each or "kind" in given)
    elif what == "recipes":
        shown, data = _recipes(given.get("method"))
    else:
        shown, data = {"methods": _methods, "plugins": _plugins}[what]()
    ui.result(shown, data=lambda: data)


def _methods() -> Listing:
    table, data = Table("method"), list[dict[str, Any]]()
    table.add_prose("title", "upstream", "commit", "licence", "scripts")
    for name in plugins.known("methods"):
        with _one_row(table, data, {"method": name}):
            adapter = plugins.load_adapter(name)
            upstream = adapter.upstream
            repository = upstream.repository.removeprefix("https://github.com/")  # the table is wide enough
            scripts = ", ".join(adapter.scripts)
            table.add_row(name, adapter.title, repository, upstream.commit[:12], upstream.licence, scripts)
            data.append(
                {
                    "method": name,
                    "title": adapter.title,
                    "repository": upstream.repository,
                    "commit": upstream.commit,
                    "licence": upstream.licence,
                    "scripts": list(adapter.scripts),
                }
            )
    return table, data


def _recipes(method: str | None) -> Listing:
    table, data = Table("recipe"), list[dict[str, Any]]()
    table.add_prose("dataset")
    table.add_numbers("IPC")
    table.add_prose("file")
    for name in plugins.known("methods") if method is None else [method]:
        with _one_row(table, data, {"recipe": name}):
            folder = plugins.load_adapter(name).recipes()
            for recipe in recipe_names(folder):
                with _one_row(table, data, {"recipe": f"{name}/{recipe}"}):
                    path = folder / f"{recipe}.yaml"
                    raw = read_yaml(path)
                    dataset, ipc, presets = raw["dataset"]["name"], raw["ipc"], preset_names(raw)
                    table.add_row(f"{name}/{recipe}", dataset, str(ipc), from_here(path))
                    data.append(
                        {
                            "recipe": f"{name}/{recipe}",
                            "title": raw.get("title"),
                            "dataset": dataset,
                            "ipc": ipc,
                            "arms": arm_names(raw),
                            "presets": presets,
                            "file": path,
                        }
                    )
    notes = ["arms and presets: dire-plug list recipes --method METHOD"]
    if method is not None:
        notes = [f"presets of {one['recipe']}: {', '.join(one['presets'])}" for one in data if one.get("presets")]
        arms = {one["recipe"]: [arm for arm in one.get("arms", ()) if arm not in STANDARD] for one in data}
        notes += [f"arms of {recipe} beside the usual ones: {', '.join(own)}" for recipe, own in arms.items() if own]
        notes.append(f"the usual arms: {', '.join(STANDARD)}, and the name of any regularizer")
    notes.append("a copy to edit: dire-plug new recipe NAME --from METHOD/RECIPE")
    return with_notes(table, notes=notes), data


@contextlib.contextmanager
def _one_row(table: Table, data: list[dict[str, Any]], labels: dict[str, str]) -> Iterator[None]:
    """Add a row of `labels` with the error where the block, which adds a row, fails, so that the others are shown.

    A third-party package may raise anything.
    """
    try:
        yield
    except Exception as error:
        problem = str(error) if isinstance(error, DirePlugError) else repr(error)
        table.add_row(*labels.values(), f"problem: {problem}")
        data.append({**labels, "problem": problem})


def _plugins() -> Listing:
    table, data = Table("kind", "name"), list[dict[str, Any]]()
    table.add_prose("package", "entry point")
    for kind in get_args(plugins.Kind):
        for name, point in plugins.known(kind).items():
            if name == PROBE:
                continue
            # not every entry point knows its package
            package = point.dist.name if point.dist else "?"
            table.add_row(kind[:-1], name, package, point.value)
            data.append({"kind": kind[:-1], "name": name, "package": package, "entry_point": point.value})
    return table, data


def _runs(root: Path, filters: dict[str, str]) -> Listing:
    table, data = Table("run"), list[dict[str, Any]]()
    table.add_prose("state")
    table.add_numbers("IPC")
    table.add_prose("engine")
    table.add_numbers("last %", "size")
    found = list_runs(root)
    for run in found:
        method, recipe, folder = run.path.relative_to(root).parts
        one = {"method": method, "recipe": recipe, "arm": folder.rsplit("-", 2)[0]}
        if any(filters.get(key, value) != value for key, value in one.items()):
            continue
        name = f"{method}/{recipe}/{folder}"
        with _one_row(table, data, {"run": name}):
            status, state = run.status(), run.state()
            if filters.get("state", state) != state:
                continue
            metrics = run.metrics() if state == "finished" else None
            accuracy = None if metrics is None else ACCURACY[0].read(metrics)
            size = run.size()
            stage, updated = str(status.get("stage", "?")), str(status.get("updated", "?"))
            table.add_row(
                name,
                state if state == "finished" else f"{state} ({stage})",
                "–" if metrics is None else str(metrics["ipc"]),
                "–" if metrics is None else metrics["engine"],
                "–" if accuracy is None else f"{accuracy:.{ACCURACY[0].digits}f}",
                format_bytes(size),
            )
            data.append(
                {"run": name, **one, "state": state, "stage": stage, "bytes": size, "updated": updated}
                | {key: (metrics or {}).get(key) for key in ("seed", "ipc", "engine")}
                | {"measures": {} if metrics is None else read_values(metrics), "folder": run.path}
            )
    if data:
        return table, data
    if found:
        return f"{root}: none of its {len(found)} runs is {' and '.join(filters.values())}", data
    return f"{root}: holds no run yet; make one: dire-plug run sre2l --dire", data


def _provenance(content: dict[str, Any]) -> Table:
    table = Table("provenance")
    table.add_prose("")
    for key in ("engine", "commit", "patch", "dataset", "seed"):
        table.add_row(key, str(content[key]))
    for session in content["sessions"]:
        table.add_row("command", shlex.join(session["command"]))
        table.add_row("code", str(Code(**session["code"])))
        for group in ("versions", "hardware"):
            # on the CPU there is no card
            found = [f"{name} {value}" for name, value in session[group].items() if value is not None]
            table.add_row(group, ", ".join(found))
    return table


@contextlib.contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    """Turn an error of a file's wrong shape into one that names the file, which may be damaged or not of a run."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DirePlugError(f"{path}: isn't a file of this version's runs ({what}); run its command again") from error


def _artefacts(kind: str | None, *, each: bool) -> Listing:
    store, kinds = home.store(), KINDS if kind is None else (kind,)
    if not (folders := list_entries(store, kinds)):
        which = "no artefact" if kind is None else f"no artefact of kind {kind}"
        return f"{store}: holds {which} yet; runs leave them there: dire-plug run sre2l --dire", []
    runs = runs_naming(store, [home.runs()])
    table, data = _each(read_entries(store, kinds).values(), runs) if each else _totals(folders, runs)
    more = "" if each else "; each by itself: --kind KIND, or --all"
    return Group(
        table, f"{count_of(len(folders), 'artefact')}, {format_bytes(sum(weigh(folders)))} in {store}{more}"
    ), data


def _totals(folders: Sequence[Path], runs: Mapping[str, int]) -> Listing:
    """Return a row for each kind; no entry is read, since there may be many."""
    table, data = Table("kind"), list[dict[str, Any]]()
    table.add_numbers("artefacts", "in no run", "size")
    for kind, of_kind in itertools.groupby(folders, key=lambda path: path.parent.name):
        mine = list(of_kind)
        one = {"kind": kind, "artefacts": len(mine), "bytes": sum(weigh(mine))}
        one["in_no_run"] = sum(f"{kind}/{path.name}" not in runs for path in mine)
        table.add_row(kind, f"{one['artefacts']:,}", f"{one['in_no_run']:,}", format_bytes(one["bytes"]))
        data.append(one)
    return table, data


def _each(entries: Iterable[Entry], runs: Mapping[str, int]) -> Listing:
    """Return a row for each artefact."""
    table, data = Table("kind", "digest"), list[dict[str, Any]]()
    table.add_numbers("size", "runs")
    table.add_prose("made", "torch", "threads", "device")
    for one in entries:
        versions, hardware, size = one.made.get("versions", {}), one.made.get("hardware", {}), one.bytes
        machine = versions.get("torch", "?"), hardware.get("threads", "?"), hardware.get("device", "?")
        cells = one.kind, one.path.name, format_bytes(size), runs.get(one.name, 0), one.made.get("when", "?")
        table.add_row(*map(str, (*cells, *machine)))
        data.append(
            {"kind": one.kind, "digest": one.path.name, "bytes": size, "runs": runs.get(one.name, 0), **one.made}
        )
    return table, data


@click.command()
@click.argument("run", shell_complete=offer_runs)
@RUNS_FOLDER
@JSON
def show(run: str, runs_folder: Path | None) -> None:
    """Show one run: its tables, its state, what made it.

    RUN is its folder name, an unambiguous part of it, or a path.
    """
    found = find_run((runs_folder or home.runs()).absolute(), run)
    state, error = found.state(), found.status().get("error")
    data: dict[str, Any] = {"folder": found.path, "state": state, "error": error}
    parts: list[RenderableType] = [f"{found.path}: {state}"]
    if state == "finished":
        with _naming_file(found.path / "metrics.json"):
            finished = FinishedRun(found, found.metrics(), reused=True)
            parts.append(run_summary(finished))
            data |= run_json(finished)
    else:
        if error:
            parts.append(f"it ended with: {error}")
        if stage := found.status().get("stage"):
            parts.append(f"stage: {stage}")
        if not error and state != "running":
            parts.append("run its command again to resume it")
    provenance = found.path / "provenance.json"
    if not provenance.is_file():
        ui.result(*parts, data=lambda: data)
        raise DirePlugError(f"{provenance}: missing, so the run never started; run its command again")
    data["provenance"] = read_json(provenance)
    with _naming_file(provenance):
        parts.append(_provenance(data["provenance"]))
    files = ("recipe.yaml", "plan.json", "metrics.json", "images", "images.safetensors", "log.txt")
    data["files"] = [found.path / name for name in files if (found.path / name).exists()]
    data["missing"] = _missing(found) if state == "finished" else []
    ui.result(*parts, *(f"  {path}" for path in data["files"]), data=lambda: data)
    if data["missing"]:
        lacks = ", ".join(data["missing"])
        raise DirePlugError(f"{found.path}: finished, but lacks {lacks}; run its command again, which puts it back")


def _missing(found: RunFolder) -> list[str]:
    """Return the names of what a finished run's folder lacks; of its images what the store can tell."""
    names = {"recipe.yaml": None, "plan.json": None, ARTEFACTS: None}
    if (artefacts := found.path / ARTEFACTS).is_file():
        with _naming_file(artefacts):
            entries = [Path(name) for name in dict(read_json(artefacts))]
        for entry in entries:
            top = (home.store() / entry).glob("*")
            if entry.parent.name in ("images", "subset"):
                names |= {path.name: None for path in sorted(top) if path.name != "entry.json"}
            elif entry.parent.name == "pass":
                # its tensors are gathered in another entry
                names |= {path.name: None for path in top if path.is_dir()}
    return [name for name in names if not (found.path / name).exists()]
