"""Cancel jobs: tell the cluster, or the process on this machine, to end them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from dire_plug.executors.jobs import Job, Submitted
from dire_plug.store.lease import read_holder, started_at
from dire_plug.store.units import Unit


def cancel_jobs(found: Sequence[tuple[Job, Unit]], ids: Mapping[str, Submitted]) -> Iterator[str]:
    """Cancel queued and running jobs; yield a line on each.

    Those that wait for a cancelled one are dropped by the cluster itself.

    Args:
        ids: name of a unit → how it was submitted, of those that the cluster has.
    """
    for job, unit in found:
        if (submitted := ids.get(job.name)) is not None:
            done = subprocess.run(["scancel", submitted.id], check=False, capture_output=True, text=True)
            trouble = f"not cancelled: {unit.label} ({submitted.id}): {done.stderr.strip()}"
            yield trouble if done.returncode else f"cancelled {unit.label} ({submitted.id})"
            continue
        holder = read_holder(job.lease)
        if holder is None:
            yield f"{unit.label} has ended by itself"
        elif not holder.is_here():
            yield f"not cancelled: {unit.label}: it is made by {holder}; cancel it there"
        elif holder.pid == 1 or holder.started is None:
            yield f"not cancelled: {unit.label}: {job.lease} doesn't say for certain which process; end it by hand"
        elif started_at(holder.pid) != holder.started:
            yield f"{unit.label} has ended by itself"
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGTERM)
            yield f"cancelled {unit.label} ({holder})"
