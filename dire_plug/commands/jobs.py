"""`dire-plug jobs`: show, cancel and read the jobs of executors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from dire_plug import ui
from dire_plug.commands.options import JSON
from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from dire_plug.executors.jobs import Job, State, Submitted
    from dire_plug.store.units import Unit


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help="Also those that are finished.")
@JSON
@click.pass_context
def jobs(context: click.Context, everything: bool) -> None:
    """Show jobs of `--executor local` and `slurm`, cancel them.

    It needs nothing of the cluster's accounting, and shows the jobs of everyone who uses this store.
    """
    if context.invoked_subcommand is not None:
        return
    from dire_plug.executors.jobs import count_states, jobs_folder, jobs_table

    found, _, _ = _look()
    shown = [one for one in found if everything or one[2].word != "finished"]
    counts = count_states([one[2] for one in found]) or f"no jobs in {jobs_folder()}"
    tables: list[RenderableType] = [jobs_table(shown)] if shown else []
    words = {one[2].word for one in shown}
    if "waiting" in words and not words & {"queued", "running"}:
        counts += "; nothing works on those that wait: the command that asked for them, given again, makes them"
    ui.result(*tables, counts, data=lambda: [_to_json(*one) for one in shown])


@jobs.command()
@click.argument("names", nargs=-1, metavar="[JOB]...")
@click.option("--all", "everything", is_flag=True, help="All that are queued or run.")
def cancel(names: tuple[str, ...], everything: bool) -> None:
    """Cancel jobs by name or by the cluster's id.

    The beginning of a name will do; what is finished is kept.
    """
    from dire_plug.executors.cancelling import cancel_jobs
    from dire_plug.executors.jobs import QUEUED, RUNNING, find_job

    if bool(names) == everything:
        raise DirePlugError("name jobs to cancel, as `dire-plug jobs` lists them, or give --all")
    found, queue, ids = _look()
    chosen = {find_job(name, ids).name for name in names}
    live = [(job, unit) for job, unit, state, _ in found if state.live and (everything or job.name in chosen)]
    known = {name: one for name, one in ids.items() if queue.get(one.id, "").partition(" ")[0] in (*QUEUED, *RUNNING)}
    for line in cancel_jobs(live, known):
        ui.show(line)
    if not live:
        ui.show("none of them is queued or runs")


@jobs.command()
@click.argument("name", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until interrupted.")
def logs(name: str, follow: bool) -> None:
    """Print a job's log."""
    from dire_plug.executors.jobs import cluster_log, find_job
    from dire_plug.executors.slurm import submitted_ids

    ids = submitted_ids()
    job = find_job(name, ids)
    # what went wrong before the unit began stands in the cluster's own log
    file = job.log if job.log.is_file() or job.name not in ids else cluster_log(ids[job.name].id)
    if not file.is_file():
        raise DirePlugError(f"{job.log}: not there yet; the job hasn't started")
    with file.open(errors="replace") as log:
        ui.show(log.read().rstrip("\n"))
        while follow:
            if more := log.read():
                ui.show(more.rstrip("\n"))
            time.sleep(1)


def _look() -> tuple[list[tuple[Job, Unit, State, Submitted | None]], dict[str, str], dict[str, Submitted]]:
    """Return every job with its unit, state and submission; the cluster's queue; and all submissions."""
    from dire_plug.executors.jobs import list_jobs, state_of
    from dire_plug.executors.slurm import read_queue, submitted_ids

    ids = submitted_ids()
    queue = read_queue() if ids else {}
    found = []
    for job in list_jobs():
        try:
            unit = job.unit()
        except DirePlugError as error:
            ui.warn(str(error))
            continue
        submitted = ids.get(job.name)
        found.append((job, unit, state_of(job, unit, queue, submitted, quickly=True), submitted))
    return found, queue, ids


def _to_json(job: Job, unit: Unit, state: State, submitted: Submitted | None) -> dict[str, Any]:
    return {
        "job": job.name,
        "unit": unit.title,
        "of": unit.of,
        "state": state.word,
        "why": state.why or None,
        "cluster": submitted.id if submitted else None,
        "log": str(job.log),
        "makes": list(unit.makes),
        "progress": job.progress() or None,
    }
