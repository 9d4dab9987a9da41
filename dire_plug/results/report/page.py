"""Write the page: one HTML file that embeds all that it shows, and needs no network.

Its tables of accuracy and diversity hold the numbers that `compare` prints.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from dire_plug import __version__
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.measures import ACCURACY, SPACES, Measure, diversity_measures
from dire_plug.results.figures import COLOURS, colour
from dire_plug.results.ladder import SUMMED_UP, Step, draw_steps
from dire_plug.results.report.class_grid import class_figure, sheet_figure
from dire_plug.results.report.curves import curves_figure, strips_figure
from dire_plug.results.report.drawing import OF_PAGE, PageFigure, label_runs, listed, to_svg
from dire_plug.results.report.groups import Group, group
from dire_plug.results.report.images import MISSING, PLANE, SIMILARITY, find_class, find_embedded, has_images
from dire_plug.results.report.runs import ReportRun
from dire_plug.results.statistics import FEW, Difference, summarise
from dire_plug.results.table import (
    accuracy_columns,
    best_cells,
    count_pairs,
    describe_bold,
    difference,
    format_difference,
    format_summary,
    make_rows,
    make_table,
    notes,
    power_notes,
    read_column,
    step_difference,
)
from dire_plug.store.provenance import Code
from dire_plug.store.runs import choose_device
from dire_plug.table_files import WRITERS, collect
from dire_plug.tables import with_minus


@dataclass(frozen=True)
class PageRow:
    """A row of a table: `kind` is an arm's name, `reference` or `difference`; `best` the indices of its best cells."""

    label: str
    cells: tuple[str, ...]
    kind: str
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PageTable:
    """A table with its title, the titles of its columns, and its files: suffix → the address that holds the content."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[PageRow, ...]
    files: Mapping[str, str]


def make_tables(group: Group) -> list[PageTable]:
    """Return the tables of accuracy, and of diversity in T and I."""
    comparison = group.comparison()
    tables = [_table("Accuracy of students", group, accuracy_columns(comparison))]
    for space, meaning in SPACES.items():
        title = f"Diversity in {space}, {meaning}"
        tables.append(_table(title, group, diversity_measures(space), space=space))
    return tables


def make_notes(group: Group) -> list[str]:
    """Return the caveats of the tables."""
    comparison = group.comparison()
    pairs = {arm: count_pairs(group.paired(arm), arm) for arm in comparison.controlled}
    lines = notes(comparison, len(group.seeds), pairs=pairs)
    lines += [line for arm in comparison.controlled for line in power_notes(group.paired(arm), [arm])]
    lines += filter(None, [describe_bold(comparison)])
    if group.even:
        return lines
    counts = ", ".join(f"{arm} {len(runs)}" for arm, runs in group.arms.items())
    return [f"mean ± standard deviation over the syntheses of an arm: {counts}", *lines[1:]]  # not one n for all arms


def sum_up(group: Group) -> list[tuple[str, str, str, str]]:
    """Return the differences dire − control for the head of a page: words, difference, dire, control.

    None without both arms, and none of one pair, which says too little for a head.
    """
    paired, found = group.paired(), []
    for words, measure, unit in SUMMED_UP:
        gap = difference(paired, measure)
        if gap is None or gap.n == 1:
            continue
        dire, control = (summarise(read_column(paired, arm, measure)) for arm in ("dire", "control"))
        text = f"{format_difference(gap, measure)}{unit}"
        found.append((words, text, format_summary(dire, measure), format_summary(control, measure)))
    return found


def caution(group: Group) -> str:
    """Return the caveat of the differences of several pairs: how many there are, and what real images reach."""
    n = len(group.paired().runs.get("dire", []))
    text = f"n = {n} syntheses of each arm, paired by seed; ± is half of the 95 % interval of the paired t test"
    if n < FEW:
        text += f"; below {FEW} pairs it says little"
    return f"{text}.{_real_images(group)}"


def _real_images(group: Group) -> str:
    comparison = group.comparison()
    if "random" not in comparison.runs:
        return ""
    found = summarise(read_column(comparison, "random", ACCURACY[0]))
    return "" if found is None else f" As many random real images reach {format_summary(found, ACCURACY[0])} %."


def _table(title: str, group: Group, measures: Sequence[Measure], *, space: str | None = None) -> PageTable:
    comparison = group.comparison()
    best = best_cells(comparison, measures)
    rows = make_rows(comparison, measures, space=space, pair=group.paired)
    shown = tuple(
        PageRow(label, tuple(map(with_minus, cells)), kind, best.get(kind, frozenset())) for kind, label, cells in rows
    )
    document = collect(make_table(f"{group.title}: {title}", comparison, measures, space=space, pair=group.paired))
    files = {suffix: _address(write(document)) for suffix, write in WRITERS.items()}
    return PageTable(title, tuple(measure.title for measure in measures), shown, files)


def _address(text: str) -> str:
    """Return a text as a `data:` address, from which a browser saves it as a file."""
    return f"data:text/plain;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


TEMPLATE = "page.html"


def write_report(
    runs: Sequence[ReportRun],
    path: Path,
    *,
    class_name: str | None = None,
    ladder: bool = False,
    device: str = "cpu",
    command: str = "",
) -> None:
    """Write the report of finished runs.

    Args:
        path: of the HTML file.
        class_name: the class whose images are shown first: name or number; None for the first one.
        ladder: compare arms from baseline to `dire` one with the next, also where no arm stands between.
        device: where the images are embedded, as `--device` has it.
        command: the command that makes this page; empty where there was none.

    Raises:
        DirePlugError: the runs are of different datasets, arms have several settings, or there is no such class.
    """
    groups = group(runs, ladder=ladder)
    label = 0 if class_name is None else find_class(runs[0], class_name)
    sections = [make_section(one, f"g{number}", label=label, device=device) for number, one in enumerate(groups)]
    arms = [arm for one in groups for arm in one.arms]  # in the order of the figures, whose colours these are
    page = {
        "title": name_groups(groups),
        "dataset": runs[0].dataset,
        "sections": sections,
        "colours": {arm: colour(arm, arms) for arm in dict.fromkeys([*arms, *COLOURS])},
        "of_page": OF_PAGE,
        "version": __version__,
        "command": command,
    }
    write_atomically(path, _environment().get_template(TEMPLATE).render(page))


def make_section(one: Group, name: str, *, label: int, device: str) -> dict[str, Any]:
    """Return the template's values for one group; `name` begins the identifiers of its figures."""
    shown = label_runs([run for run in one.of_one_seed() if has_images(run)])
    similarity_in_t, tsne_in_t = _in_teacher(shown, name, device=device)
    return {
        "title": one.title,
        "heading": str(one.first.recipe.get("title", one.title)),
        "sentences": sum_up(one),
        "caution": caution(one),
        "tables": make_tables(one),
        "notes": make_notes(one),
        "ladder": _ladder_figure(one, name=f"{name}-ladder"),
        "strips": strips_figure(one, name=f"{name}-strips"),
        "images": [class_figure(shown, label)] if shown else [],
        "sheet": sheet_figure(shown) if shown else None,
        "similarity": similarity_in_t,
        "tsne": tsne_in_t,
        "curves": curves_figure(shown, name=f"{name}-curves"),
        "provenance": [_provenance(run) for run in one.runs],
        "commands": list(dict.fromkeys(command for run in one.runs for command in _commands(run))),
        "recipes": _recipes(one),
    }


def _ladder_figure(one: Group, *, name: str) -> PageFigure | None:
    """Return the steps of a ladder with their differences; None where there is no ladder."""

    def gap(step: Step, measure: Measure) -> Difference | None:
        return step_difference(one.paired(step.arm, step.before), step, measure)

    if not (steps := one.comparison().steps):
        return None
    accuracy = SUMMED_UP[0][1]
    found = [f"{step.change}: {format_difference(gap(step, accuracy), accuracy)} points" for step in steps]
    alt = "; ".join(found)
    caption = "What each step of the ladder adds to the arm before it, paired by seed; bars are the 95 % intervals."
    drawing = to_svg(draw_steps(steps, gap), name=name, alt=f"Differences in accuracy: {alt}.")
    return PageFigure("What a gain is made of", caption, {"": drawing})


def _in_teacher(runs: Mapping[str, ReportRun], name: str, *, device: str) -> tuple[PageFigure, PageFigure]:
    """Return Figures 2 and 1; where the store lacks what they need, why they are missing."""
    try:
        if not runs:
            raise DirePlugError(MISSING)
        find_embedded(next(iter(runs.values())))
    except DirePlugError as error:
        return _missing(error)
    # torch and scikit-learn take seconds, and the rest of a page does without
    from dire_plug.results.report.embedded import embed_runs
    from dire_plug.results.report.similarity import similarity_figure
    from dire_plug.results.report.tsne import tsne_figure

    device = choose_device(device)
    try:
        sets, real = embed_runs(runs, device=device)
        return (
            similarity_figure(runs, sets, real, name=f"{name}-similarity"),
            tsne_figure(runs, sets, real, name=f"{name}-tsne"),
        )
    except DirePlugError as error:
        return _missing(error)


def _missing(error: DirePlugError) -> tuple[PageFigure, PageFigure]:
    text = f"This figure is missing: {error}."
    return PageFigure(SIMILARITY, text), PageFigure(PLANE, text)


def name_groups(groups: Sequence[Group]) -> str:
    """Return the title of a page: its methods, each once, and the IPCs."""
    methods = listed(list(dict.fromkeys(one.first.method for one in groups)))
    return f"{methods}, IPC {listed(list(dict.fromkeys(str(one.first.ipc) for one in groups)))}"


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        # names of classes and recipes may hold markup
        autoescape=True,
        # a misspelt name in the template must fail, not vanish
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return found


def _provenance(run: ReportRun) -> dict[str, Any]:
    """Return a run's row of the table of provenance."""
    found, session = run.provenance, run.provenance["sessions"][-1]  # the last one finished the run
    took = (run.metrics.get("recover") or {}).get("seconds")
    return {
        "run": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "engine": run.engine,
        "commit": (found["commit"] or "")[:12],  # in full in provenance.json
        "repository": found["upstream"]["repository"],
        "patch": (found["patch"] or "")[:8],
        "dataset": found["dataset"][:12],
        "teacher": run.metrics["networks"]["teacher"][:12],
        "seconds": "" if took is None else f"{took:.0f}",
        "hardware": _hardware(session["hardware"]),
        "versions": ", ".join(f"{name} {version}" for name, version in session["versions"].items()),
        "code": str(Code(session["code"]["commit"], session["code"]["changed"])),
    }


def _hardware(found: dict[str, Any]) -> str:
    threads = found["threads"]
    named = [str(found[key]) for key in ("card", "processor") if found[key]]
    return ", ".join([*named, f"{threads} thread{'' if threads == 1 else 's'}"])


def _commands(run: ReportRun) -> list[str]:
    return [shlex.join(session["command"]) for session in run.provenance["sessions"]]


def _recipes(one: Group) -> list[tuple[str, str]]:
    """Return each arm and its resolved recipe as a file that runs it again."""
    return [
        (arm, yaml.safe_dump(runs[0].recipe, sort_keys=False, allow_unicode=True, width=100))
        for arm, runs in one.arms.items()
    ]
