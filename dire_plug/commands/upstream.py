"""`dire-plug vendor` and `dire-plug verify`: get and check a method's own code."""

from __future__ import annotations

import shutil
import sys

import click

from dire_plug import home, plugins, ui
from dire_plug.commands.options import VERBOSE
from dire_plug.store.lease import hold
from dire_plug.tables import Table

UNDECIDABLE = 3


@click.command()
@click.argument("methods", nargs=-1)
@click.option("--offline", is_flag=True, help="Only check vendored code.")
def vendor(methods: tuple[str, ...], offline: bool) -> None:
    """Clone the code of METHODS (default: all) at the pinned commit, and patch it."""
    from dire_plug.upstream.source.vendor import vendor as vendor_one

    for name in methods or plugins.known("methods"):
        ui.show(f"{name}: {vendor_one(plugins.load_adapter(name), offline=offline)}")


@click.command()
@click.argument("method")
@click.option("--script", "scripts", multiple=True, help="Only this script of the method.")
@VERBOSE
def verify(method: str, scripts: tuple[str, ...], verbose: bool) -> None:
    """Check that METHOD's patch changes no bit by itself, and that a term acts through it as it must.

    Each script runs unpatched and patched, with a test term and with answered hooks, for a few steps, with seeded
    untrained teachers and no real images. Exit 0: all checks pass; 1: one fails; 3: undecidable here (two unpatched
    runs differ).
    """
    from dire_plug.upstream.verify.verify import verify as verify_method

    if verbose:
        ui.configure(verbose=True)
    adapter = plugins.load_adapter(method)
    folder = home.store() / "work" / f"verify-{method}"
    # two verifications of a method would share the folder
    with hold(folder.with_name(f".{method}.lease"), what=f"the folder of verify, {folder},"):
        shutil.rmtree(folder, ignore_errors=True)
        verdicts = verify_method(adapter, scripts=scripts or None, workdir=folder)
        shutil.rmtree(folder)  # where a script failed, its log is still there
    table = Table("script", title=f"{adapter.title}: seeded untrained teachers, no real images, a few steps")
    table.add_prose("patch")
    table.add_numbers("gradient, relative error", "calls")
    table.add_prose("answered")
    table.add_numbers("steps", "files")
    table.add_prose("trace, last step")
    for one in verdicts:
        table.add_row(*map(str, one.row()))
    ui.show(table)
    for one in verdicts:
        for check, problems in one.problems.items():
            ui.show("\n".join(f"{one.script}: {check}: {problem}" for problem in problems))
    if any(one.undecidable for one in verdicts):
        sys.exit(UNDECIDABLE)
    sys.exit(0 if all(one.holds for one in verdicts) else 1)
