"""`dire-plug run METHOD`: one arm."""

import time
from typing import Any

import click

from dire_plug import ui
from dire_plug.commands.dry import show_plan
from dire_plug.commands.options import make_request, shared_options
from dire_plug.commands.tables import run_summary
from dire_plug.pipeline import plan_run, run_arm


@click.command()
@click.argument("method")
@click.option("--dire", "arm", flag_value="dire", help="With the diversity regularizer: the same as --arm dire.")
@click.option(
    "--arm",
    "arm",
    default="baseline",
    show_default=True,
    help="baseline, control, dire, or the recipe's own; of real images: random, herding, k-center, k-means, full.",
)
@shared_options
def run(method: str, arm: str, **options: Any) -> None:
    """Synthesize with METHOD, train students on the images, measure their diversity.

    Without --dire: the method as published. The same command finds its finished run again, or goes on with it.
    """
    request = make_request(method, arm=arm, **options)
    if options["dry_run"]:
        show_plan(plan_run(request, dry=True))
        return
    started = time.monotonic()
    finished = run_arm(request)
    ui.show(run_summary(finished))
    ui.show(f"\nrun folder: {finished.folder.path}")
    if finished.reused:
        ui.show("it was finished before; nothing was run again")
    else:
        ui.show(f"took {time.monotonic() - started:.0f} s")
    ui.show(f"next:       dire-plug compare {method}{_recipe(request.recipe)}")
    ui.show(f"            dire-plug show {finished.folder.path.name}")


def _recipe(name: str) -> str:
    return "" if name == "quick" else f" --recipe {name}"
