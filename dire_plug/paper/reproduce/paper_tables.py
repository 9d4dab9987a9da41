"""Read the paper's tables and figures: rows, columns, the figures as printed, and what would fill each cell.

A file of `tables/` says of each row and each column what it fixes; a cell has both. Figures of Tables 2 to 9 and 13
stand in the recipes too, for those who read a recipe; a test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dire_plug.errors import DirePlugError, nearest
from dire_plug.recipe import read_yaml

TABLES = Path(__file__).parent / "tables"
NOT_PRINTED = "-"
"""Printed by the paper where it has no figure."""

CONTENT = ("method", "recipe", "arm", "ipc", "read", "student", "components", "embedding", "set")
"""The keys of a row or a column that say what fills its cells: fields of `Cell`."""
Read = Literal["accuracy", "coverage", "similarity", "vendi", "seconds", "images"]


@dataclass(frozen=True)
class Cell:
    """One cell: where it stands, what the paper prints, and what fills it.

    Attributes:
        row, column: as numbers.
        row_name, column_name: for the command line.
        figure: as printed.
        method, recipe, arm: whose run fills it.
        ipc: images per class; None: the paper doesn't say, so the recipe's own.
        read: what is read from the run.
        student: another student than the recipe's.
        components: those of the regularizer, where not all of them are on.
        embedding: another network than the teacher that judges the images.
        set: whose own images may fill it instead of a run.
    """

    row: int
    column: int
    row_name: str
    column_name: str
    figure: str
    method: str = ""
    recipe: str = ""
    arm: str = "baseline"
    ipc: int | None = None
    read: Read = "accuracy"
    student: str | None = None
    components: tuple[str, ...] = ()
    embedding: str | None = None
    set: str | None = None


@dataclass(frozen=True)
class Target:
    """One table or figure of the paper; a figure has one cell a row, without a printed value.

    Attributes:
        name: `table-2`, as on the command line.
        rows, columns: as printed.
        draw: what a figure draws: tsne, similarity or images.
        label: the class that a figure shows, by its number.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    draw: str | None = None
    label: int | None = None

    @property
    def heading(self) -> str:
        """`Table 2: …`."""
        kind, _, number = self.name.partition("-")
        return f"{kind.capitalize()} {number}: {self.title}"


def target_names() -> list[str]:
    """Return the names of all tables and figures, in the paper's order."""
    stems = [path.stem for path in TABLES.glob("*.yaml")]
    # by number: table-2 comes before table-10
    return sorted(stems, key=lambda stem: (not stem.startswith("table"), int(stem.rpartition("-")[2])))


def load_target(name: str) -> Target:
    """Return a table or figure by its name.

    Raises:
        DirePlugError: the paper has none of this name, or none whose figures can be made.
    """
    known = target_names()
    if name not in known:
        raise DirePlugError(
            f"'{name}' isn't a table or figure that can be reproduced{nearest(name, known)}; "
            "there are table-2 to table-17 and figure-1 to figure-3"
        )
    return _read(name, read_yaml(TABLES / f"{name}.yaml"))


def _read(name: str, raw: Mapping[str, Any]) -> Target:
    # a figure of the paper has no columns: each row is a set of images
    columns = raw.get("columns") or [{"printed": "images", "read": "images"}]
    cells = [
        Cell(
            row=number,
            column=position,
            row_name=row["row"],
            column_name=column.get("column", ""),
            # figures are drawn, so there is no number to compare with
            figure=row["figures"][position] if "figures" in row else NOT_PRINTED,
            **_content({**row, **column}),
        )
        for number, row in enumerate(raw["rows"])
        for position, column in enumerate(columns)
    ]
    return Target(
        name=name,
        title=raw["title"],
        rows=tuple(" · ".join(filter(None, (row.get("group"), row["printed"]))) for row in raw["rows"]),
        columns=tuple(column["printed"] for column in columns),
        cells=tuple(cells),
        notes=tuple(raw.get("notes", ())),
        draw=raw.get("draw"),
        label=raw.get("label"),
    )


def _content(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fills a cell, of a row's and a column's keys."""
    known = {key: values[key] for key in CONTENT if key in values}
    return {**known, "components": tuple(known.get("components", ()))}
