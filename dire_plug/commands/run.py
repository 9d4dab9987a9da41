"""`dire-plug run METHOD`: one arm."""

import time
from typing import Any

import click

from dire_plug import ui
from dire_plug.commands.dry import show_plan
from dire_plug.commands.options import make_request, shared_options
from dire_plug.commands.tables import run_summary
from dire_plug.errors import DirePlugError
from dire_plug.pipeline import plan_run, run_arm
from dire_plug.recipe.resolve import SUM


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
@click.option(
    "--regularizer",
    "regularizers",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="A term in the place of DiRe in its arm; several are summed. WEIGHT is a number, or auto.",
)
@shared_options
def run(method: str, arm: str, regularizers: tuple[str, ...], **options: Any) -> None:
    """Synthesize with METHOD, train students on the images, measure their diversity.

    Without --dire: the method as published. The same command finds its finished run again, or goes on with it.
    """
    if regularizers:
        arm, weights = _sum(regularizers, arm)
        options["settings"] = (*options["settings"], *weights)
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


def _sum(regularizers: tuple[str, ...], arm: str) -> tuple[str, list[str]]:
    """Return the arm that has these terms, and the settings of the weights that were given with them."""
    if arm not in ("baseline", "dire"):
        raise DirePlugError(f"--regularizer and --arm {arm} exclude each other; the terms make an arm of their own")
    pairs = [one.partition("=") for one in regularizers]
    weights = [f"regularizers.{name}.weight={weight}" for name, given, weight in pairs if given]
    return SUM.join(name for name, _, _ in pairs), weights


def _recipe(name: str) -> str:
    return "" if name == "quick" else f" --recipe {name}"
