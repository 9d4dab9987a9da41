"""Run requests by the executor that the user chose: first all that the store lacks, then each run put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pluggy

from dire_plug import plugins, ui
from dire_plug.acceleration import find_able
from dire_plug.errors import DirePlugError, UnitsFailedError
from dire_plug.executors.jobs import BLOCKED, job_of
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.files import read_json
from dire_plug.pipeline import plan_run, run_arm
from dire_plug.pipeline.request import with_data
from dire_plug.pipeline.run import announce, check_run, name_artefacts
from dire_plug.pipeline.work_units import units_of
from dire_plug.recipe import read_yaml
from dire_plug.store.runs import LOSSES, FinishedRun, Request, choose_device
from dire_plug.store.units import Unit, once
from dire_plug.upstream.runner import read_tail


class Runner:
    """Runs the requests of a command by an executor.

    With `inline` all is made when a run is asked for, one stage after another. With the others `prepare` makes it.
    """

    def __init__(self, settings: ExecutorSettings | None = None, *, log: Sequence[str] = ()) -> None:
        """Take the executor's settings, None runs inline, and the names of loggers, which get every finished run.

        Raises:
            DirePlugError: there is no such logger, or what it needs isn't installed.
        """
        self._loggers = plugins.load_loggers(log) if log else None
        self._settings = settings or ExecutorSettings()
        self._units: dict[Request, list[Unit]] = {}
        self._failed: dict[str, str] = {}
        self._checked: set[Request] = set()

    def prepare(self, requests: Iterable[Request], *, skip_bad: bool = False) -> None:
        """Check some runs and make all that the store lacks of them, so that asking for them only puts them together.

        `inline` checks one seed of each, where they differ in more than seeds, and makes nothing yet. What fails is
        raised when the run that needs it is asked for, and isn't tried again.

        Args:
            skip_bad: whether a request that can't be planned is left to that moment too.

        Raises:
            DetachedError: jobs work for the runs, and the command doesn't wait for them.
            DirePlugError: a request is bad, its data aren't there, or a late stage would refuse it.
        """
        if self._settings.kind == "inline":
            if not skip_bad:
                self._check(requests)
            return
        for request in dict.fromkeys(map(self.pin, requests)):
            if request not in self._units:
                with contextlib.suppress(DirePlugError) if skip_bad else contextlib.nullcontext():
                    # planned on the CPU: what this machine's GPU can't do, that of a job may
                    planned = replace(request, device="cpu", gpus=self._settings.gpus_per_job)
                    run = with_data(plan_run(planned))
                    announce(run)
                    units = units_of(run)
                    self._units[request] = [_on_device(unit, request.device) for unit in units]
        self._make(unit for units in self._units.values() for unit in units)

    def _check(self, requests: Iterable[Request]) -> None:
        """Raise for what a late stage of some runs would refuse; one seed stands for all."""
        alike = {replace(request, seed=0): request for request in requests}
        # where all are of one kind, the first one is checked when it is run, which is next
        for kind, request in alike.items() if len(alike) > 1 else ():
            if kind not in self._checked:
                run = with_data(plan_run(request))
                check_run(run, name_artefacts(run))
                self._checked.add(kind)

    def make(self, plan: Callable[[], Iterable[Unit]]) -> None:
        """Make the units that `plan` returns, unless everything runs inline.

        Raises:
            DetachedError: jobs make them, and the command doesn't wait.
            UnitsFailedError: some weren't made; each is named with the last lines of its log.
        """
        if self._settings.kind != "inline":
            units = list(plan())
            self._make(units)
            self._raise_for(units)

    def run(self, request: Request) -> FinishedRun:
        """Return a finished run: see `pipeline.run_arm`.

        Raises:
            UnitsFailedError: units that it needs weren't made; each is named with the last lines of its log.
        """
        request = self.pin(request)
        self._raise_for(self._units.get(request, ()))
        finished = run_arm(request)
        if self._loggers is not None:
            path = finished.folder.path
            losses = read_json(path / LOSSES) if (path / LOSSES).is_file() else None
            recipe = read_yaml(path / "recipe.yaml")
            for logger in self._loggers.hook.run_done.get_hookimpls():
                call_logger(logger, folder=path, recipe=recipe, metrics=finished.metrics, losses=losses)
        return finished

    def pin(self, request: Request) -> Request:
        """Return the request with what `--accelerate fast` stands for where it works: all jobs make the same artefacts.

        Raises:
            DirePlugError: with `slurm`, nobody said what the nodes can do; this machine may be another kind.
        """
        if request.accelerate != "fast" or request.able is not None or self._settings.kind == "inline":
            return request
        if self._settings.kind == "local":
            return replace(request, able=find_able(choose_device(request.device)))
        if self._settings.able is None:
            raise DirePlugError(
                "--accelerate fast with --executor slurm: it isn't known what the nodes can do; name it, "
                "--slurm able=bf16,tf32,channels-last,compile for GPUs since Ampere with triton and a compiler, or "
                "`able` below `slurm` in the config file; `dire-plug doctor` in a job says what its node can do"
            )
        return replace(request, able=self._settings.able)

    def _make(self, units: Iterable[Unit]) -> None:
        missing = [unit for unit in once(units) if unit.name not in self._failed and not job_of(unit).is_made(unit)]
        if not missing:
            return
        if self._settings.kind == "local":
            from dire_plug.executors.local import run_local

            self._failed |= run_local(missing, self._settings)
        else:
            from dire_plug.executors.slurm import run_slurm

            self._failed |= run_slurm(missing, self._settings)

    def _raise_for(self, units: Sequence[Unit]) -> None:
        if lost := [unit for unit in units if unit.name in self._failed]:
            raise UnitsFailedError(describe(lost, self._failed))


def call_logger(logger: pluggy.HookImpl, **arguments: Any) -> None:
    """Call one logger; what it raises is a warning, since the run is finished and kept."""
    try:
        logger.function(*(arguments[name] for name in logger.argnames))
    except Exception as error:
        ui.warn(f"--log {logger.plugin_name}: {type(error).__name__}: {error}; the run itself is finished and kept")


def _on_device(unit: Unit, device: str) -> Unit:
    """Return the unit with the device on which it is made."""
    return replace(unit, device=device, subject={**unit.subject, "device": device})


def describe(units: Sequence[Unit], why: Mapping[str, str]) -> str:
    """Return the error of units that weren't made: the ends of their logs, those that waited, and last the reasons."""
    lines = ["units of work weren't made; what is finished is kept, and the same command resumes"]
    ran = [unit for unit in units if why[unit.name] != BLOCKED]
    for unit in ran:
        if (log := job_of(unit).log).is_file():
            lines += [f"the last lines of {log}:", *read_tail(log)]
    if blocked := [unit.label for unit in units if why[unit.name] == BLOCKED]:
        lines.append(f"not started, since they need these: {', '.join(blocked)}")
    return "\n".join([*lines, *(f"{unit.label}: {why[unit.name]}" for unit in ran)])
