"""How runs are called in a figure: by what tells them apart."""

from __future__ import annotations

from collections.abc import Sequence

from dire_plug.pipeline import FinishedRun
from dire_plug.report.images import has_images
from dire_plug.report.runs import ReportRun, read_run
from dire_plug.store.runs import RunFolder

GivenRun = ReportRun | FinishedRun | RunFolder
METHOD_AND_ARM, ARM = (0, 1), (1,)
"""Where in what may tell a run apart these stand."""


def label_runs(runs: Sequence[ReportRun]) -> dict[str, ReportRun]:
    """Return label → run: the arm alone where that is enough, else with all that differs, else the folder's name."""
    told = [_tell(run) for run in runs]
    shared = [len(set(part)) == 1 for part in zip(*told, strict=True)]
    for places in (ARM, METHOD_AND_ARM, range(len(shared))):
        kept = [place for place in places if place in ARM or not shared[place]]
        names = [" ".join(part[place] for place in kept if part[place]) for part in told]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    return {run.name: run for run in runs}


def _tell(run: ReportRun) -> tuple[str, ...]:
    """Return what may tell a run apart, in the order of a label."""
    engine = "" if run.engine == "none" else run.engine
    return run.method, run.arm, f"IPC {run.ipc}", str(run.recipe["name"]), engine, f"seed {run.seed}"


def read_given(runs: Sequence[GivenRun]) -> dict[str, ReportRun]:
    """Return label → run of those that have images, read from their folders where that isn't done yet.

    Raises:
        DirePlugError: a run isn't finished.
    """
    read = [run if isinstance(run, ReportRun) else read_run(run) for run in runs]
    return label_runs([run for run in read if has_images(run)])
