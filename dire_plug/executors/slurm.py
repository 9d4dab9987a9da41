"""Run units on a SLURM cluster: as arrays with dependencies, submitted by submitit, or as plain scripts for sbatch.

Everything that a command submits it submits under one lease of the store, after it has looked at what the cluster still
has of earlier submissions. So the same command again, or another person's on the same store, submits what is missing
and nothing twice; what a second submission would make is waited for, or depended on.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.errors import DetachedError, DirePlugError
from dire_plug.executors.jobs import (
    BLOCKED,
    SUBMISSIONS,
    Job,
    State,
    Submitted,
    count_states,
    job_of,
    jobs_folder,
    jobs_table,
    state_of,
)
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.executors.worker import Stopped, stopping, work
from dire_plug.files import make_folder, read_json, write_atomically, write_json
from dire_plug.store.lease import hold
from dire_plug.store.provenance import cluster_job
from dire_plug.store.units import Unit, waits_for
from dire_plug.tables import with_notes
from dire_plug.upstream.runner import python_path

NAME = "dire-plug"
"""Of all jobs in the cluster's queue."""
ARRAY_SIZE = 1001
"""SLURM's own default of MaxArraySize, where the cluster doesn't tell."""
MOST_NAMED = 50
"""Tasks of one array that a dependency names; sbatch takes no list of thousands."""
POLL_SECONDS = 10.0
PATIENCE = 30
"""Failures of squeue in a row that a waiting command bears: a restart of the controller takes minutes."""
ROWS = 20
"""Jobs that a terminal shows while the command waits."""
FRUITLESS = 2
"""Stops by the time limit, of attempts that began at the start and finished nothing, that a unit may have."""
THREADS = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}}"'
CPUS = 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"'
"""srun doesn't take the number of cores from its job since SLURM 22.05."""


@dataclass(frozen=True)
class Array:
    """Units of one stage that are submitted as one array; one unit alone is a job without an array.

    Attributes:
        units: in the order of their tasks.
        after: names of the units that all of them wait for.
        matches: the number, among the arrays, of the one whose tasks they follow one by one.
    """

    units: tuple[Unit, ...]
    after: frozenset[str] = frozenset()
    matches: int | None = None


def plan_arrays(units: Sequence[Unit], *, array_size: int = ARRAY_SIZE) -> list[Array]:
    """Group units into arrays, in an order in which they can be submitted.

    Units of a stage that wait for the same ones form an array. Where each unit of a stage waits for one unit of an
    array, and these are the whole array, they form an array whose tasks follow its tasks one by one.

    Args:
        array_size: the most tasks of an array.
    """
    needs = waits_for(units)
    direct = {name: _direct(found, needs) for name, found in needs.items()}
    groups: dict[tuple[str, frozenset[str]], list[Unit]] = {}
    for unit in units:
        groups.setdefault((unit.stage, direct[unit.name]), []).append(unit)
    arrays: list[Array] = []
    place: dict[str, tuple[int, int]] = {}

    def add(members: Sequence[Unit], after: frozenset[str], matches: int | None = None) -> None:
        place.update({unit.name: (len(arrays), task) for task, unit in enumerate(members)})
        arrays.append(Array(tuple(members), after, matches))

    # units come in an order in which they can be made, so what a group waits for stands in an earlier one
    waiting = dict(groups)
    while waiting:
        ready = [key for key in waiting if key[1] <= place.keys()]
        alone: dict[tuple[str, int], dict[int, Unit]] = {}
        for stage, after in ready:
            members = waiting.pop((stage, after))
            if len(after) == len(members) == 1:
                array, task = place[next(iter(after))]
                if len(arrays[array].units) > 1:
                    alone.setdefault((stage, array), {})[task] = members[0]
                    continue
            for first in range(0, len(members), array_size):
                add(members[first : first + array_size], after)
        for (_, array), found in alone.items():
            ordered = [unit for _, unit in sorted(found.items())]
            if len(found) == len(arrays[array].units):
                add(ordered, frozenset(), array)
            else:
                for unit in ordered:
                    add([unit], direct[unit.name])
    return arrays


def _direct(found: set[str], needs: Mapping[str, set[str]]) -> frozenset[str]:
    """Return what a unit waits for, without what it waits for only because another one does."""
    return frozenset(found - {other for name in found for other in needs[name]})


# Submitting.


def run_slurm(units: Sequence[Unit], settings: ExecutorSettings) -> dict[str, str]:
    """Submit units and wait for them; return name of a unit → why it wasn't made.

    Raises:
        DetachedError: the jobs go on by themselves, or scripts were written for them.
        DirePlugError: there is no SLURM here, or it refuses a submission.
    """
    if settings.scripts is not None:
        raise DetachedError(write_scripts(units, settings, settings.scripts))
    if shutil.which("sbatch") is None:
        raise DirePlugError(
            "--executor slurm: sbatch isn't found; run this on a login node of the cluster, write plain scripts with "
            "--write-scripts FOLDER, or use --executor local"
        )
    submit(units, settings)
    if settings.detach:
        raise DetachedError(
            "slurm: submitted; `dire-plug jobs` shows them, and the same command shows the result when they are done"
        )
    try:
        return _wait(units)
    except KeyboardInterrupt:
        ui.say("slurm: the jobs go on; `dire-plug jobs` shows them, `dire-plug jobs cancel --all` ends them")
        raise


def submit(units: Sequence[Unit], settings: ExecutorSettings) -> None:
    """Submit those units that neither the cluster nor another process has; say of earlier attempts why they failed."""
    folder = jobs_folder() / SUBMISSIONS
    make_folder(folder)
    with hold(folder / "submit.lease", wait=float("inf"), what="the submission to the cluster") as lease:
        ids, queue = submitted_ids(), read_queue()
        todo, live = [], dict[str, str]()
        going = 0
        for unit in units:
            state = state_of(job_of(unit), unit, queue, ids.get(unit.name))
            if state.live:
                going += 1
                if unit.name in ids:  # else a process of `local`, or of a script, makes it: it can't be depended on
                    live[unit.name] = ids[unit.name].id
            elif state.word != "finished":
                todo.append(unit)
                if state.word != "waiting":
                    ui.say(f"slurm: {unit.label} is submitted again; before: {state}")
        if going:
            ui.say(f"slurm: {going} of {len(units)} units are being made already")
        arrays = plan_arrays(todo, array_size=_array_size())
        every = waits_for(units)
        numbers: list[str] = []
        for array in arrays:
            already = {live[name] for unit in array.units for name in every[unit.name] if name in live}
            after = _dependency(array, arrays, numbers, already)
            lease.require()
            number = _submit_array(array, after, settings, folder)
            numbers.append(number)
            ui.say(f"slurm: {number}: {_name_of(array)}{f' ({after})' if after else ''}")


def _name_of(array: Array) -> str:
    """Return the title of its first unit, and how many there are."""
    title, more = array.units[0].label, len(array.units) - 1
    return f"{title}, and {more} more" if more else title


def _dependency(array: Array, arrays: Sequence[Array], numbers: Sequence[str], already: set[str]) -> str:
    """Return an array's option --dependency: on the arrays submitted before it, and on jobs that are there already."""
    parts = [f"aftercorr:{numbers[array.matches]}"] if array.matches is not None else []
    wanted = _shorten(already)
    for number, other in zip(numbers, arrays, strict=False):
        tasks = [task for task, unit in enumerate(other.units) if unit.name in array.after]
        whole = len(tasks) == len(other.units) or len(tasks) > MOST_NAMED
        wanted += [number] if tasks and whole else [f"{number}_{task}" for task in tasks]
    if wanted:
        parts.append(":".join(["afterok", *sorted(wanted)]))
    return ",".join(parts)


def _shorten(already: Iterable[str]) -> list[str]:
    """Return jobs that are there already, with an array by its own number in place of many of its tasks."""
    of_array: dict[str, list[str]] = {}
    for one in already:
        of_array.setdefault(one.partition("_")[0], []).append(one)
    return [one for array, tasks in of_array.items() for one in ([array] if len(tasks) > MOST_NAMED else tasks)]


def _submit_array(array: Array, after: str, settings: ExecutorSettings, folder: Path) -> str:
    """Submit one array; return its number in the cluster."""
    try:
        import submitit
    except ImportError as error:
        raise DirePlugError(
            "--executor slurm needs submitit: pip install 'dire-plug[cluster]'; or write plain scripts with "
            "--write-scripts FOLDER"
        ) from error
    # written before the submission: a command that is killed in between is recognised by the comment
    name = uuid.uuid4().hex[:12]
    record: dict[str, Any] = {"units": [unit.name for unit in array.units], "number": None, "when": time.time()}
    write_json(folder / f"{name}.json", record)
    executor = submitit.SlurmExecutor(folder=folder / "submitit")
    options = {
        **_options(settings, array),
        "comment": f"{NAME} {name}",
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        **({"dependency": after} if after else {}),
    }
    executor.update_parameters(
        job_name=NAME,
        # submitit's own defaults: five minutes, and a key that clusters with accounting by keys refuse
        time=None,
        wckey=None,
        setup=[*settings.setup, THREADS, CPUS, "export PYTHONSAFEPATH=1", _export("PYTHONPATH")],
        signal_delay_s=settings.signal_seconds,
        stderr_to_stdout=True,
        additional_parameters=options,
        **({"array_parallelism": settings.max_jobs} if settings.max_jobs else {}),
    )
    folders = _write_jobs(array)
    try:
        jobs = executor.map_array(MakeUnit(), folders) if len(folders) > 1 else [executor.submit(MakeUnit(), *folders)]
    except submitit.core.utils.FailedJobError as error:
        (folder / f"{name}.json").unlink()
        raise DirePlugError(f"sbatch refuses {array.units[0].label}: {_reason(error)}") from error
    number = str(jobs[0].job_id).partition("_")[0]
    write_json(folder / f"{name}.json", {**record, "number": number})
    return number


def _write_jobs(array: Array) -> list[str]:
    """Write the job folders of an array's units; return them."""
    for unit in array.units:
        job_of(unit).write(unit)
    return [str(job_of(unit).folder) for unit in array.units]


def _options(settings: ExecutorSettings, array: Array) -> dict[str, Any]:
    """Return the user's options of sbatch; those without a value, such as `exclusive`, are True."""
    options = settings.options(array.units[0].stage)
    return {key: True if str(value).lower() in ("true", "") else value for key, value in options.items()}


def _export(name: str) -> str:
    return f"export {name}={shlex.quote(os.pathsep.join(python_path()))}"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return "; ".join(line.partition("error:")[2].strip() for line in lines) or str(error).strip().splitlines()[-1]


def write_scripts(units: Sequence[Unit], settings: ExecutorSettings, folder: Path) -> str:
    """Write a script for sbatch for each array, and `submit.sh`, which submits them all with their dependencies.

    Nothing but SLURM and this package is needed to run them; how far they are, `dire-plug jobs` tells.

    Returns:
        how to submit them, as a line for people.

    Raises:
        DirePlugError: the folder can't be written.
    """
    folder = folder.absolute()
    make_folder(folder)
    arrays = plan_arrays(units)
    lines = [
        "#!/bin/bash",
        "# Submits the scripts of this folder, each after those that it waits for.",
        "set -euo pipefail",
    ]
    for number, array in enumerate(arrays):
        file = f"{number:03d}-{array.units[0].stage}.sbatch"
        write_atomically(folder / file, _script(array, settings, folder))
        names = [f"${{job{other}}}" for other in range(number)]
        after = _dependency(array, arrays, names, set())
        option = f' --dependency="{after}"' if after else ""
        path = shlex.quote(str(folder / file))
        lines.append(f"job{number}=$(sbatch --parsable{option} {path}); job{number}=${{job{number}%%;*}}")
        lines.append(f'echo "$job{number}:" {shlex.quote(_name_of(array))}')
    write_atomically(folder / "submit.sh", "\n".join(lines) + "\n")
    (folder / "submit.sh").chmod(0o755)
    command = f"bash {shlex.quote(str(folder / 'submit.sh'))}"
    return f"slurm: {len(units)} units in {len(arrays)} scripts; submit them with: {command}"


def _script(array: Array, settings: ExecutorSettings, folder: Path) -> str:
    """Return a script for sbatch that makes the units of an array."""
    options: dict[str, Any] = {
        "job-name": NAME,
        "requeue": True,
        "open-mode": "append",
        "output": str(folder / ("%A_%a.out" if len(array.units) > 1 else "%j.out")),
        "signal": f"USR2@{settings.signal_seconds}",
        "kill-on-invalid-dep": "yes",
        "chdir": os.getcwd(),  # as sbatch by itself would: a recipe may name files from here
        **_options(settings, array),
    }
    if len(array.units) > 1:
        limit = f"%{settings.max_jobs}" if settings.max_jobs else ""
        options["array"] = f"0-{len(array.units) - 1}{limit}"
    flags = [
        f"#SBATCH --{key}" + ("" if value is True else f"={shlex.quote(str(value))}") for key, value in options.items()
    ]
    folders = shlex.join(_write_jobs(array))
    command = f"{shlex.quote(sys.executable)} -P -m dire_plug.executors.slurm"
    body = [*settings.setup, THREADS, CPUS, _export("PYTHONPATH"), f"units=({folders})"]
    return "\n".join(["#!/bin/bash", *flags, *body, f'srun {command} "${{units[${{SLURM_ARRAY_TASK_ID:-0}}]}}"', ""])


# In the job.


class MakeUnit:
    """What a job calls: make the unit of a job folder; at a signal, end in order and, where that helps, be requeued."""

    def __call__(self, folder: str) -> None:
        """Make the unit.

        Raises:
            RuntimeError: it wasn't made; the job must count as failed, so that what depends on it isn't started.
        """
        if code := make_in_job(Job(Path(folder))):
            raise RuntimeError(f"the unit wasn't made (exit code {code}); its log: {Job(Path(folder)).log}")


def make_in_job(job: Job) -> int:
    """Make a unit in a job of the cluster; return its exit code."""
    # the home that the job folder lies in, whatever the job's environment says
    os.environ["DIRE_PLUG_HOME"] = str(job.folder.parents[2])
    with stopping():
        try:
            return work(job, wait=True)
        except Stopped as stopped:
            # in here, where further signals are ignored
            _requeue(job, stopped)
            return 128 + stopped.signal


def _requeue(job: Job, stopped: Stopped) -> None:
    """Put the job back into the queue, unless the cluster ends it for good: then it must stay ended."""
    mine = cluster_job()
    if mine is None:
        return
    word = "RUNNING"
    with contextlib.suppress(DirePlugError):  # one that doesn't answer just now ends nothing for good
        word = read_queue().get(mine["id"], "").partition(" ")[0]
    # of a job that someone cancelled the cluster says COMPLETING or CANCELLED while it sends the signal; at the time
    # limit, and before a preemption, it says RUNNING
    if word not in ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING"):
        return
    if stopped.signal == signal.SIGUSR2 and (why := _fruitless(job)):
        job.set_state("failed", why=why)
        return
    print(f"{stopped.signal.name}: put back into the queue", flush=True)
    subprocess.run(["scontrol", "requeue", mine["id"]], check=False, capture_output=True)


def _fruitless(job: Job) -> str | None:
    """Return why another attempt would end as this one did: at the time limit, having begun at the start again."""
    progress = job.progress()
    if progress.get("resumed_at", 0) >= progress.get("done", 0) / 2:
        return None
    if (stops := job.count_stops(job.unit())) <= FRUITLESS:
        return None
    return (
        f"the time limit stopped it {stops} times, each time from the start: {progress.get('doing')} can't resume; it "
        f"came to {progress.get('done')} of {progress.get('total')}; give it more with --slurm time=…"
    )


# Waiting.


def _wait(units: Sequence[Unit]) -> dict[str, str]:
    """Show the units' states until nothing is to come of any; return name → why, of those that weren't made."""
    jobs = {unit.name: job_of(unit) for unit in units}
    by_name = {unit.name: unit for unit in units}
    needs = waits_for(units)
    said: dict[str, str] = {}
    states: dict[str, State] = {}
    unanswered = 0
    with ui.live() as show:
        while True:
            try:
                ids, queue = submitted_ids(), read_queue()
            except DirePlugError:
                if (unanswered := unanswered + 1) > PATIENCE:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            unanswered = 0
            # what is finished isn't looked at again: its files may be many, on a file system that is slow to list them
            states = {
                name: states[name]
                if name in states and states[name].word == "finished"
                else state_of(job, by_name[name], queue, ids.get(name))
                for name, job in jobs.items()
            }
            _say_what_ended(units, states, said)
            going = [unit for unit in units if states[unit.name].live]
            if not going:
                break
            rows = [(jobs[unit.name], unit, states[unit.name], ids.get(unit.name)) for unit in going]
            # those that run come first; a terminal has room for some
            rows.sort(key=lambda row: row[2].word != "running")
            show(with_notes(jobs_table(rows[:ROWS]), notes=[count_states(list(states.values()))]))
            time.sleep(POLL_SECONDS)
    lost = {name: state.why or state.word for name, state in states.items() if state.word != "finished"}
    # the cluster drops what waits for a job that failed; that isn't what to mend
    return {name: BLOCKED if needs[name] & lost.keys() else why for name, why in lost.items()}


def _say_what_ended(units: Sequence[Unit], states: Mapping[str, State], said: dict[str, str]) -> None:
    """Print a line on each unit that ended since the last call."""
    done = sum(one.word == "finished" for one in states.values())
    for unit in units:
        state = states[unit.name]
        if not state.live and said.get(unit.name) != state.word:
            said[unit.name] = state.word
            ui.say(f"slurm: {done}/{len(units)} {unit.label}: {state}")


def submitted_ids() -> dict[str, Submitted]:
    """Return name of a unit → how it was submitted last."""
    found: list[tuple[float, dict[str, Any]]] = []
    for file in (jobs_folder() / SUBMISSIONS).glob("*.json"):
        record = read_json(file)
        if record["number"] is None and (number := _by_comment(file.stem)) is not None:
            record["number"] = number
            write_json(file, record)
        if record["number"] is not None:
            found.append((record["when"], record))
    ids: dict[str, Submitted] = {}
    for when, record in sorted(found, key=lambda pair: pair[0]):
        several = len(record["units"]) > 1
        for task, name in enumerate(record["units"]):
            ids[name] = Submitted(f"{record['number']}_{task}" if several else record["number"], when)
    return ids


def _by_comment(name: str) -> str | None:
    """Return the number of the array that was submitted with this comment, by a command that was killed just then."""
    for line in _ask_queue("%F|%k"):
        number, _, comment = line.partition("|")
        if comment.strip() == f"{NAME} {name}":
            return number
    return None


def read_queue() -> dict[str, str]:
    """Return id → state and reason, such as "PENDING (Priority)", of what the cluster knows of our jobs."""
    found = {}
    for line in _ask_queue("%i|%F|%K|%T|%r"):
        job, array, task, word, reason = line.split("|", 4)
        found[f"{array}_{task}" if task.isdigit() else job] = f"{word} ({reason})"
    return found


def _ask_queue(layout: str) -> Iterable[str]:
    """Return squeue's lines on all jobs of our name, whoever submitted them; those that just ended too."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--name={NAME}", f"--format={layout}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        return []
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise DirePlugError(f"squeue can't be asked ({error}); the jobs go on; try again later") from error
    return done.stdout.splitlines()


def _array_size() -> int:
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    sizes = [line.partition("=")[2] for line in done.stdout.splitlines() if line.startswith("MaxArraySize")]
    return max(1, int(sizes[0]) - 1) if sizes else ARRAY_SIZE


if __name__ == "__main__":
    sys.exit(make_in_job(Job(Path(sys.argv[1]))))
