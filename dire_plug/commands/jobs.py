"""`dire-plug jobs`: show, cancel and read the jobs of executors."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from dire_plug import ui
from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from dire_plug.executors.jobs import Job, State
    from dire_plug.pipeline.work_units import Unit


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help="Also those that are finished.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def jobs(context: click.Context, everything: bool, as_json: bool) -> None:
    """Show the jobs that `--executor local` and `slurm` work on: state, progress, host, log.

    It needs nothing of the cluster's accounting, and shows the jobs of everyone who uses this store.
    """
    if context.invoked_subcommand is not None:
        return
    from dire_plug.executors.jobs import count_states, jobs_folder, jobs_table

    found = _states()
    shown = [one for one in found if everything or one[2].word != "finished"]
    if as_json:
        ui.show(json.dumps([_to_json(*one) for one in shown], indent=2, ensure_ascii=False))
        return
    if shown:
        ui.show(jobs_table(shown))
    ui.show(count_states([one[2] for one in found]) or f"no jobs in {jobs_folder()}")


@jobs.command()
@click.argument("names", nargs=-1, metavar="[JOB]...")
@click.option("--all", "everything", is_flag=True, help="All that are queued or run.")
def cancel(names: tuple[str, ...], everything: bool) -> None:
    """Cancel jobs, by the beginning of a name or the cluster's id; what is finished is kept."""
    from dire_plug.executors.cancelling import cancel_jobs
    from dire_plug.executors.jobs import find_job

    if bool(names) == everything:
        raise DirePlugError("name jobs to cancel, as `dire-plug jobs` lists them, or give --all")
    chosen = {find_job(name).name for name in names}
    live = [(job, unit) for job, unit, state, _ in _states() if state.live and (everything or job.name in chosen)]
    for line in cancel_jobs(live):
        ui.show(line)
    if not live:
        ui.show("none of them is queued or runs")


@jobs.command()
@click.argument("name", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until interrupted.")
def logs(name: str, follow: bool) -> None:
    """Print a job's log."""
    from dire_plug.executors.jobs import find_job

    file = find_job(name).log
    if not file.is_file():
        raise DirePlugError(f"{file}: not there yet; the job hasn't started")
    with file.open(errors="replace") as log:
        ui.show(log.read().rstrip("\n"))
        while follow:
            if more := log.read():
                ui.show(more.rstrip("\n"))
            time.sleep(1)


def _states() -> list[tuple[Job, Unit, State, str | None]]:
    """Return every job with its unit, its state, and its id in the cluster."""
    from dire_plug.executors.jobs import list_jobs, state_of
    from dire_plug.executors.slurm import read_queue, submitted_ids

    ids = submitted_ids()
    queue = read_queue() if ids else {}
    found = []
    for job in list_jobs():
        unit = job.unit()
        found.append((job, unit, state_of(job, unit, queue, ids.get(job.name)), ids.get(job.name)))
    return found


def _to_json(job: Job, unit: Unit, state: State, number: str | None) -> dict[str, Any]:
    return {
        "job": job.name,
        "unit": unit.title,
        "state": state.word,
        "why": state.why or None,
        "cluster": number,
        "log": str(job.log),
        "makes": list(unit.makes),
        "progress": job.progress() or None,
    }
