"""`dire-plug report RUN…`: report finished runs on one HTML page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dire_plug import home, ui
from dire_plug.commands.completion import offer_runs
from dire_plug.commands.options import DEVICE, JSON, RUNS_FOLDER
from dire_plug.errors import DirePlugError
from dire_plug.files import digest
from dire_plug.store.provenance import command

if TYPE_CHECKING:
    from dire_plug.results.report.runs import ReportRun

SUFFIXES = (".html", ".htm")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", shell_complete=offer_runs)
@click.option("--to", type=click.Path(path_type=Path), help="The HTML file; default: report.html beside the runs.")
@click.option("--class", "class_name", metavar="NAME", help="The class whose images are shown: name or number.")
@DEVICE
@RUNS_FOLDER
@JSON
def report(
    runs: tuple[str, ...], to: Path | None, class_name: str | None, device: str, runs_folder: Path | None
) -> None:
    """Make one HTML page of finished runs, with tables and pictures.

    RUN is a run's folder, a part of its name, or the folder of a comparison. The page is one self-contained file, with
    tables, images, diversity, loss curves and provenance.
    """
    from dire_plug.results.report.page import write_report
    from dire_plug.results.report.runs import find_runs, is_ladder

    if to is not None and to.suffix not in SUFFIXES:
        raise DirePlugError(f"--to {to}: a report is one HTML page; end its name in {' or '.join(SUFFIXES)}")
    root = (runs_folder or home.runs()).absolute()
    found = find_runs(runs, root)
    path = to or _default_path(runs, found)
    line = shlex.join(command())
    ladder = is_ladder(runs, root)
    write_report(found, path, class_name=class_name, ladder=ladder, device=device, command=line)
    ui.result(f"report: {path}", data=lambda: {"report": path, "runs": [one.folder.path for one in found]})


def _default_path(names: tuple[str, ...], found: list[ReportRun]) -> Path:
    """Return where to write a report: in the one run's folder, in the comparison's, or beside the runs."""
    from dire_plug.results.report.runs import find_comparison

    first = found[0].folder.path
    if len(found) == 1:
        return first / "report.html"
    # a run's folder is METHOD/RECIPE/RUN below the root
    comparison = find_comparison(names[0], first.parents[2]) if len(names) == 1 else None
    if comparison is not None:
        return comparison.with_name("report.html")
    # sorted: the same runs in another order are the same report
    return first.parent / f"report-{digest(sorted(run.name for run in found))[:8]}" / "report.html"
