"""Runs a side's synthesis in a process of its own: upstream's patched script, or the native loop."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, read_json, write_json
from dire_plug.models.checkpoint import load
from dire_plug.paper.timing.sides import Side
from dire_plug.plugins import load_adapter
from dire_plug.stages.recover import child_job, run_native_pass
from dire_plug.stages.squeeze import network_file
from dire_plug.synthesis import SynthesisSpec, open_synthesis
from dire_plug.upstream.interleave import take_turns
from dire_plug.upstream.runner import read_tail, run_child
from dire_plug.upstream.trace import StopScriptError

FOLDERS = ("images", "passes")


def run_side(side: Side, turns: Mapping[str, Any] | None) -> None:
    """Run the side's synthesis to its end, or until its line for turns is closed.

    Args:
        turns: see `interleave.take_turns`; None lets it run by itself.

    Raises:
        DirePlugError: the child failed; the message has its last lines.
    """
    for name in FOLDERS:
        shutil.rmtree(side.folder / name, ignore_errors=True)
        make_folder(side.folder / name)
    (_run_upstream if side.run.engine == "upstream" else _run_native)(side, turns)


@dataclass(frozen=True)
class Took:
    """Seconds of a whole synthesis: on the clock, and of the processor, with what starts and ends the process."""

    wall: float
    cpu: float


def run_whole(side: Side) -> Took:
    """Run the side's synthesis from beginning to end, while nothing else of ours runs."""
    wall, cpu = time.perf_counter(), _children_seconds()
    run_side(side, None)
    return Took(time.perf_counter() - wall, _children_seconds() - cpu)


def _children_seconds() -> float:
    """Return the processor's seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _run_upstream(side: Side, turns: Mapping[str, Any] | None) -> None:
    child = child_job(
        side.run,
        side.spec,
        networks=side.networks,
        inputs=side.inputs,
        passes=range(side.run.plan.passes),
        folder=side.folder,
    )
    run_child(replace(child, turns=turns), log=side.folder / "log.txt", on_event=lambda event: None)


def _run_native(side: Side, turns: Mapping[str, Any] | None) -> None:
    file, log = side.folder / "native.json", side.folder / "log.txt"
    content = {
        "spec": side.spec.to_json(),
        "network": str(network_file(side.run, side.networks.teacher)),
        "passes": side.run.plan.passes,
        "images": str(side.folder / "images"),
        "threads": torch.get_num_threads(),
        "turns": turns,
    }
    write_json(file, content)
    with log.open("ab") as output:
        command = [sys.executable, "-P", "-m", "dire_plug.paper.timing.children", str(file)]
        environment = os.environ | {"OMP_NUM_THREADS": str(content["threads"])}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        raise DirePlugError(_failure(side.name, done.returncode, log))


def _failure(name: str, status: int, log: Path) -> str:
    return "\n".join([f"{name}: the native loop ended with status {status}; its last lines:", *read_tail(log)])


# The native loop in a process of its own, so that it can take turns: `python -m dire_plug.paper.timing.children JOB`.


def main(file: Path) -> None:
    """Run all passes of the job; end well where the parent wants no more steps."""
    job = read_json(file)
    torch.set_num_threads(job["threads"])
    spec = SynthesisSpec(**job["spec"])
    adapter = load_adapter(spec.adapter)
    synthesis = open_synthesis(job["spec"], lambda event: None)
    with contextlib.suppress(StopScriptError):
        take_turns(synthesis, job["turns"])
        for index in range(job["passes"]):
            # anew for each pass, as upstream's script loads it
            network = load(Path(job["network"]), torch.device(spec.device)).model.eval().requires_grad_(False)
            run_native_pass(synthesis, network, adapter, spec, index=index, images=Path(job["images"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
