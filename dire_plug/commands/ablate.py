"""`dire-plug ablate METHOD`: ablate the components of DiRe, and sweep its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from dire_plug import ui
from dire_plug.commands.dry import show_dry
from dire_plug.commands.options import METHOD, MethodCommand, executor_options, make_request, run_options, table_files
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, write_json
from dire_plug.store.runs import runs_root
from dire_plug.tables import Table

if TYPE_CHECKING:
    from dire_plug.executors.settings import ExecutorSettings
    from dire_plug.paper.ablate import Components, Sweep
    from dire_plug.paper.ablate.trials import Setting
    from dire_plug.pipeline import Request

COMPONENTS, SWEEP = "components", "sweep"
DEFAULT_COUNT = "a fifth of each class, at most 5000 in all"
"""The number that `data.default_count` holds out, in words: a dry run doesn't read the data."""


@click.command(cls=MethodCommand)
@METHOD
@click.option("--only", type=click.Choice([COMPONENTS, SWEEP]), help="Run one of the two parts only.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Syntheses of each setting, paired."
)
@click.option(
    "--grid",
    "grid",
    multiple=True,
    metavar="AXIS=VALUE,…",
    help="A grid instead of the default ones; axes: r_c, r_e, multiplier, plan, variant, real.order.",
)
@run_options
@executor_options
@table_files
def ablate(
    method: str,
    only: str | None,
    seeds: int,
    grid: tuple[str, ...],
    execution: ExecutorSettings,
    **options: Any,
) -> None:
    """Ablate the components of DiRe, and try other settings of it.

    components: the seven combinations of CD, CDM and EDM, compared with the control (the paper's Table 14). sweep:
    settings that differ from the recipe's own in one thing, ranked on validation images held out of the training set;
    then the best one is tested once. Finished runs are reused.
    """
    if grid and only == COMPONENTS:
        raise DirePlugError("--grid belongs to the sweep; leave out --only components, or --grid")
    request = make_request(method, **options)
    from dire_plug.executors.dispatch import Runner
    from dire_plug.paper.ablate import ablate_components, components_json, render_components, render_sweep, sweep_json
    from dire_plug.paper.ablate import sweep as run_sweep
    from dire_plug.paper.ablate.sweep import make_grid
    from dire_plug.paper.ablate.trials import require_term

    parts = (COMPONENTS, SWEEP) if only is None else (only,)
    if options["dry_run"]:
        _show_settings(request, parts, seeds=seeds, grid=grid, card=options["card"])
        return
    started, runner = time.monotonic(), Runner(execution)
    planned = require_term(request)
    if SWEEP in parts:
        make_grid(request, grid)  # a faulty grid must fail before anything runs
    content: dict[str, Any] = {}
    shown: list[RenderableType] = []
    drawings: dict[str, Callable[[Path], None]] = {}
    if COMPONENTS in parts:
        components = ablate_components(request, seeds, runner=runner)
        content[COMPONENTS], drawings[COMPONENTS] = components_json(components), partial(_draw_components, components)
        shown.append(render_components(components))
    if SWEEP in parts:
        swept = run_sweep(request, seeds, grid=grid, runner=runner)
        content[SWEEP], drawings[SWEEP] = sweep_json(swept), partial(_draw_sweep, swept)
        shown.append(render_sweep(swept))
    folder = runs_root(request) / method / planned.recipe.name / f"ablate-{digest(content)[:8]}"
    write_json(folder / "ablate.json", content)
    ui.result(*shown, data=lambda: content | {"folder": folder})
    ui.show(f"\nstored in: {folder}/ablate.json")
    for part, draw in drawings.items():
        draw(folder / f"{part}.png")
        ui.show(f"picture:   {folder}/{part}.png")
    ui.show(f"took {time.monotonic() - started:.0f} s")


def _draw_components(components: Components, path: Path) -> None:
    from dire_plug.paper.ablate import draw_trials

    title = f"{components.method}, {components.recipe}, IPC {components.ipc}: components of DiRe"
    draw_trials(components.trials, components.control, path, title=title, accuracy="accuracy %")


def _draw_sweep(swept: Sweep, path: Path) -> None:
    from dire_plug.paper.ablate import draw_trials
    from dire_plug.paper.ablate.sweep import DEFAULT
    from dire_plug.paper.ablate.sweep_table import ranked

    title = f"{swept.method}, {swept.recipe}, IPC {swept.ipc}: settings of DiRe"
    trials = {name: swept.tried[name] for name in ranked(swept)}
    accuracy = f"accuracy on {swept.validation} validation images, %"
    draw_trials(trials, swept.controls[DEFAULT], path, title=title, accuracy=accuracy)


def _show_settings(
    request: Request, parts: tuple[str, ...], *, seeds: int, grid: tuple[str, ...], card: str | None
) -> None:
    """Print the settings that would run, and the recipe's own `dire` arm; without data or upstream's code."""
    from dire_plug.paper.ablate.components import component_settings
    from dire_plug.paper.ablate.sweep import BASELINE, BEST, CONTROL, DEFAULT, make_grid, sweep_requests
    from dire_plug.paper.ablate.trials import Setting, plan_settings, require_term

    own, (grid_settings, left_out) = require_term(request, dry=True), make_grid(request, grid, dry=True)
    plan_settings(request, component_settings(), dry=True)
    more: list[RenderableType] = []
    planned: dict[str, list[Setting]] = {}
    if COMPONENTS in parts:
        planned[COMPONENTS] = component_settings()
        more.append(_settings_table(f"components, on the test set, {seeds} of each", planned[COMPONENTS]))
    if SWEEP in parts:
        count = own.resolved.recipe.dataset.validation
        images = f"{count} validation images" if count else f"validation images, {DEFAULT_COUNT}"
        planned[SWEEP] = [Setting(CONTROL, arm="control"), *grid_settings]
        more.append(_settings_table(f"sweep, on {images}, {seeds} of each", planned[SWEEP]))
        more.append(f"then, on the test set, {seeds} of each with new seeds: {BASELINE}, {CONTROL}, {DEFAULT}, {BEST}")
        more += [f"not tried: {line}" for line in left_out]

    def requests() -> list[Request]:
        numbers = range(request.seed, request.seed + seeds)
        tables = component_settings() if COMPONENTS in parts else []
        found = [setting.of(request, seed=seed) for setting in tables for seed in numbers]
        return found + (sweep_requests(request, seeds, grid=grid) if SWEEP in parts else [])

    data = {part: [vars(setting) for setting in settings] for part, settings in planned.items()}
    show_dry([own], requests, card=card, device=request.device, more=more, more_data=data)


def _settings_table(title: str, settings: Sequence[Setting]) -> Table:
    table = Table("setting", title=title)
    table.add_prose("arm", "changes")
    for setting in settings:
        table.add_row(setting.name, setting.arm, " ".join(setting.changes) or "–")
    return table
