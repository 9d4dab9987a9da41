"""The native loop in a process of its own, so that it can take turns: `python -m dire_plug.timing.native_child JOB`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch

from dire_plug.files import read_json
from dire_plug.models.checkpoint import load
from dire_plug.native import load_native
from dire_plug.plugins import load_adapter
from dire_plug.seeding import seed_everything
from dire_plug.stages.images import save_images
from dire_plug.synthesis import open_synthesis
from dire_plug.upstream.trace import StopScriptError
from dire_plug.upstream.turn import take_turns


def main(file: Path) -> None:
    """Run all passes of the job; end well where the parent wants no more steps."""
    job = read_json(file)
    torch.set_num_threads(job["threads"])
    synthesis = open_synthesis(job["spec"], lambda event: None)
    with contextlib.suppress(StopScriptError):
        take_turns(synthesis, job["turns"])
        for index in range(job["passes"]):
            _run_pass(synthesis, job, index)


def _run_pass(synthesis: Any, job: dict[str, Any], index: int) -> None:
    """Run one pass and save its images, as `stages.recover` does; upstream's script loads its network anew, too."""
    spec, adapter = job["spec"], load_adapter(job["spec"]["adapter"])
    native = load_native(adapter.name)
    network = load(Path(job["network"]), torch.device(spec["device"])).model.eval().requires_grad_(False)
    settings = native.read_settings(adapter.scripts[spec["recover"]["script"]], spec["recover"]["flags"])
    seed_everything(spec["seed"], index)
    synthesis.begin_pass(index)
    for images, labels, numbers in native.recover_pass(synthesis, network, settings):
        save_images(Path(job["images"]), adapter, images=images, labels=labels, numbers=numbers)
    synthesis.end_pass()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
