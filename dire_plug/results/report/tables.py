"""Make the tables of accuracy and diversity for a page, as rows of text: the numbers that `compare` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dire_plug.results.report.groups import Group
from dire_plug.results.statistics import (
    ACCURACY,
    FEW,
    Measure,
    Summary,
    diversity_measures,
    summarise,
)
from dire_plug.results.table import (
    SPACES,
    count_pairs,
    difference,
    format_difference,
    format_summary,
    make_rows,
    notes,
    read_column,
    student_columns,
)

SUMMED_UP = (
    ("accuracy", ACCURACY[0], " points"),
    ("coverage in T", diversity_measures("T")[0], " points"),
    ("coverage in I", diversity_measures("I")[0], " points"),
    ("similarity in T", diversity_measures("T")[4], ""),
)
"""The differences at the head of a page: words, measure, unit."""


CEILING = "full"
"""The arm that no condensed set is expected to reach, so it is left out when the best is chosen."""


@dataclass(frozen=True)
class PageRow:
    """A row of a table: `kind` is an arm's name, `reference` or `difference`; `best` the indices of its best cells."""

    label: str
    cells: tuple[str, ...]
    kind: str
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PageTable:
    """A table with its title and the titles of its columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[PageRow, ...]


def make_tables(group: Group) -> list[PageTable]:
    """Return the tables of accuracy, and of diversity in T and I."""
    comparison = group.comparison()
    tables = [_table("Accuracy of students", group, ACCURACY + student_columns(comparison))]
    for space, meaning in SPACES.items():
        title = f"Diversity in {space}, {meaning}"
        tables.append(_table(title, group, diversity_measures(space), space=space))
    return tables


def make_notes(group: Group) -> list[str]:
    """Return the caveats of the tables."""
    comparison = group.comparison()
    pairs = {arm: count_pairs(group.paired(arm), arm) for arm in comparison.controlled}
    lines = notes(comparison, len(group.seeds), pairs=pairs)
    if len(comparison.runs) > 1:
        lines.append(f"bold: the best mean of a column, {CEILING} aside; not a test of significance")
    if group.even:
        return lines
    counts = ", ".join(f"{arm} {len(runs)}" for arm, runs in group.arms.items())
    return [f"mean ± standard deviation over the syntheses of an arm: {counts}", *lines[1:]]


def sum_up(group: Group) -> list[tuple[str, str, str, str]]:
    """Return the differences dire − control for the head of a page: words, difference, dire, control.

    None without both arms.
    """
    paired, found = group.paired(), []
    for words, measure, unit in SUMMED_UP:
        gap = difference(paired, measure)
        if gap is None:
            continue
        dire, control = (summarise(read_column(paired, arm, measure)) for arm in ("dire", "control"))
        text = f"{format_difference(gap, measure)}{unit}"
        found.append((words, text, format_summary(dire, measure), format_summary(control, measure)))
    return found


def caution(group: Group) -> str:
    """Return the caveat of the differences: how many pairs there are, and what real images reach."""
    n = len(group.paired().runs.get("dire", []))
    text = f"n = {n} synthes{'is' if n == 1 else 'es'} of each arm, paired by seed"
    if n > 1:
        text += "; ± is half of the 95 % interval of the paired t test"
    if n < FEW:
        text += f"; below {FEW} pairs {'it says little' if n > 1 else 'a difference says little'}"
    return f"{text}.{_real_images(group)}"


def _real_images(group: Group) -> str:
    comparison = group.comparison()
    if "random" not in comparison.runs:
        return ""
    found = summarise(read_column(comparison, "random", ACCURACY[0]))
    return "" if found is None else f" As many random real images reach {format_summary(found, ACCURACY[0])} %."


def _table(title: str, group: Group, measures: Sequence[Measure], *, space: str | None = None) -> PageTable:
    comparison = group.comparison()
    best = _best(
        {arm: [summarise(read_column(comparison, arm, one)) for one in measures] for arm in comparison.runs}, measures
    )
    rows = make_rows(comparison, measures, space=space, pair=group.paired)
    shown = tuple(PageRow(label, cells, kind, best.get(kind, frozenset())) for kind, label, cells in rows)
    return PageTable(title, tuple(measure.title for measure in measures), shown)


def _best(found: Mapping[str, Sequence[Summary | None]], measures: Sequence[Measure]) -> dict[str, frozenset[int]]:
    """Return arm → the columns in which no other arm but `full`, the ceiling, has a better mean as printed."""
    best: dict[str, set[int]] = {arm: set() for arm in found}
    for index, measure in enumerate(measures):
        means = {arm: summaries[index] for arm, summaries in found.items() if arm != CEILING}
        shown = {arm: measure.sign * round(one.mean, measure.digits) for arm, one in means.items() if one is not None}
        if measure.sign and len(shown) > 1:
            for arm in (arm for arm, value in shown.items() if value == max(shown.values())):
                best[arm].add(index)
    return {arm: frozenset(columns) for arm, columns in best.items()}
