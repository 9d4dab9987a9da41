"""Run an upstream script in a child process; it succeeded only if the child reports so."""

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dire_plug import home
from dire_plug.errors import DirePlugError, PluginError, UpstreamFailedError
from dire_plug.files import make_folder
from dire_plug.seeding import CUBLAS_WORKSPACE
from dire_plug.store.scratch import scratch_folder, scratch_root
from dire_plug.upstream.job import ChildJob

Event = dict[str, Any]
TAIL = 15
"""Lines of the child's output that an error shows."""
PATIENCE = 5.0
"""Seconds between asking the child to end and killing it."""

_LOADING = ("PATH", "LANG", "LANGUAGE", "TZ", "TERM", "LD_LIBRARY_PATH", "LD_PRELOAD")
_CUDA = ("CUDA_HOME", "CUDA_PATH", "CUDA_DEVICE_ORDER")  # by the order we and the child number the devices alike
_KEPT = (*_LOADING, *_CUDA)
_KEPT_PREFIXES = ("LC_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "NVIDIA_", "PYTORCH_", "TORCH_", "DIRE_PLUG_")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL")
"""What a name of a variable contains that may hold a credential, such as NVIDIA_API_KEY: upstream's code gets none."""


def run_child(job: ChildJob, *, log: Path, on_event: Callable[[Event], None]) -> None:
    """Run the job in a child process; hand its events to `on_event` as they come and its output to `log`.

    When this process dies, however it dies, the child ends; an exception here stops it too.

    Raises:
        UpstreamFailedError: the script failed; the message has its last lines and the log's path.
        PluginError, DirePlugError: a plugin, or something that the user can fix, failed in the child.
    """
    scratch = make_scratch(job.folder)
    make_folder(log.parent)
    visible, device = visible_device(job.device, gpus=job.gpus)
    job_file = replace(job, device=device).write()
    # a resumed run adds to its log; an error shows lines of this attempt only
    began = log.stat().st_size if log.exists() else 0
    last: Event = {}
    with (
        _temporary(scratch) as tmp,
        _child(job_file, child_environment(job, scratch, visible, tmp=tmp), cwd=scratch / "cwd", log=log) as (
            process,
            events,
        ),
    ):
        # iterated and then waited for: a reader that polls can miss the last lines
        for line in events:
            last = json.loads(line)
            if last["event"] not in ("error", "finished"):
                on_event(last)
        status = process.wait()
    check_end(job, last, status=status, log=log, began=began)


def run_alone(jobs: Sequence[ChildJob], *, logs: Sequence[Path]) -> None:
    """Run jobs one after the other, as `run_child`; their events are dropped."""
    for job, log in zip(jobs, logs, strict=True):
        run_child(job, log=log, on_event=lambda event: None)


def check_end(job: ChildJob, last: Event, *, status: int, log: Path, began: int) -> None:
    """Remove the scratch of a job that has finished.

    Args:
        last: its last event, {} where it emitted none.
        status: as `Popen.wait` returns it.
        began: the byte at which this attempt's part of the log begins.

    Raises:
        UpstreamFailedError, PluginError, DirePlugError: it hasn't: as `run_child`.
    """
    if last.get("event") == "error":
        raise {"plugin": PluginError, "user": DirePlugError}[last["kind"]](last["message"])
    if status != 0 or last.get("event") != "finished":
        raise UpstreamFailedError(_failure(job, status, log, began))
    shutil.rmtree(job.folder / "scratch", ignore_errors=True)


def visible_gpus() -> list[str]:
    """Return the names in CUDA_VISIBLE_DEVICES; empty where it isn't set."""
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]


def visible_device(device: str, *, gpus: int = 1) -> tuple[str, str]:
    """Return CUDA_VISIBLE_DEVICES for a child that may use `device` alone, and how the child calls it.

    Args:
        gpus: how many GPUs the child sees, from `device` on.

    Raises:
        DirePlugError: there aren't so many.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return "", device
    mine = visible_gpus()
    number = int(index or 0)
    if mine and number >= len(mine):
        raise DirePlugError(f"device {device}: CUDA_VISIBLE_DEVICES={','.join(mine)} shows {len(mine)} device(s)")
    if mine and number + gpus > len(mine):
        raise DirePlugError(
            f"--gpus-per-job {gpus}: from {device} on, CUDA_VISIBLE_DEVICES={','.join(mine)} shows "
            f"{len(mine) - number}; lower the number, or show more"
        )
    chosen = mine[number : number + gpus] or [str(one) for one in range(number, number + gpus)]
    return ",".join(chosen), "cuda:0"


@contextlib.contextmanager
def _child(
    job_file: Path, environment: dict[str, str], *, cwd: Path, log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """Start the child; yield it and the lines of its events; at the end it is stopped and reaped, whatever happens."""
    events_read, events_write = os.pipe()
    life_read, life_write = os.pipe()  # nobody writes; the child sees it close when this process is gone
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*child_command(job_file), str(events_write), str(life_read)],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(events_write, life_read),
                # a group of its own, so that it can be stopped with all that it started
                start_new_session=True,
            )
    except BaseException:
        for handle in (events_read, events_write, life_read, life_write):
            os.close(handle)
        raise
    os.close(events_write)
    os.close(life_read)
    try:
        with os.fdopen(events_read, encoding="utf-8") as events:
            yield process, events
    finally:
        _stop(process)
        os.close(life_write)


def child_command(job_file: Path) -> list[str]:
    """Return the command of the child, without the numbers of its two pipes."""
    return [sys.executable, "-P", "-u", "-m", "dire_plug.upstream.child", str(job_file)]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the child and what it started to end, then kill, then reap."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        # the group, even after the child itself has ended: what it started may still run
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def make_scratch(folder: Path) -> Path:
    """Make the empty folder of a child's home, working folder and temporary files; return it."""
    scratch = folder.absolute() / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    for name in ("home", "cwd", "tmp"):
        make_folder(scratch / name)
    return scratch


@contextlib.contextmanager
def _temporary(scratch: Path) -> Iterator[Path]:
    """Yield the child's folder of temporary files: on the machine's own disk where there is one."""
    if (root := scratch_root(home.store())) is None:
        yield scratch / "tmp"
        return
    with scratch_folder(root, "child") as folder:
        yield folder


def child_environment(job: ChildJob, scratch: Path, visible: str, *, tmp: Path) -> dict[str, str]:
    """Return the child's whole environment: only what Python and torch need of ours, so no credentials."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or (name.startswith(_KEPT_PREFIXES) and not any(part in name.upper() for part in _SECRET))
    }
    return kept | {
        "HOME": str(scratch / "home"),
        "TMPDIR": str(tmp),
        "DIRE_PLUG_HOME": str(home.home()),
        "CUDA_VISIBLE_DEVICES": visible,
        "CUBLAS_WORKSPACE_CONFIG": CUBLAS_WORKSPACE,
        "OMP_NUM_THREADS": str(job.threads),
        "WANDB_MODE": "disabled",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",  # nothing is written into upstream's tree; our own caches are still read
        "PYTHONPATH": os.pathsep.join(python_path()),
        **_user_site(),
    }


def python_path() -> list[str]:
    """Return ours, absolute because the child works elsewhere, and the checkout where we run from one."""
    ours = [os.path.abspath(name) for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]
    checkout = home.checkout()
    return [*ours, str(checkout)] if checkout else ours


def _user_site() -> dict[str, str]:
    """Keep packages of `pip install --user` in sight although HOME is another; else turn the user's site off."""
    return {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {"PYTHONNOUSERSITE": "1"}


def _failure(job: ChildJob, status: int, log: Path, began: int) -> str:
    how = f"ended with status {status}"
    if status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
        how += " (the machine may be out of memory)" if -status == signal.SIGKILL else ""
    elif status == 0:
        how = "ended the process before its last pass was done"
    return "\n".join([f"upstream's {job.script} {how}; its last lines:", *read_tail(log, since=began), f"log: {log}"])


def read_tail(log: Path, *, since: int = 0) -> list[str]:
    """Return the last lines of a log, indented, as an error shows them.

    Args:
        since: the byte from which to read.
    """
    with log.open("rb") as file:
        file.seek(since)
        return [f"  {line}" for line in file.read().decode(errors="replace").splitlines()[-TAIL:]]
