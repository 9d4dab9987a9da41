"""`dire-plug evaluate PATH`: train students on a condensed set from any source."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from dire_plug import ui
from dire_plug.commands.dry import show_planned
from dire_plug.commands.options import (
    CARD,
    DRY_RUN,
    KEEP_LABELS,
    OUT,
    WAIT,
    check_card,
    check_settings,
    describe_set,
    executor_options,
    make_set_request,
    rerun_option,
    set_options,
    table_files,
)
from dire_plug.commands.tables import known_kinds, mean_and_spread
from dire_plug.tables import Table, with_notes

if TYPE_CHECKING:
    from dire_plug.executors.settings import ExecutorSettings
    from dire_plug.sets.evaluate import EvaluatedSet

ONE = "students of ONE set: another synthesis may differ; --per-set 5 gives a spread over students"
SPREAD = "± is over the students of ONE set, not over syntheses"


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--student",
    "students",
    multiple=True,
    metavar="NAME",
    help="An architecture, by our name or torchvision's; may be repeated; default: the recipe's.",
)
@click.option("--per-set", type=click.IntRange(min=1), help="Students of each architecture; default: the recipe's.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each student; default: the recipe's.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of the students; default: the run's, or 0.")
@OUT
@rerun_option("data", "squeeze", "evaluate")
@KEEP_LABELS
@WAIT
@set_options
@DRY_RUN
@CARD
@executor_options
@table_files
def evaluate(
    path: Path,
    students: tuple[str, ...],
    per_set: int | None,
    epochs: int | None,
    dry_run: bool,
    card: str | None,
    execution: ExecutorSettings,
    **options: Any,
) -> None:
    """Train students on a condensed set, and test them on real images.

    The protocol is a recipe's. PATH is a tree of class folders, a file of tensors (.safetensors, .pt, .npz), or the
    folder of a finished run. The same command reuses finished students, and resumes the others.
    """
    from dire_plug.executors.dispatch import Runner
    from dire_plug.sets.evaluate import evaluate_set
    from dire_plug.sets.units import plan_set_costs, plan_set_units

    given = {"students": ("--student", list(students) or None), "per_synthesis": ("--per-set", per_set)}
    given |= {"epochs": ("--epochs", epochs)}
    check_settings(options["settings"], {f"evaluate.{key}": value for key, value in given.items()})
    check_card(card, dry_run=dry_run)
    started = time.monotonic()
    request = make_set_request(path, **options)
    chosen: dict[str, Any] = {"students": students, "per_set": per_set, "epochs": epochs}
    if dry_run:
        show_planned(lambda: [plan_set_costs("evaluate", request, **chosen)], card=card, device=request.device)
        return
    Runner(execution).make(lambda: plan_set_units("evaluate", request, **chosen))
    found = evaluate_set(request, **chosen)
    ui.result(render(found), data=found.to_json)
    ui.show(f"\nset folder: {found.folder}")
    if found.reused:
        ui.show("all students were finished before; nothing was run")
    else:
        ui.show(f"took {time.monotonic() - started:.0f} s")


def render(found: EvaluatedSet) -> RenderableType:
    title = f"{describe_set(found.condensed)} · protocol {found.accuracy['protocol']} of recipe {found.recipe}"
    table = Table("student", title="accuracy")
    kinds = known_kinds(found.accuracy["students"])
    table.add_numbers("students", *kinds.values())
    for name, student in found.accuracy["students"].items():
        table.add_row(name, str(len(student["last"])), *(mean_and_spread(student[kind]) for kind in kinds))
    several = any(len(student["last"]) > 1 for student in found.accuracy["students"].values())
    lines = [*found.condensed["notes"], *found.notes, SPREAD if several else ONE]
    return with_notes(table, title=title, notes=lines)
