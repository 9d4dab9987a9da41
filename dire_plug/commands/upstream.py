"""`dire-plug vendor` and `dire-plug verify`: get and check a method's own code."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from dire_plug import home, plugins, ui
from dire_plug.commands.completion import offer_methods
from dire_plug.commands.options import JSON, METHOD, VERBOSE, MethodCommand
from dire_plug.errors import DirePlugError
from dire_plug.store.lease import hold
from dire_plug.tables import Table

UNDECIDABLE = 3


@click.command()
@click.argument("methods", nargs=-1, shell_complete=offer_methods)
@click.option("--check", is_flag=True, help="Only check what is vendored; fetch nothing.")
@click.option("--offline", is_flag=True, help="Don't use the network: clone from local paths and mirrors only.")
@JSON
@VERBOSE
def vendor(methods: tuple[str, ...], check: bool, offline: bool) -> None:
    """Clone methods' code at the pinned commit, and patch it.

    Without METHODS: of all; then `--check` tells what isn't vendored, which is no error.
    """
    from dire_plug.upstream.source.vendor import find_vendored, require_vendored
    from dire_plug.upstream.source.vendor import vendor as vendor_one

    data, problems = list[dict[str, Any]](), list[str]()
    for name in methods or plugins.known("methods"):
        adapter = plugins.load_adapter(name)
        try:
            if check:
                folder = require_vendored(adapter) if methods else find_vendored(adapter)
            else:
                folder = vendor_one(adapter, offline=offline)
        except DirePlugError as error:
            if not check:
                raise
            problems.append(str(error))
            continue
        data.append({"method": adapter.name, "folder": folder})
        ui.show(f"{adapter.name}: {folder or f'not vendored; get it with: dire-plug vendor {adapter.name}'}")
    ui.result(data=lambda: data)
    if problems:
        raise DirePlugError("\n".join(problems))


@click.command(cls=MethodCommand)
@METHOD
@click.option("--script", "scripts", multiple=True, help="Only this script of the method.")
@JSON
@VERBOSE
def verify(method: str, scripts: tuple[str, ...]) -> None:
    """Check that a method's patch is inert, and that terms act by it.

    By itself the patch must change no bit; a term must act through it as its formula says. Each script runs
    unpatched and patched, with a test term and with answered hooks, for a few steps, with seeded untrained teachers and
    no real images. Exit 0: all checks pass; 1: one fails; 3: undecidable here (two unpatched
    runs differ).
    """
    from dire_plug.upstream.verify.verify import verify as verify_method

    adapter = plugins.load_adapter(method)
    folder = home.store() / "work" / f"verify-{method}"
    # two verifications of a method would share the folder
    with hold(folder.with_name(f".{method}.lease"), what=f"the folder of verify, {folder},"):
        shutil.rmtree(folder, ignore_errors=True)
        verdicts = verify_method(adapter, scripts=scripts or None, workdir=folder)
        held = all(one.holds for one in verdicts)
        if held:  # else its logs, traces and gradients tell more
            shutil.rmtree(folder)
    table = Table("script", title=f"{adapter.title}: seeded untrained teachers, no real images, a few steps")
    table.add_prose("patch")
    table.add_numbers("gradient, relative error", "calls")
    table.add_prose("answered")
    table.add_numbers("steps", "files")
    table.add_prose("trace, last step")
    for one in verdicts:
        table.add_row(*map(str, one.row()))
    found = [
        f"{one.script}: {check}: {problem}"
        for one in verdicts
        for check, problems in one.problems.items()
        for problem in problems
    ]
    found += [] if held else [f"all that the runs left, to look into: {folder}"]
    found += [f"{one.script}: not shown here: {text}" for one in verdicts for text in one.unseen]
    ui.result(table, *found, data=lambda: [one.to_json() for one in verdicts])
    if any(one.undecidable for one in verdicts):
        sys.exit(UNDECIDABLE)
    sys.exit(0 if held else 1)
