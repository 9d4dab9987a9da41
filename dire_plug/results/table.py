"""Show a comparison in the terminal: its tables, and the notes below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from dire_plug.measures import (
    ACCURACY,
    JUDGED_ON_VALIDATION,
    SPACES,
    STUDENTS,
    Measure,
    diversity_cells,
    diversity_measures,
    find_best,
    full_notes,
)
from dire_plug.recipe.check import CHOSEN, FULL
from dire_plug.recipe.model import RDED
from dire_plug.results.comparison import Comparison
from dire_plug.results.ladder import Step
from dire_plug.results.statistics import (
    FEW,
    LEVEL,
    MOST,
    POWER,
    Difference,
    Power,
    Summary,
    paired_difference,
    power_of,
    summarise,
)
from dire_plug.tables import Table, with_minus, with_notes

# k-means starts from the seed, these two draw nothing
SEEDLESS = ("herding", "k-center")
"""Arms that choose the same images with every seed."""
FEW_PAIRS = f"below {FEW} pairs a difference says little; take more --seeds"


def real_image_notes(metrics: Mapping[str, Mapping[str, Any]], *, seeds: int) -> list[str]:
    """Return the lines below the tables.

    Args:
        metrics: arm → metrics.json of its first run.
        seeds: how many runs each arm has.
    """
    lines = []
    if "random" in metrics:
        lines.append("random: as many real training images under the same protocol")
    if chosen := [arm for arm in CHOSEN if arm in metrics]:
        lines.append(f"{', '.join(chosen)}: likewise, chosen by the teacher's embeddings, so I judges them more fairly")
    if RDED in metrics:
        lines.append(
            "rded: images of real patches, chosen by the teacher's loss by RDED's rule, not by its own code; I judges "
            "them more fairly"
        )
    if seeds > 1 and (same := [arm for arm in SEEDLESS if arm in metrics]):
        lines.append(f"{', '.join(same)}: the same images with every seed, so the spread is over students alone")
    if "full" in metrics:
        lines += full_notes(metrics["full"])
    return lines


def read_column(comparison: Comparison, arm: str, measure: Measure) -> list[float | None]:
    """Return one measure of one arm for every seed."""
    return [measure.read(run.metrics) for run in comparison.runs[arm]]


def difference(comparison: Comparison, measure: Measure, *, arm: str = "dire") -> Difference | None:
    """Return arm − control in one measure, or None without both, or where control isn't the arm's control."""
    if arm not in comparison.controlled or not {arm, "control"} <= comparison.runs.keys():
        return None
    return paired_difference(read_column(comparison, arm, measure), read_column(comparison, "control", measure))


def step_difference(comparison: Comparison, step: Step, measure: Measure) -> Difference | None:
    """Return an arm of a ladder − the one before it in one measure, paired by seed; None where a value is missing."""
    if measure in STUDENTS or not {step.arm, step.before} <= comparison.runs.keys():
        return None
    return paired_difference(*(read_column(comparison, arm, measure) for arm in (step.arm, step.before)))


def render(comparison: Comparison) -> RenderableType:
    """Return the tables of accuracy and of diversity in T and I, with their caveats."""
    n = len(comparison.seeds)
    title = f"{comparison.method} · {comparison.recipe} · IPC {comparison.ipc} · engine {comparison.engine}"
    parts: list[RenderableType] = [
        *(Text(f"with {change}") for change in comparison.changes),
        make_table("accuracy of students", comparison, accuracy_columns(comparison)),
    ]
    for space, meaning in SPACES.items():
        parts.append(make_table(f"diversity in {space}: {meaning}", comparison, diversity_measures(space), space=space))
    lines = [*notes(comparison, n, pairs=pairs_of(comparison)), *power_notes(comparison)]
    return with_notes(*parts, title=title, notes=lines, bold=describe_bold(comparison))


def accuracy_columns(comparison: Comparison) -> tuple[Measure, ...]:
    """Return the columns of accuracy: the best where it is known, the spread where a synthesis has several students."""
    return (ACCURACY[0], *(one for one in (*ACCURACY[1:], *STUDENTS) if _is_known(comparison, one)))


def _is_known(comparison: Comparison, measure: Measure) -> bool:
    return any(value is not None for arm in comparison.runs for value in read_column(comparison, arm, measure))


def count_pairs(comparison: Comparison, arm: str) -> int:
    """Return the number of pairs behind an arm's difference from control; 0 where there is none."""
    gap = difference(comparison, ACCURACY[0], arm=arm)
    return 0 if gap is None else gap.n


def pairs_of(comparison: Comparison) -> dict[str, int]:
    return {arm: count_pairs(comparison, arm) for arm in comparison.controlled}


def step_notes(comparison: Comparison) -> list[str]:
    """Return the lines that say which arms the steps of a ladder are between."""
    if not comparison.steps:
        return []
    shown = "; ".join(f"{step.change}: {step.arm} − {step.before}" for step in comparison.steps)
    return [f"+: an arm − the one before it on the ladder, paired by seed: {shown}"]


def notes(comparison: Comparison, n: int, *, pairs: Mapping[str, int]) -> list[str]:
    """Return the lines below the tables.

    Args:
        n: syntheses of each arm.
        pairs: arm → the number of pairs behind its difference from control; 0 where there is none.
    """
    pairs = {arm: count for arm, count in pairs.items() if count}
    lines = [f"mean ± standard deviation over {n} synthes{'is' if n == 1 else 'es'}"]
    if n == 1:
        lines = ["one synthesis per arm: neither a spread nor a best; --seeds 5 gives both"]
    for arm, other in comparison.same.items():
        lines.append(f"{arm} equals {other} here, so it was run once")
    if pairs:
        name = next(iter(pairs)) if len(pairs) == 1 else "…"
        lines.append(describe_pairing(name, several=max(pairs.values()) > 1))
    if few := {arm: count for arm, count in pairs.items() if count < FEW}:
        alike = len(set(pairs.values())) == 1
        numbers = f"n = {min(few.values())}" if alike else ", ".join(f"{arm} n = {count}" for arm, count in few.items())
        lines.append(f"{numbers}: {FEW_PAIRS}")
    lines += step_notes(comparison)
    for arm in comparison.uncontrolled:
        lines.append(f"{arm}: differs from control in more than its term, so no difference is formed")
    if _is_known(comparison, STUDENTS[0]):
        lines.append("± students: standard deviation over the students of one synthesis, mean over syntheses")
    lines += real_image_notes({arm: runs[0].metrics for arm, runs in comparison.runs.items()}, seeds=n)
    several = len(_real_references(comparison, "T")) > 1
    label = "real, as many as ARM: that arm's number of" if several else "real reference: as many"
    lines.append(f"{label} real held-out images, mean over draws")
    if any(run.metrics.get("judged") == "validation" for runs in comparison.runs.values() for run in runs):
        lines.append(JUDGED_ON_VALIDATION)
    lines += dict.fromkeys(note for runs in comparison.runs.values() for run in runs for note in run.notes)  # each once
    return lines


def describe_pairing(arm: str, *, several: bool) -> str:
    """Return the line on an arm's difference from control, of several pairs or of one."""
    what = "± half of the 95 % interval of the paired t test" if several else "the difference of the printed values"
    return f"{arm} − control: paired by seed, {what}"


def describe_bold(comparison: Comparison) -> str:
    """Return the line on what is bold, for where something is; empty where there is one arm or one synthesis."""
    if len(comparison.runs) == 1 or len(comparison.seeds) == 1:
        return ""
    return (
        f"bold: the best mean of a column, {FULL} aside; no test of significance. Vendi and similarity have no best: "
        "noise is the most diverse"
    )


def powers_of(comparison: Comparison, arms: Sequence[str]) -> dict[str, Power | None]:
    """Return arm → what its pairs with control can tell in accuracy, of those arms that were run."""
    read = partial(read_column, comparison, measure=ACCURACY[0])
    known = [arm for arm in arms if {arm, "control"} <= comparison.runs.keys()]
    return {arm: power_of(read(arm), read("control")) for arm in known}


def power_notes(comparison: Comparison, arms: Sequence[str] | None = None) -> list[str]:
    """Return a line for each arm on the difference in accuracy that its pairs tell from zero; of few they tell none.

    Args:
        arms: those whose seeds are control's; None: all with a term.
    """
    lines = []
    for arm, found in powers_of(comparison, comparison.controlled if arms is None else arms).items():
        if found is None or not found.std or found.n < FEW:
            continue
        most = f"more than {MOST:,}" if found.half_point is None else f"{found.half_point:,}"
        lines.append(
            f"{arm} − control: differences in accuracy vary by {found.std:.2f}, so {found.n} seeds find a true "
            f"difference of {found.smallest:.1f} points {100 * POWER:.0f} times in 100, and half a point takes {most} "
            f"seeds (paired t test, two-sided at {LEVEL:g})"
        )
    return lines


def make_table(
    title: str,
    comparison: Comparison,
    measures: Sequence[Measure],
    *,
    space: str | None = None,
    pair: Callable[[str, str | None], Comparison] | None = None,
) -> Table:
    """Return a table of arms and of their differences from control; the arguments are those of `make_rows`."""
    table = Table("arm", title=title)
    table.add_numbers(*(measure.title for measure in measures))
    rows, best = make_rows(comparison, measures, space=space, pair=pair), best_cells(comparison, measures)
    for kind, label, cells in rows:
        if kind != DIFFERENCE:
            table.add_row(label, *cells, style="dim" if kind == REFERENCE else "", best=best.get(kind, ()))
    table.add_section()  # differences are no rows of an arm
    for kind, label, cells in rows:
        if kind == DIFFERENCE:
            table.add_row(label, *cells)
    return table


def best_cells(comparison: Comparison, measures: Sequence[Measure]) -> dict[str, frozenset[int]]:
    """Return arm → the columns in which its mean is the best; `full` is the ceiling, which no set is to reach.

    A single synthesis says too little for a best.
    """
    summaries = {arm: [summarise(read_column(comparison, arm, one)) for one in measures] for arm in comparison.runs}
    means = {
        arm: [None if one is None or one.n == 1 else one.mean for one in of_arm] for arm, of_arm in summaries.items()
    }
    return find_best(means, measures, leaving_out=(FULL,))


REFERENCE, DIFFERENCE = "reference", "difference"


def make_rows(
    comparison: Comparison,
    measures: Sequence[Measure],
    *,
    space: str | None = None,
    pair: Callable[[str, str | None], Comparison] | None = None,
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the rows of a table: the kind (an arm, `REFERENCE` or `DIFFERENCE`), the label, the cells.

    Args:
        space: T or I, where the measures are of an embedding, which has a real reference.
        pair: an arm and the one that it is compared with (None: its control) → the comparison that has the seeds of
            both; None: `comparison` for all.
    """
    rows = []
    for arm in comparison.runs:
        label = f"{arm} = {comparison.same[arm]}" if arm in comparison.same else arm
        summaries = [summarise(read_column(comparison, arm, measure)) for measure in measures]
        cells = (format_summary(found, one) for found, one in zip(summaries, measures, strict=True))
        rows.append((arm, label, tuple(cells)))
    if space is not None:
        references = _real_references(comparison, space)
        for arm, real in references:
            label = "real reference" if len(references) == 1 else f"real, as many as {arm}"
            rows.append((REFERENCE, label, tuple(diversity_cells(space, real))))
    for step in comparison.steps:
        paired = comparison if pair is None else pair(step.arm, step.before)
        found = [step_difference(paired, step, one) for one in measures]
        cells = (format_difference(gap, one) for gap, one in zip(found, measures, strict=True))
        rows.append((DIFFERENCE, f"+ {step.change}", tuple(cells)))
    for arm in comparison.controlled:
        if comparison.steps and arm == comparison.steps[-1].arm:
            continue  # the last step is this difference
        paired = comparison if pair is None else pair(arm, None)
        if gaps := difference_cells(paired, measures, arm):
            rows.append((DIFFERENCE, f"{arm} − control", gaps))
    return rows


def _real_references(comparison: Comparison, space: str) -> list[tuple[str, Any]]:
    """Return each real reference of one embedding with the first arm whose set is as large."""
    # draws have a seed of their own, and arms one dataset, IPC and network; but INFER saves more images than IPC
    found: list[tuple[str, Any]] = []
    for arm, runs in comparison.runs.items():
        real = runs[0].metrics["diversity"][space]["real"]
        if real not in (known for _, known in found):
            found.append((arm, real))
    return found


def difference_cells(comparison: Comparison, measures: Sequence[Measure], arm: str) -> tuple[str, ...] | None:
    """Return the cells of arm − control; None where no measure can be compared."""
    # a difference of spreads has no meaning
    gaps = [None if one in STUDENTS else difference(comparison, one, arm=arm) for one in measures]
    if not any(gaps):
        return None
    return tuple(format_difference(gap, one) for gap, one in zip(gaps, measures, strict=True))


def format_summary(summary: Summary | None, measure: Measure) -> str:
    """Return mean ± standard deviation in the measure's digits; a dash where a value is missing."""
    if summary is None:
        return "–"
    spread = "" if summary.std is None else f" ± {summary.std:.{measure.digits}f}"
    return f"{summary.mean:.{measure.digits}f}{spread}"


def format_difference(gap: Difference | None, measure: Measure) -> str:
    """Return a paired difference, with a minus sign, ± half of its interval; nothing where there is none."""
    if gap is None:
        return ""
    digits = measure.digits
    interval = "" if gap.half_width is None else f" ± {gap.half_width:.{digits}f}"
    return with_minus(f"{gap.rounded(digits):+.{digits}f}{interval}")
