"""Show which of the paper's figures finished runs fill, and which runs those are: `reproduce all --status FILE`.

Nothing is run. A cell is filled by the finished runs in the folder of runs whose recipe, as it was resolved, is that of
the cell; what takes more than a run (another student, another network, a timing) is read from the table.json that
`reproduce` wrote there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.measures import ACCURACY
from dire_plug.paper.reproduce.fill import DIVERSITY, FILE
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell
from dire_plug.paper.reproduce.request import TableRequest
from dire_plug.paper.reproduce.result import BEST
from dire_plug.paper.reproduce.table import format_figure, unit_of
from dire_plug.pipeline import plan_run
from dire_plug.recipe import as_file, counted, read_yaml
from dire_plug.results.statistics import Summary, half_interval, summarise
from dire_plug.store.runs import METRICS, RunFolder, list_runs, runs_root

NOT_RUN = "not run"


@dataclass(frozen=True)
class CellStatus:
    """One figure of the paper, and what finished runs say of it.

    Attributes:
        table, row, column: as printed; a figure has no columns.
        paper: as printed; empty where the paper draws.
        ours: over syntheses, in the unit that the run has; None where nothing was run.
        shown: ours as a table shows it: mean ± standard deviation (n), and the best on test where it is known.
        half_width: of the 95 % interval of the mean, in the unit of `shown`; None below two syntheses.
        best: of tests after every epoch.
        source: the folders of the runs, or the file, below the folder of runs.
    """

    table: str
    row: str
    column: str
    paper: str
    ours: Summary | None = None
    shown: str = NOT_RUN
    half_width: float | None = None
    best: Summary | None = None
    source: tuple[str, ...] = ()


Filled = tuple[Summary | None, Summary | None, tuple[str, ...]]
"""Ours, the best on test, and where they come from."""
EMPTY: Filled = None, None, ()


def find_status(requests: Sequence[TableRequest]) -> list[CellStatus]:
    """Return the state of every cell that the paper prints, table by table."""
    root = runs_root(requests[0].base)
    runs = _finished_runs(root)
    with plugins.read_once():
        return [one for request in requests for one in _of_table(request, root, runs)]


def _of_table(
    request: TableRequest, root: Path, runs: Mapping[tuple[str, str, str], Sequence[RunFolder]]
) -> Iterable[CellStatus]:
    target, stored = request.target, _stored_cells(root, request)
    for cell in request.cells:
        place = target.name, target.rows[cell.row], target.columns[cell.column]
        if target.draw is not None:
            drawing = replace(request, choice=()).folder / FILE
            drawn = (str(drawing.relative_to(root)),) if drawing.is_file() else ()
            yield CellStatus(target.name, place[1], "", "", shown="drawn" if drawn else NOT_RUN, source=drawn)
            continue
        if cell.figure == NOT_PRINTED:
            continue
        found = _from_runs(request, cell, root, runs)
        summary, best, source = found if found[0] is not None else stored.get(place[1:], EMPTY)
        if summary is None:
            yield CellStatus(*place, cell.figure)
        else:
            shown = "; best ".join(format_figure(cell, one) for one in (summary, best) if one is not None)
            half = half_interval(summary)
            half = None if half is None else unit_of(cell)[0] * half
            yield CellStatus(*place, cell.figure, summary, shown, half, best, source)


def _finished_runs(root: Path) -> dict[tuple[str, str, str], list[RunFolder]]:
    """Return (method, recipe, arm) → the finished runs of that."""
    found: dict[tuple[str, str, str], list[RunFolder]] = {}
    for run in list_runs(root):
        if (run.path / METRICS).is_file() and run.state() == "finished":
            method, recipe = run.path.parts[-3:-1]
            found.setdefault((method, recipe, run.metrics()["arm"]), []).append(run)
    return found


def _from_runs(
    request: TableRequest, cell: Cell, root: Path, runs: Mapping[tuple[str, str, str], Sequence[RunFolder]]
) -> Filled:
    """Return what the runs of a cell say; of one seed the last that was finished counts."""
    plain = not (cell.student or cell.components or cell.embedding or cell.set or cell.read == "seconds")
    candidates = runs.get((cell.method, cell.recipe, cell.arm), ()) if plain else ()
    # of other bits, whatever the recipe
    candidates = [run for run in candidates if _is_fast(run) == (request.base.accelerate == "fast")]
    if not candidates:
        return EMPTY
    try:
        resolved = plan_run(request.first_run(cell), dry=True).resolved
    except DirePlugError:
        if not request.changes:
            raise
        # this recipe has no such preset or setting, so nothing was run with it
        return EMPTY
    wanted = _what_counts(as_file(resolved), cell.arm)
    by_age = sorted(candidates, key=lambda one: str(one.status().get("updated")))
    same = [run for run in by_age if _what_counts(read_yaml(run.path / "recipe.yaml"), cell.arm) == wanted]
    # as in a table, runs of other networks or data aren't averaged: those like the last one count
    last = _made_with(same[-1]) if same else None
    by_seed = {run.metrics()["seed"]: run for run in same if _made_with(run) == last}
    chosen = [by_seed[seed] for seed in sorted(by_seed)]
    metrics = [run.metrics() for run in chosen]
    best = [ACCURACY[1].read(one) for one in metrics] if cell.read == "accuracy" else [None]
    source = tuple(str(run.path.relative_to(root)) for run in chosen)
    return summarise([_read(cell, one) for one in metrics]), summarise(best), source


def _made_with(run: RunFolder) -> tuple[Any, Any]:
    """Return the networks and the data of a run, by content."""
    return run.metrics()["networks"], read_json(run.path / "provenance.json")["dataset"]


def _what_counts(recipe: dict[str, Any], arm: str) -> dict[str, Any]:
    """Return what decides a run's results, of a recipe as a run's folder has it."""
    terms = recipe.get("arms", {}).get(arm, {}).get("regularizers", {})
    plain = {key: value for key, value in recipe.items() if key not in ("name", "arms")}
    return counted(plain, arm=arm, regularizers=terms)


def _is_fast(run: RunFolder) -> bool:
    """Return whether some of a run was made by components of `--accelerate fast`."""
    return any(run.metrics().get("accelerate", {}).values())


def _read(cell: Cell, metrics: Mapping[str, Any]) -> float | None:
    if cell.read == "accuracy":
        return ACCURACY[0].read(metrics)
    value = metrics["diversity"]["T"].get(DIVERSITY[cell.read])
    return None if value is None else float(value)


def _stored_cells(root: Path, request: TableRequest) -> dict[tuple[str, str], Filled]:
    """Return (row, column) → what `reproduce` filled at the paper's scale with the same options, the last of each."""
    found: dict[tuple[str, str], Filled] = {}
    files = root.glob(f"reproduce/{request.target.name}-paper*/table.json")
    for file in sorted(files, key=lambda path: path.stat().st_mtime):
        content = read_json(file)
        try:
            if content["changes"] != list(request.changes):
                continue
            for cell in content["cells"]:
                if ours := cell["ours"]:
                    summary = Summary(ours["mean"], ours["std"], ours["n"])
                    best = summarise(cell.get(BEST) or [None])
                    found[cell["row"], cell["column"]] = summary, best, (str(file.relative_to(root)),)
        except (KeyError, TypeError) as error:
            raise DirePlugError(f"{file}: isn't a table of `reproduce` ({error!r}); remove it") from error
    return found


def count_filled(cells: Sequence[CellStatus]) -> str:
    """Return how many of the paper's figures are filled, in words."""
    printed = [one for one in cells if one.paper]
    filled = sum(one.ours is not None for one in printed)
    return f"{filled} of the paper's {len(printed)} printed figures are filled"


def to_markdown(cells: Sequence[CellStatus], headings: Mapping[str, str], *, command: str) -> str:
    """Return the page: the counts, and a table for each of the paper's.

    Args:
        headings: name of a table or figure → its heading.
    """
    lines = [
        "# The paper's figures, and ours",
        "",
        f"Made by `{command}` from the finished runs in `runs/`; nothing is filled in by hand.",
        f"{count_filled(cells)}.",
        "Ours: mean ± standard deviation over syntheses (their number), with the 95 % t interval of",
        "the mean; accuracy after the last epoch, and the best on test where every epoch was tested.",
        "Sources lie below the folder of runs.",
    ]
    for name, heading in headings.items():
        lines += ["", f"## {heading}", "", "| row | column | paper | ours | 95 % interval | source |"]
        lines.append("|---|---|---|---|---|---|")
        for one in cells:
            if one.table == name:
                interval = "" if one.half_width is None else f"± {one.half_width:.2g}"
                source = ", ".join(f"`{path}`" for path in one.source)
                cells_of_row = (one.row, one.column, one.paper, one.shown, interval, source)
                lines.append(f"| {' | '.join(cells_of_row)} |".replace("  |", " |"))
    return "\n".join(lines) + "\n"
