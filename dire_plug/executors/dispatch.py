"""Make all that some runs lack by the executor that the user chose, before a command puts the runs together."""

from __future__ import annotations

from collections.abc import Sequence

from dire_plug.errors import DirePlugError
from dire_plug.executors.jobs import job_of, tail
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.pipeline.run import announce
from dire_plug.pipeline.work_units import Unit, plan_units
from dire_plug.store.runs import Request

Failures = dict[Unit, str]
"""Unit → why it wasn't made."""


def make_all(requests: Sequence[Request], settings: ExecutorSettings) -> bool:
    """Make all that the store lacks of some runs; return whether the command can go on: else jobs work for it.

    With `inline` nothing is made here: the runs themselves do.

    Raises:
        DirePlugError: units failed; each is named with the last lines of its log, and what the others made is kept.
    """
    failures = try_all(requests, settings)
    if failures:
        raise DirePlugError(describe(failures))
    return failures is not None


def try_all(requests: Sequence[Request], settings: ExecutorSettings) -> Failures | None:
    """Make all that the store lacks of some runs; return the units that weren't made; None where jobs go on."""
    if settings.kind == "inline":
        return {}
    units = plan_units(requests)
    if not units:
        return {}
    for request in requests:
        announce(request)
    if settings.kind == "local":
        from dire_plug.executors.local import run_local

        failed: dict[str, str] | None = run_local(units, settings)
    else:
        from dire_plug.executors.slurm import run_slurm

        failed = run_slurm(units, settings)
    if failed is None:
        return None
    by_name = {unit.name: unit for unit in units}
    return {by_name[name]: why for name, why in failed.items()}


def describe(failures: Failures) -> str:
    """Return the error of units that weren't made: those that ran with the end of their logs, then the others."""
    lines: list[str] = []
    blocked = []
    for unit, why in failures.items():
        log = job_of(unit).log
        if not log.is_file():
            blocked.append(f"{unit.title} ({why})")
            continue
        lines += [f"{unit.title}: {why}; its last lines:", *tail(log), f"  log: {log}"]
    if blocked:
        lines.append(f"not started: {', '.join(blocked)}")
    return "\n".join([*lines, "what is finished is kept; the same command resumes"])
