"""Synthesize the images of one run, by upstream's patched script or by the native loop, pass by pass.

What is left in the run folder: `images/`, as upstream saves them, and `images.safetensors`, the tensors before saving.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.files import digest_file, make_folder, read_json, write_atomically, write_json
from dire_plug.stages.embed import real_for_regularizer
from dire_plug.stages.images import TENSORS
from dire_plug.stages.job import Job
from dire_plug.stages.prepare import prepare_start
from dire_plug.stages.squeeze import squeeze
from dire_plug.synthesis.passes import collect, finished_passes
from dire_plug.synthesis.running import SynthesisSpec, open_synthesis
from dire_plug.types import Plan

if TYPE_CHECKING:
    from dire_plug.ui import Advance

MOST_BYTES = 4 << 30
"""Passes are gathered into one file up to this size."""


def recover(job: Job) -> None:
    """Run the passes that aren't finished; then write images.safetensors.

    Raises:
        UpstreamFailedError: upstream's script failed; finished passes are kept.
        PluginError: a plugin raised or answered what cannot be used.
    """
    plan = job.adapter.plan(job.recipe.recover, classes=job.classes, ipc=job.recipe.ipc)
    teacher = squeeze(job).teacher
    spec = synthesis_spec(job, teacher)
    _start_again_where_inputs_changed(job, teacher, spec)
    if (job.folder / TENSORS).is_file():
        return
    make_folder(job.folder / "passes")
    make_folder(job.folder / "images")
    first = finished_passes(spec.passes, plan.passes)
    if first:
        ui.say(f"recover: {first} of {plan.passes} passes were finished before")
    started = time.monotonic()
    if first == plan.passes:
        _write_tensors(job, plan)
        return
    with ui.progress(f"recover ({job.arm}, {job.engine})", plan.passes * plan.slots_per_pass * spec.steps) as advance:
        run = _run_upstream if job.engine == "upstream" else _run_native
        run(job, spec, teacher=teacher, passes=range(first, plan.passes), on_event=_Progress(plan, spec.steps, advance))
    _write_tensors(job, plan)
    write_json(job.folder / "seconds.json", {"seconds": time.monotonic() - started, "resumed_at_pass": first})


def synthesis_spec(job: Job, teacher: Path) -> SynthesisSpec:
    """Return what makes this run's synthesis; embeds the real images where a term needs them."""
    recipe = job.recipe
    real = {"teacher": str(real_for_regularizer(job, teacher))} if job.regularizers else {}
    return SynthesisSpec(
        adapter=job.adapter.name,
        recover=recipe.recover.model_dump(mode="json"),
        regularizers=job.regularizers,
        classes=job.classes,
        ipc=recipe.ipc,
        steps=job.adapter.steps(recipe.recover),
        seed=job.seed,
        device=str(job.device),
        start=prepare_start(job),
        real=real,
        passes=str(job.folder / "passes"),
    )


def _start_again_where_inputs_changed(job: Job, teacher: Path, spec: SynthesisSpec) -> None:
    """Drop what was recovered from another teacher, other real embeddings or other start images, and say so.

    The same settings give another teacher with another version of torch, or on another device with an empty cache.
    """
    files = {"teacher": str(teacher), **spec.real, "start": spec.start["file"]}
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


def _run_native(job: Job, spec: SynthesisSpec, *, teacher: Path, passes: range, on_event: _Progress) -> None:
    """Run passes in this process, in our own loop."""
    from dire_plug.models.checkpoint import load
    from dire_plug.native import load_native
    from dire_plug.seeding import seed_everything
    from dire_plug.stages.images import save_images

    network = load(teacher, job.device).model.eval().requires_grad_(False)
    native = load_native(job.adapter.name)
    settings = native.read_settings(job.script, job.recipe.recover.flags)
    synthesis = open_synthesis(spec.to_json(), on_event)
    for index in passes:
        seed_everything(job.seed, index)
        synthesis.begin_pass(index)
        for images, labels, numbers in native.recover_pass(synthesis, network, settings):
            save_images(job.folder / "images", job.adapter, images=images, labels=labels, numbers=numbers)
        synthesis.end_pass()


def _run_upstream(job: Job, spec: SynthesisSpec, *, teacher: Path, passes: range, on_event: _Progress) -> None:
    """Run passes in a child process, in upstream's patched script."""
    import torch

    from dire_plug.models.checkpoint import load, write_for_upstream
    from dire_plug.upstream.job import ChildJob
    from dire_plug.upstream.runner import run_child
    from dire_plug.upstream.vendor import require_vendored

    checkpoint = job.folder / "teacher.pt"
    write_for_upstream(load(teacher, torch.device("cpu")).model, checkpoint, job.script.checkpoint)
    call = job.adapter.invocation(
        job.recipe.recover,
        teacher=checkpoint,
        images=job.folder / "images",
        architecture=job.recipe.squeeze.teacher.architecture,
    )
    child = ChildJob(
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
    if passes:
        run_child(child, log=job.folder / "log.txt", on_event=on_event)
    checkpoint.unlink()


def _write_tensors(job: Job, plan: Plan) -> None:
    """Gather the passes into images.safetensors: images [N, 3, H, W] in [0, 1], labels and numbers [N], by class.

    Sets that would not fit in memory several times over stay in `passes/`, normalised.
    """
    from safetensors.torch import save

    from dire_plug.data.augment import denormalise

    passes = job.folder / "passes"
    if sum(file.stat().st_size for file in passes.iterdir()) > MOST_BYTES:
        ui.say(f"recover: the tensors stay in {passes}: more than {MOST_BYTES >> 30} GiB")
        return
    images, labels, numbers = collect(passes, plan.passes)
    pixels = denormalise(images, job.script.mean, job.script.std)
    tensors = {"images": pixels.contiguous(), "labels": labels, "numbers": numbers}
    write_atomically(job.folder / TENSORS, save(tensors))
    shutil.rmtree(passes, ignore_errors=True)
