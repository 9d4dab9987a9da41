"""`dire-plug measure PATH`: measure the diversity of a condensed set from any source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from dire_plug import ui
from dire_plug.commands.options import check_settings, describe_set, make_set_request, set_options, table_files
from dire_plug.measures import Measure, set_measures
from dire_plug.tables import Table, with_notes

if TYPE_CHECKING:
    from dire_plug.sets.measure import MeasuredSet


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
@set_options
@table_files
def measure(
    path: Path,
    embeddings: tuple[str, ...],
    weights: Path | None,
    nearest_k: int | None,
    **options: Any,
) -> None:
    """Measure the diversity of a condensed set.

    PATH is a tree of class folders, a file of tensors (.safetensors, .pt, .npz), or the folder of a finished run.
    """
    from dire_plug.sets.measure import OWN, measure_set

    check_settings(options["settings"], {"measure.nearest_k": ("--nearest-k", nearest_k)})
    request = make_set_request(path, **options)
    # () if none is named
    found = measure_set(request, embeddings=embeddings or OWN, weights=weights, nearest_k=nearest_k)
    ui.result(render(found), data=found.to_json)


def render(found: MeasuredSet) -> RenderableType:
    """Return the table: a row for each embedding, and one of as many real images below it."""
    real = found.real
    title = f"{describe_set(found.condensed)} · real: {real['dataset']}, {real['images']:,} of {real['size']} pixels"
    table = Table("embedding", title="diversity")
    columns = {name: set_measures(name) for name in found.diversity}
    # of all embeddings the same ones, since nearest_k and the classes decide
    known = [at for at in range(len(set_measures(""))) if any(of[at].key in found.measures for of in columns.values())]
    table.add_numbers(*(set_measures("")[at].title for at in known))
    for name, measures in columns.items():
        table.add_row(name, *(_cell(found.measures, measures[at]) for at in known))
        table.add_row(
            f"{name}, real reference", *(_cell(found.real_reference, measures[at]) for at in known), style="dim"
        )
    networks = f"networks and real data: recipe {found.recipe}"
    lines = [*found.condensed["notes"], networks, *found.notes]
    return with_notes(table, title=title, notes=lines)


def _cell(values: Mapping[str, float], measure: Measure) -> str:
    value = values.get(measure.key)
    return "–" if value is None else f"{value:.{measure.digits}f}"
