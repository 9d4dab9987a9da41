"""Where a run's numbers came from: versions, digests, hardware, seeds, engine, device, command."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dire_plug.files import read_json, write_json

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


def hardware(device: str) -> dict[str, Any]:
    """Return what the run computes on."""
    import torch

    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "device": device,
        "card": card,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


def session(device: str) -> dict[str, Any]:
    """Return what this process computes with: {"versions", "hardware", "command"}."""
    return {"versions": versions(), "hardware": hardware(device), "command": command()}


def record(path: Path, facts: Mapping[str, Any], *, device: str) -> None:
    """Write provenance.json: the facts, and this session behind those that worked on the same folder before."""
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
