"""`dire-plug clean`, `export` and `import`: remove artefacts, archive them, add those of an archive."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from dire_plug import home, ui
from dire_plug.commands.completion import offer_runs
from dire_plug.commands.options import JSON, RUNS_FOLDER
from dire_plug.errors import DirePlugError, count_of
from dire_plug.files import format_bytes
from dire_plug.recipe.loading import path_setting
from dire_plug.store import archive as archives
from dire_plug.store import cleaning
from dire_plug.store.runs import RunFolder, find_run
from dire_plug.tables import Table


@click.command()
@click.option(
    "--older-than",
    "days",
    metavar="DAYS",
    type=click.FloatRange(min=0),
    default=cleaning.WEEK,
    show_default=True,
    help="Keep younger artefacts even if no run names them.",
)
@click.option(
    "--forget",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="First forget a folder of runs that no longer exists; needs --yes.",
)
@click.option("--yes", is_flag=True, help="Remove them; otherwise only list them.")
@JSON
def clean(days: float, forget: Path | None, yes: bool) -> None:
    """Remove artefacts that no run names any more.

    Unfinished ones that no process works on go, too. Runs keep their own images. A removed artefact is made again when
    a command needs it.
    """
    store, runs = home.store(), [home.runs()]
    if forget is not None:
        if not yes:
            raise DirePlugError(f"--forget {forget}: changes what stays, so it needs --yes")
        cleaning.forget(store, forget.absolute())
    found = (cleaning.clean if yes else cleaning.plan_cleaning)(store, days=days, more=runs)
    ui.result(_removed(found, store, days=days, done=yes), data=lambda: vars(found) | {"removed": yes})


def _removed(found: cleaning.Cleaning, store: Path, *, days: float, done: bool) -> str:
    lines = [f"{name}  {format_bytes(size)}" for name, size in found.entries.items()]
    others = (*found.folders, *found.leases)
    lines += [str(path.relative_to(store) if path.is_relative_to(store) else path) for path in others]
    verb = "removed" if done else "would be removed"
    counts = [
        count_of(len(found.entries), "artefact"),
        count_of(len(found.folders), "unfinished folder"),
        count_of(len(found.leases), "expired lease"),
    ]
    lines.append(f"{verb}: {', '.join(counts)}; {cleaning.in_words(found)}")
    lines.append(f"kept: {found.named} that runs name, {found.young} younger than {days:g} days")
    lines += found.notes
    if not done and (found.entries or found.folders or found.leases):
        lines.append("nothing was removed; --yes removes it")
    return "\n".join(lines)


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="RUN|KIND/DIGEST...", shell_complete=offer_runs)
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, metavar="PATH", help="What is written.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["archive", "folder", "npz", "huggingface"]),
    default="archive",
    show_default=True,
    help="A tar of artefacts; or the images of one RUN: PNG in class folders, arrays, a Hugging Face dataset.",
)
@click.option(
    "--only",
    "kinds",
    multiple=True,
    type=click.Choice(cleaning.KINDS),
    metavar="KIND",
    help=f"Only artefacts of this kind; may be repeated: {', '.join(cleaning.KINDS)}.",
)
@RUNS_FOLDER
@JSON
def export(what: tuple[str, ...], target: Path, form: str, kinds: tuple[str, ...], runs_folder: Path | None) -> None:
    """Write artefacts to an archive, or a condensed set with its card.

    Artefacts are those of a RUN, or by KIND/DIGEST, with all their inputs. RUN is as for `show`; DIGEST may be
    shortened. `measure` and `evaluate` read an exported set.
    """
    store, root = home.store(), (runs_folder or home.runs()).absolute()
    if form != "archive":
        _export_set(what, target, form=form, kinds=kinds, root=root)
        return
    names, runs = set[str](), dict[str, RunFolder]()
    for one in what:
        # a run's path begins with its method, which is no kind
        if one.partition("/")[0] in cleaning.KINDS:
            names.add(_find_entry(store, one))
        else:
            run = find_run(root, one)
            runs["/".join(run.path.parts[-3:])] = run  # METHOD/RECIPE/RUN
    card = archives.write_archive(store, target, names=names, runs=runs, kinds=kinds)
    table = Table("kind")
    table.add_numbers("artefacts", "size")
    for kind in cleaning.KINDS:
        sizes = [
            sum(file.bytes for file in entry.files.values())
            for name, entry in card.entries.items()
            if name.startswith(f"{kind}/")
        ]
        if sizes:
            table.add_row(kind, str(len(sizes)), format_bytes(sum(sizes)))
    ui.result(table, data=lambda: {"archive": target, "artefacts": list(card.entries), "missing": card.missing})
    if card.missing:
        ui.show(f"missing from the store and the archive: {', '.join(card.missing)}")
    for label, of_run in card.runs.items():
        if of_run.state != "finished":
            ui.show(f"the run {label} is {of_run.state}, so the archive has only what it has made")
    ui.show(f"stored in: {target} ({count_of(len(card.entries), 'artefact')}, {format_bytes(target.stat().st_size)})")
    ui.show(f"there:     dire-plug import {shlex.quote(target.name)}")


def _export_set(what: tuple[str, ...], target: Path, *, form: str, kinds: tuple[str, ...], root: Path) -> None:
    from dire_plug.results.report.runs import read_run
    from dire_plug.results.set_export import CARD, FORMS, RECIPE, export_set

    if len(what) != 1 or kinds:
        raise DirePlugError(f"--as {form}: writes the images of one RUN; name one, and leave --only out")
    run = read_run(find_run(root, what[0]))
    count = export_set(run, target, form=next(one for one in FORMS if one == form))
    beside = form == "npz"
    data = {"set": target, "form": form, "images": count}
    ui.result(f"stored in: {target} ({count_of(count, 'image')})", data=lambda: data)
    ui.show(f"card:      {target.with_suffix('.md') if beside else target / CARD}")
    recipe = target.with_suffix(".yaml") if beside else target / RECIPE
    # the exported recipe names no folder of this machine
    folder = run.recipe["dataset"].get("path")
    real = "" if folder is None else f" --set {shlex.quote(path_setting('dataset.path', folder))}"
    ui.show(f"measure:   dire-plug measure {shlex.quote(str(target))} --recipe {shlex.quote(str(recipe))}{real}")


def _find_entry(store: Path, name: str) -> str:
    """Return the name of the entry whose digest begins like this."""
    kind, _, start = name.partition("/")
    if not re.fullmatch(r"[0-9a-f]+", start):
        raise DirePlugError(f"{name}: write it as {kind}/DIGEST, as `dire-plug list artefacts --kind {kind}` shows it")
    found = [one for one in cleaning.read_entries(store) if one.startswith(name)]
    if len(found) != 1:
        which = f": {', '.join(found[:5])}" if found else f"; see `dire-plug list artefacts --kind {kind}`"
        raise DirePlugError(f"{name}: names {len(found)} artefacts in {store}{which}")
    return found[0]


@click.command("import")
@click.argument("archive", type=click.Path(path_type=Path), metavar="FILE.tar")
@click.option("--replace", is_flag=True, help="Overwrite artefacts of the store whose content differs.")
@JSON
def import_(archive: Path, replace: bool) -> None:
    """Add the artefacts of an archive to the store."""
    card, arrivals, outdated = archives.read_archive(home.store(), archive, replace=replace)
    table = Table("artefact")
    table.add_prose("what", "outcome")
    table.add_numbers("size")
    for one in arrivals:
        roles = ", ".join(card.entries[one.name].roles)
        table.add_row(one.name, roles, f"{one.what}: {one.why}" if one.why else one.what, format_bytes(one.bytes))
    ui.result(table, data=lambda: [vars(one) for one in arrivals])
    for label, run in card.runs.items():
        ui.show(f"of the run {label} ({run.state}); its recipe: tar -xOf {archive} {archives.RUNS}/{label}/recipe.yaml")
    if outdated:
        count = count_of(len(outdated), "artefact")
        ui.show(f"{count} here, made from what was replaced, will be made again when a run needs it")
    taken = [one for one in arrivals if one.what in archives.TAKEN]
    counts = {what: sum(one.what == what for one in arrivals) for what in archives.OUTCOMES}
    summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    ui.show(f"{summary}; {format_bytes(sum(one.bytes for one in taken))} added to {home.store()}")
