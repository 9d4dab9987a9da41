"""Record where a run's numbers come from: versions, commit, digests, hardware, seeds, engine, device, command."""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dire_plug.files import read_json, write_json
from dire_plug.home import checkout

SHIPPED = ("dire_plug", "patches", "recipes", "pyproject.toml")
"""The paths of a checkout that decide what runs."""
PACKAGES = ("dire-plug", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True)
class Code:
    """The code that ran: a checkout may be anywhere between two versions.

    Attributes:
        commit: of the checkout, 40 hex digits; None for an installed package, or without git.
        changed: whether a file of the package differs from that commit; None without a commit.
    """

    commit: str | None
    changed: bool | None

    def __str__(self) -> str:
        """Return it as a table shows it."""
        if self.commit is None:
            return "no checkout of git"
        return f"commit {self.commit}{', changed since' if self.changed else ''}"


@cache
def code() -> Code:
    """Return the commit of the checkout that this package runs from, as it is at the first call."""
    root = checkout()
    if root is None or not (root / ".git").exists():
        return Code(None, None)
    # inside a hook of git these name the caller's repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    answers = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", *SHIPPED)):
        try:
            done = subprocess.run(
                ["git", *command], cwd=root, env=environment, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):  # no git, a repository of another user, no commit yet
            return Code(None, None)
        answers.append(done.stdout.strip())
    return Code(answers[0], bool(answers[1]))


def hardware(device: str) -> dict[str, Any]:
    """Return the hardware that a run on `device` uses."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "device": device,
        "card": gpu,  # the key in all provenance.json so far
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


def session(device: str) -> dict[str, Any]:
    """Return what this process computes with: {"versions", "code", "hardware", "command", "cluster"}."""
    return {
        "versions": versions(),
        "code": asdict(code()),
        "hardware": hardware(device),
        "command": command(),
        "cluster": cluster_job(),
    }


def cluster_job() -> dict[str, str] | None:
    """Return {"id", "partition", "node"} of the cluster's job that this process is part of; None outside of one."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "id": f"{array}_{task}" if array and task else number,
        "partition": os.environ.get("SLURM_JOB_PARTITION", ""),
        "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
    }


def record(path: Path, facts: Mapping[str, Any], *, device: str) -> None:
    """Write provenance.json: the facts, and this session after the earlier ones of the same folder."""
    before = read_json(path)["sessions"] if path.is_file() else []
    write_json(path, {**facts, "sessions": [*before, session(device)]})


def command() -> list[str]:
    """Return the command line, without the folder of the program; `python -m dire_plug` is written as `dire-plug`."""
    program = os.path.basename(sys.argv[0])
    return ["dire-plug" if program in ("__main__.py", "cli.py") else program, *sys.argv[1:]]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
