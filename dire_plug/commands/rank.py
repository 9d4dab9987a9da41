"""`dire-plug rank PATH…`: score condensed sets from any source by DD-Ranking."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from dire_plug import ui
from dire_plug.commands.dry import show_planned
from dire_plug.commands.options import (
    CARD,
    DRY_RUN,
    check_card,
    check_settings,
    describe_set,
    executor_options,
    make_set_request,
    set_options,
    table_files,
)
from dire_plug.commands.tables import mean_and_spread
from dire_plug.sets.robust_scores import RATE, WEIGHT  # light: for the defaults in the help
from dire_plug.tables import Table, with_notes

if TYPE_CHECKING:
    from dire_plug.executors.settings import ExecutorSettings
    from dire_plug.sets.robust_scores import RankedSet
    from dire_plug.store.units import Unit

SCORES = ("LRS", "ARS", "HLR", "IOR", "IOR plain")
CONDITIONS = ("set own", "random own", "set plain", "random plain", "set hard", "random hard", "full hard")
COUNT, PERCENT = click.IntRange(min=1), click.FloatRange(0, 100)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--per-set", type=COUNT, help="Students of each kind; default: the recipe's number.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of students and random images; default: the run's."
)
@click.option(
    "--lr",
    "rates",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    default=(RATE,),
    show_default=True,
    help="Learning rate with hard labels; of several, the best on test, as DD-Ranking does with .001 .005 .01 .05 .1.",
)
@click.option("--weight", type=click.FloatRange(0, 1), default=WEIGHT, show_default=True, help="Weight of IOR.")
@click.option("--full-accuracy", type=PERCENT, help="Accuracy of hard labels on all images; default: train.")
@set_options
@DRY_RUN
@CARD
@executor_options
@table_files
def rank(
    paths: tuple[Path, ...],
    per_set: int | None,
    seed: int | None,
    rates: tuple[float, ...],
    weight: float,
    full_accuracy: float | None,
    dry_run: bool,
    card: str | None,
    execution: ExecutorSettings,
    **options: Any,
) -> None:
    """Score condensed sets by DD-Ranking (LRS and ARS).

    PATH is the folder of a finished run, a tree of class folders, or a file of tensors. Students are trained on the
    set, on as many random real images, and on all of them; finished ones are reused.
    """
    from dire_plug.executors.dispatch import Runner
    from dire_plug.sets.rank import open_for_ranking, rank_set
    from dire_plug.sets.units import plan_set_costs, plan_set_units

    check_settings(options["settings"], {"evaluate.per_synthesis": ("--per-set", per_set)})
    check_card(card, dry_run=dry_run)
    started = time.monotonic()
    requests = [make_set_request(path, seed=seed, **options) for path in paths]
    chosen: dict[str, Any] = {"rates": rates, "full_accuracy": full_accuracy, "per_set": per_set}

    def plan() -> list[Unit]:
        return [unit for one in requests for unit in plan_set_units("rank", one, **chosen)]

    if dry_run:
        device = requests[0].device
        show_planned(lambda: [plan_set_costs("rank", one, **chosen) for one in requests], card=card, device=device)
        return
    for one in requests[1:]:
        # before the first is ranked: a later one that is missing or damaged
        open_for_ranking(one, **chosen)
    Runner(execution).make(plan)
    ranked = [rank_set(request, weight=weight, **chosen) for request in requests]
    ui.result(render(ranked), data=lambda: [one.to_json() for one in ranked])
    ui.show(f"took {time.monotonic() - started:.0f} s")


def render(ranked: Sequence[RankedSet]) -> RenderableType:
    """Return the tables of scores and of the accuracies behind them."""
    scores = Table("set", "student", title="DD-Ranking, × 100")
    scores.add_numbers("seed", "n", *SCORES)
    accuracies = Table("set", "student", title="accuracy of students, last %")
    accuracies.add_numbers(*CONDITIONS)
    lines: list[str] = []
    for one in ranked:
        name = one.condensed["name"]
        for architecture in one.architectures:
            found = one.scores(architecture)
            # ARS may be missing
            cells = [mean_and_spread([100 * value for value in found.get(score, [])]) for score in SCORES]
            scores.add_row(name, architecture, str(one.seed), str(len(found["LRS"])), *cells)
            accuracies.add_row(name, architecture, *(_accuracy(one, architecture, kind) for kind in CONDITIONS))
        lines += [f"{describe_set(one.condensed)} · recipe {one.recipe}", *one.condensed["notes"], *one.notes]
        lines += _about_hard_labels(one)
    return with_notes(scores, accuracies, notes=dict.fromkeys([*lines, *_caveats(ranked)]))


def _about_hard_labels(one: RankedSet) -> list[str]:
    """Return the notes on the training with hard labels."""
    rates = ", ".join(f"{name} {rate}" for name, rate in one.rates.items())
    lines = [f"hard labels: SGD without augmentation; learning rate: {rates}"]
    if one.budget is None:
        return [*lines, f"full hard: {one.full_accuracy:g} %, as it was given"]
    budget = one.budget
    length = (
        f"{budget['epochs']} epochs, {budget['steps']:,} steps; a student of the set takes {budget['subset_steps']:,}"
    )
    return [*lines, f"full hard: all {budget['images']:,} training images in {length}"]


def _caveats(ranked: Sequence[RankedSet]) -> list[str]:
    """Return the caveats of the scores."""
    several = any(len(one.scores(name)["LRS"]) > 1 for one in ranked for name in one.architectures)
    spread = "± is over n students of ONE set and ONE draw of random images"
    if not several:
        spread = "one student of ONE set and ONE draw of random images: no spread; --per-set 5 gives one over students"
    weight, rest = f"{ranked[0].weight:g}", f"{1 - ranked[0].weight:g}"
    return [
        "own: the recipe's protocol; plain: without augmentation; hard: hard labels; random: as many real images",
        f"LRS = squash({weight}·IOR − {rest}·HLR), ARS = squash({weight}·IOR + {rest}·IOR plain), from 0 to 100; "
        "squash(0) = 26.9, which is ARS of a set no better than random images",
        spread,
    ]


def _accuracy(one: RankedSet, architecture: str, condition: str) -> str:
    return mean_and_spread(one.accuracies[condition][architecture]["last"] if condition in one.accuracies else [])
