"""Name what runs and condensed sets are measured by: key, title, digits, and which value is the best.

The keys are identifiers. They are the same in JSON, in CSV files and in the frames of `import dire_plug`:

    accuracy_last, accuracy_best                            %, mean over students
    students_std_last, students_std_best                    points, over the students of one synthesis
    coverage_teacher, class_coverage_teacher                %
    density_teacher, precision_teacher, recall_teacher      of `measure` alone; the last two in %
    vendi_teacher, class_vendi_teacher, similarity_teacher

and those of the last three lines with `_independent`, or with the name of another embedding.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPACES = {"T": "the teacher's embedding, in which the term works", "I": "an independently trained network's"}
"""The embeddings of a run, by their keys in metrics.json, in words."""
NAMES = {"T": "teacher", "I": "independent"}
"""The same embeddings as keys name them."""


@dataclass(frozen=True)
class Measure:
    """One measure, a column of a table.

    Attributes:
        key: an identifier.
        title: the column's heading.
        read: returns the value of a run, from the content of its metrics.json; None where there is none.
        digits: decimals.
        has_best: whether more is better. Neither is of a spread; nor of Vendi and similarity, in which noise, the most
            diverse of all images, would win.
    """

    key: str
    title: str
    read: Callable[[Mapping[str, Any]], float | None]
    digits: int
    has_best: bool = True


def find_best(
    means: Mapping[str, Sequence[float | None]], measures: Sequence[Measure], *, leaving_out: Collection[str] = ()
) -> dict[str, frozenset[int]]:
    """Return row → the columns in which no other row has a better value as printed; ties are all the best.

    Args:
        means: row → its values in the order of `measures`.
        leaving_out: rows that don't compete, such as a ceiling.
    """
    best: dict[str, set[int]] = {row: set() for row in means}
    for index, measure in enumerate(measures):
        # rounded before they are compared: what is printed alike is equally good
        shown = {
            row: round(value, measure.digits)
            for row, values in means.items()
            if row not in leaving_out and (value := values[index]) is not None
        }
        if measure.has_best and len(shown) > 1:
            for row in (row for row, value in shown.items() if value == max(shown.values())):
                best[row].add(index)
    return {row: frozenset(columns) for row, columns in best.items()}


def to_key(name: str) -> str:
    """Return a name, such as `torchvision:resnet18` or `IOR plain`, as a part of a key."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def _accuracy(kind: str) -> Callable[[Mapping[str, Any]], float | None]:
    def read(metrics: Mapping[str, Any]) -> float | None:
        students = metrics["accuracy"].get("students", {})
        values = [value for student in students.values() for value in student[kind] or ()]
        return statistics.fmean(values) if values else None

    return read


def _student_spread(kind: str) -> Callable[[Mapping[str, Any]], float | None]:
    def read(metrics: Mapping[str, Any]) -> float | None:
        students = metrics["accuracy"].get("students", {})
        spreads = [statistics.stdev(student[kind]) for student in students.values() if len(student[kind] or ()) > 1]
        return statistics.fmean(spreads) if spreads else None

    return read


ACCURACY = (
    Measure("accuracy_last", "accuracy, last %", _accuracy("last"), 1),
    Measure("accuracy_best", "best on test %", _accuracy("best"), 1),
)
"""`best` is None where a protocol leaves out tests of epochs that could be the best."""

STUDENTS = (
    Measure("students_std_last", "± students, last", _student_spread("last"), 1, has_best=False),
    Measure("students_std_best", "± students, best", _student_spread("best"), 1, has_best=False),
)
"""The sample standard deviation over students of one synthesis, the kind of spread that papers print."""


def _diversity(space: str, name: str, title: str, digits: int, *, factor: float = 1, has_best: bool = True) -> Measure:
    def read(metrics: Mapping[str, Any]) -> float | None:
        value = metrics["diversity"][space].get(name)
        return None if value is None else factor * float(value)

    return Measure(f"{name}_{to_key(NAMES.get(space, space))}", title, read, digits, has_best)


def diversity_measures(space: str) -> tuple[Measure, ...]:
    """Return the measures of a run in one embedding, T or I."""
    coverage, class_coverage, _, _, _, *others = set_measures(space)
    return (coverage, class_coverage, *others)


def set_measures(space: str) -> tuple[Measure, ...]:
    """Return the measures of a condensed set in one embedding, by the name that the values have it under."""
    return (
        _diversity(space, "coverage", "coverage %", 1, factor=100),
        _diversity(space, "class_coverage", "per class %", 1, factor=100),
        _diversity(space, "density", "density", 3),
        _diversity(space, "precision", "precision %", 1, factor=100),
        _diversity(space, "recall", "recall %", 1, factor=100),
        _diversity(space, "vendi", "Vendi", 2, has_best=False),
        _diversity(space, "class_vendi", "per class", 2, has_best=False),
        _diversity(space, "similarity", "similarity", 3, has_best=False),
    )


def run_measures() -> tuple[Measure, ...]:
    """Return all measures of a run, in the order of the tables."""
    return (*ACCURACY, *STUDENTS, *(measure for space in SPACES for measure in diversity_measures(space)))


def read_values(metrics: Mapping[str, Any], measures: tuple[Measure, ...] | None = None) -> dict[str, float | None]:
    """Return key → value of measures of one run, by default all; None where a value is missing."""
    return {measure.key: measure.read(metrics) for measure in measures or run_measures()}


def diversity_cells(space: str, values: Mapping[str, Any]) -> list[str]:
    """Return one value in each column of one embedding; a dash where it is missing."""
    measures = diversity_measures(space)
    found = [measure.read({"diversity": {space: values}}) for measure in measures]
    return ["–" if value is None else f"{value:.{one.digits}f}" for value, one in zip(found, measures, strict=True)]


JUDGED_ON_VALIDATION = (
    "tested on validation images, held out of the training set, not on the test set: 'best on test' is best on those"
)
"""The note below accuracies that are of validation images."""


def full_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return the notes on the arm `full`: how long its students trained, and why it has no coverage."""
    lines = ["full: no coverage (–): its images are the ones to be covered, so each covers itself"]
    if budget := metrics["accuracy"].get("full"):
        epochs = f"{budget['epochs']} epoch{'' if budget['epochs'] == 1 else 's'}"
        steps = f"{budget['steps']:,} steps; IPC images per class get {budget['subset_steps']:,}"
        lines.insert(0, f"full: all {budget['images']:,} training images, in {epochs} ({steps})")
    return lines
