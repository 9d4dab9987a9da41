"""`dire-plug measure PATH`: measure the diversity of a condensed set from any source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from dire_plug import ui
from dire_plug.commands.options import check_settings, describe_set, make_set_request, set_options
from dire_plug.files import write_json
from dire_plug.tables import Table, with_notes

if TYPE_CHECKING:
    from dire_plug.sets.measure import MeasuredSet

COLUMNS: tuple[tuple[str, str, float, int], ...] = (
    ("coverage", "coverage %", 100, 1),
    ("class_coverage", "per class %", 100, 1),
    ("density", "density", 1, 3),
    ("precision", "precision %", 100, 1),
    ("recall", "recall %", 100, 1),
    ("vendi", "Vendi", 1, 2),
    ("class_vendi", "per class", 1, 2),
    ("similarity", "similarity", 1, 3),
)
"""Metric, title, factor of the unit, digits."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    metavar="NAME",
    help="teacher, independent (both by default), clip or torchvision:MODEL; may be repeated.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="A file of weights for clip or torchvision:MODEL.")
@click.option("--nearest-k", type=click.IntRange(min=1), help="k of the neighbourhoods; default: the recipe's.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="A file for all values.")
@set_options
def measure(
    path: Path,
    embeddings: tuple[str, ...],
    weights: Path | None,
    nearest_k: int | None,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Measure the diversity of the condensed set at PATH.

    PATH is a tree of class folders, a file of tensors (.safetensors, .pt, .npz), or the folder of a finished run.
    """
    from dire_plug.sets.measure import OWN, measure_set

    check_settings(options["settings"], {"measure.nearest_k": ("--nearest-k", nearest_k)})
    request = make_set_request(path, **options)
    # () if none is named
    found = measure_set(request, embeddings=embeddings or OWN, weights=weights, nearest_k=nearest_k)
    ui.show(_render(found))
    if json_file is not None:
        write_json(json_file, found.to_json())
        ui.show(f"\nstored in: {json_file}")


def _render(found: MeasuredSet) -> RenderableType:
    """Return the table: a row for each embedding, and one of as many real images below it."""
    real = found.real
    title = f"{describe_set(found.condensed)} · real: {real['dataset']}, {real['images']:,} of {real['size']} pixels"
    table = Table("embedding", title="diversity")
    columns = [column for column in COLUMNS if any(column[0] in values for values in found.diversity.values())]
    table.add_numbers(*(heading for _, heading, _, _ in columns))
    for name, values in found.diversity.items():
        table.add_row(name, *(_cell(values, column) for column in columns))
        table.add_row(f"{name}, real reference", *(_cell(values["real"], column) for column in columns), style="dim")
    networks = f"networks and real data: recipe {found.recipe}"
    lines = [*found.condensed["notes"], networks, *found.notes]
    return with_notes(table, title=title, notes=lines)


def _cell(values: dict[str, Any], column: tuple[str, str, float, int]) -> str:
    key, _, factor, digits = column
    value = values.get(key)
    return "–" if value is None else f"{factor * float(value):.{digits}f}"
