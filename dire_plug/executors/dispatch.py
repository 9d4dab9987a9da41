"""Run requests by the executor that the user chose: first all that the store lacks, then each run put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from dire_plug.errors import DirePlugError
from dire_plug.executors.jobs import BLOCKED, job_of, read_tail
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.pipeline import FinishedRun, plan_run, run_arm
from dire_plug.pipeline.request import with_data
from dire_plug.pipeline.run import announce
from dire_plug.pipeline.work_units import Unit, units_of
from dire_plug.store.runs import Request


class Runner:
    """Runs the requests of a command by an executor.

    With `inline` all is made when a run is asked for, one stage after another. With the others `prepare` makes it.
    """

    def __init__(self, settings: ExecutorSettings | None = None) -> None:
        """Take the executor's settings; None runs inline."""
        self._settings = settings or ExecutorSettings()
        self._problems: dict[Request, str] = {}

    def prepare(self, requests: Sequence[Request], *, skip_bad: bool = False) -> None:
        """Make all that the store lacks of some runs, so that asking for them only puts them together.

        What fails is raised when the run that needs it is asked for.

        Args:
            skip_bad: whether a request that can't be planned is left to that moment too.

        Raises:
            DetachedError: jobs work for the runs, and the command doesn't wait for them.
            DirePlugError: a request is bad, or its data aren't there.
        """
        if self._settings.kind == "inline":
            return
        units: dict[str, Unit] = {}
        of_runs: dict[Request, list[str]] = {}
        for request in requests:
            with contextlib.suppress(DirePlugError) if skip_bad else contextlib.nullcontext():
                own = units_of(with_data(plan_run(request)))
                announce(request)
                of_runs[request] = [unit.name for unit in own]
                for unit in own:
                    units.setdefault(unit.name, unit)
        failed = make_units(list(units.values()), self._settings)
        for request, names in of_runs.items():
            if lost := {name: failed[name] for name in names if name in failed}:
                self._problems[request] = describe([units[name] for name in lost], lost)

    def run(self, request: Request) -> FinishedRun:
        """Return a finished run: see `pipeline.run_arm`.

        Raises:
            DirePlugError: units that it needs weren't made; each is named with the last lines of its log.
        """
        if request in self._problems:
            raise DirePlugError(self._problems[request])
        return run_arm(request)


def make_units(units: Sequence[Unit], settings: ExecutorSettings) -> dict[str, str]:
    """Make units by `local` or `slurm`; return name of a unit → why it wasn't made.

    Raises:
        DetachedError: jobs make them, and the command doesn't wait.
    """
    if not units:
        return {}
    if settings.kind == "local":
        from dire_plug.executors.local import run_local

        return run_local(units, settings)
    from dire_plug.executors.slurm import run_slurm

    return run_slurm(units, settings)


def make_or_raise(plan: Callable[[], Sequence[Unit]], settings: ExecutorSettings) -> None:
    """Make the units that `plan` returns, unless everything runs inline.

    Raises:
        DetachedError: jobs make them, and the command doesn't wait.
        DirePlugError: some weren't made; each is named with the last lines of its log.
    """
    if settings.kind == "inline":
        return
    units = list({unit.name: unit for unit in plan()}.values())
    if failed := make_units(units, settings):
        raise DirePlugError(describe([unit for unit in units if unit.name in failed], failed))


def describe(units: Sequence[Unit], why: Mapping[str, str]) -> str:
    """Return the error of units that weren't made: the ends of their logs, those that waited, and last the reasons."""
    lines = ["units of work weren't made; what is finished is kept, and the same command resumes"]
    ran = [unit for unit in units if why[unit.name] != BLOCKED]
    for unit in ran:
        if tail := read_tail(job_of(unit).log):
            lines += [f"the last lines of {job_of(unit).log}:", *tail]
    if blocked := [unit.title for unit in units if why[unit.name] == BLOCKED]:
        lines.append(f"not started, since they need these: {', '.join(blocked)}")
    return "\n".join([*lines, *(f"{unit.title}: {why[unit.name]}" for unit in ran)])
