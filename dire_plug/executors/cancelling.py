"""Cancel jobs: tell the cluster, or the process on this machine, to end them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence

from dire_plug.executors.jobs import Job
from dire_plug.executors.slurm import submitted_ids
from dire_plug.pipeline.work_units import Unit


def cancel_jobs(found: Sequence[tuple[Job, Unit]]) -> Iterator[str]:
    """Cancel queued and running jobs; yield a line on each.

    Those that wait for a cancelled one are dropped by the cluster itself.
    """
    ids = submitted_ids()
    numbers = [ids[job.name] for job, _ in found if job.name in ids]
    if numbers:
        subprocess.run(["scancel", *numbers], check=False, capture_output=True)
    for job, unit in found:
        if job.name in ids:
            yield f"cancelled {unit.title} ({ids[job.name]})"
            continue
        progress = job.progress()
        if progress.get("host") != socket.gethostname():
            yield f"{unit.title} runs on {progress.get('host')}; cancel it there"
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(progress["pid"]), signal.SIGTERM)
        yield f"cancelled {unit.title} (process {progress['pid']})"
