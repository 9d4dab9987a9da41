"""Synthesize the images of one run, by upstream's patched script or by the native loop, pass by pass.

What is left in the run folder: `images/`, as upstream saves them, and `images.safetensors`, the tensors before saving.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.files import digest_file, make_folder, read_json, write_json
from dire_plug.stages.gather import gather_tensors
from dire_plug.stages.images import TENSORS, save_images
from dire_plug.stages.inputs import prepare_upstream
from dire_plug.stages.job import Job
from dire_plug.stages.specify import synthesis_spec
from dire_plug.stages.squeeze import MAIN, squeeze
from dire_plug.synthesis import SynthesisSpec, finished_passes, open_synthesis
from dire_plug.types import Plan

if TYPE_CHECKING:
    from dire_plug.ui import Advance
    from dire_plug.upstream.job import ChildJob


def recover(job: Job) -> None:
    """Run the passes that aren't finished; then write images.safetensors.

    Raises:
        UpstreamFailedError: upstream's script failed; finished passes are kept.
        PluginError: a plugin raised or answered what cannot be used.
    """
    plan = job.plan
    networks = squeeze(job)
    teachers = networks.in_loop
    spec = synthesis_spec(job, networks)
    _start_again_where_inputs_changed(job, teachers, spec)
    if (job.folder / TENSORS).is_file():
        return
    make_folder(job.folder / "passes")
    make_folder(job.folder / "images")
    first = finished_passes(spec.passes, plan.passes)
    if first:
        ui.say(f"recover: {first} of {plan.passes} passes were finished before")
    started = time.monotonic()
    if first == plan.passes:
        gather_tensors(job, plan)
        return
    with ui.progress(f"recover ({job.arm}, {job.engine})", plan.passes * plan.slots_per_pass * spec.steps) as advance:
        run = _run_upstream if job.engine == "upstream" else _run_native
        run(
            job,
            spec,
            teachers=teachers,
            passes=range(first, plan.passes),
            on_event=_Progress(plan, spec.steps, advance),
        )
    gather_tensors(job, plan)
    write_json(job.folder / "seconds.json", {"seconds": time.monotonic() - started, "resumed_at_pass": first})


def _start_again_where_inputs_changed(job: Job, teachers: Mapping[str, Path], spec: SynthesisSpec) -> None:
    """Drop what was recovered from another teacher, other real embeddings or other start images, and say so.

    The same settings give another teacher with another version of torch, or on another device with an empty cache.
    """
    files = {**{name: str(file) for name, file in teachers.items()}, "start": spec.start["file"]}
    files |= {f"real of {name}": file for name, file in spec.real.items()}
    inputs = {name: digest_file(Path(file)) for name, file in files.items() if file}
    record = job.folder / "inputs.json"
    if record.is_file() and read_json(record) != inputs:
        ui.warn("the teacher, its embeddings or the start images are others than before; recover starts again")
        shutil.rmtree(job.folder / "passes", ignore_errors=True)
        shutil.rmtree(job.folder / "images", ignore_errors=True)
        (job.folder / TENSORS).unlink(missing_ok=True)
    write_json(record, inputs)


class _Progress:
    """Turns the events of a synthesis into the progress of a bar."""

    def __init__(self, plan: Plan, steps: int, advance: Advance) -> None:
        self._slots, self._steps, self._advance = plan.slots_per_pass, steps, advance

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("event") == "step":
            done = (event["pass"] * self._slots + event["batch"]) * self._steps + event["step"]
            self._advance(done, **event["losses"])


def _run_native(
    job: Job, spec: SynthesisSpec, *, teachers: Mapping[str, Path], passes: range, on_event: _Progress
) -> None:
    """Run passes in this process, in our own loop."""
    from dire_plug.models.checkpoint import load
    from dire_plug.native import load_native
    from dire_plug.seeding import seed_everything

    network = load(teachers[MAIN], job.device).model.eval().requires_grad_(False)
    native = load_native(job.adapter.name)
    settings = native.read_settings(job.script, job.recipe.recover.flags)
    synthesis = open_synthesis(spec.to_json(), on_event)
    for index in passes:
        seed_everything(job.seed, index)
        synthesis.begin_pass(index)
        for images, labels, numbers in native.recover_pass(synthesis, network, settings):
            save_images(job.folder / "images", job.adapter, images=images, labels=labels, numbers=numbers)
        synthesis.end_pass()


def _run_upstream(
    job: Job, spec: SynthesisSpec, *, teachers: Mapping[str, Path], passes: range, on_event: _Progress
) -> None:
    """Run passes in a child process, in upstream's patched script."""
    from dire_plug.upstream.runner import run_child

    child = child_job(job, spec, teachers=teachers, passes=passes)
    if passes:
        run_child(child, log=job.folder / "log.txt", on_event=on_event)
    shutil.rmtree(job.folder / "inputs")


def child_job(job: Job, spec: SynthesisSpec, *, teachers: Mapping[str, Path], passes: range) -> ChildJob:
    """Lay out in the run's folder what upstream's patched script reads, and return the child's job.

    Raises:
        DirePlugError: upstream's code isn't here.
        UpstreamFailedError: what it makes before its loop failed.
    """
    import torch

    from dire_plug.upstream.job import ChildJob
    from dire_plug.upstream.vendor import require_vendored

    inputs, materials = prepare_upstream(job, teachers, start=spec.start["file"])
    shutil.rmtree(inputs.folder, ignore_errors=True)
    make_folder(inputs.folder)
    job.adapter.lay_out(inputs, materials())
    call = job.adapter.invocation(inputs)
    return ChildJob(
        tree=require_vendored(job.adapter),
        script=call.script,
        arguments=call.arguments,
        folder=job.folder,
        passes=tuple(passes),
        pass_arguments={index: tuple(job.adapter.pass_arguments(index)) for index in passes},
        shims=call.shims,
        synthesis=spec.to_json(),
        seed=job.seed,
        device=str(job.device),
        threads=torch.get_num_threads(),
    )
