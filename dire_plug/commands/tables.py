"""Make the tables that several commands show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from dire_plug.measures import JUDGED_ON_VALIDATION, diversity_cells, diversity_measures, full_notes, read_values
from dire_plug.store.runs import FinishedRun, show_engine
from dire_plug.tables import Table, with_notes


def run_summary(finished: FinishedRun) -> RenderableType:
    """Return the tables of one run: accuracy, and diversity in T and I with the real reference."""
    metrics = finished.metrics
    engine = show_engine(metrics["engine"], metrics.get("accelerate", {}).get("synthesis", ()))
    title = f"{metrics['arm']}, seed {metrics['seed']}, IPC {metrics['ipc']}, engine {engine}"
    accuracy = Table("student", title=title, title_style="bold")
    students = metrics["accuracy"].get("students", {})
    kinds = known_kinds(students)
    accuracy.add_numbers(*kinds.values())
    for name, student in students.items():
        accuracy.add_row(name, *(" ".join(f"{value:.1f}" for value in student[kind]) for kind in kinds))
    parts: list[RenderableType] = [accuracy]
    if missing := metrics["accuracy"].get("missing"):
        parts = [Text(title, style="bold"), Text(missing)]
    diversity = Table("space", title="diversity")
    diversity.add_numbers(*(measure.title for measure in diversity_measures("T")))
    for space, values in metrics["diversity"].items():
        diversity.add_row(space, *diversity_cells(space, values))
        diversity.add_row(f"{space}, real reference", *diversity_cells(space, values["real"]), style="dim")
    notes = full_notes(metrics) if metrics["arm"] == "full" else []
    if metrics.get("judged") == "validation":
        notes.append(JUDGED_ON_VALIDATION)
    notes += finished.notes
    return with_notes(*parts, diversity, notes=notes)


def run_json(finished: FinishedRun) -> dict[str, Any]:
    """Return a run's metrics.json, with its folder and notes, and its measures by key."""
    return {
        "folder": finished.folder.path,
        "reused": finished.reused,
        "measures": read_values(finished.metrics),
        "metrics": finished.metrics,
        "notes": list(finished.notes),
    }


def known_kinds(students: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the accuracies that are known of students, last and best or last alone, with the titles of columns."""
    best = any(student["best"] is not None for student in students.values())
    return {"last": "last %", **({"best": "best on test %"} if best else {})}


def mean_and_spread(values: Sequence[float]) -> str:
    """Return mean ± sample standard deviation of percentages, as `compare` prints them; a dash where there are none."""
    from dire_plug.measures import ACCURACY
    from dire_plug.results.statistics import summarise
    from dire_plug.results.table import format_summary

    return format_summary(summarise(values), ACCURACY[0])
