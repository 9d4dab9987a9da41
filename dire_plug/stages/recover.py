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
from dire_plug.files import digest_file, make_folder, read_json, write_atomically, write_json
from dire_plug.stages.embed import real_for_regularizer
from dire_plug.stages.images import TENSORS, save_images
from dire_plug.stages.job import EXTRAS, WHITENING, Job
from dire_plug.stages.prepare import prepare_start
from dire_plug.stages.squeeze import MAIN, squeeze
from dire_plug.synthesis.passes import collect, finished_passes
from dire_plug.synthesis.running import SynthesisSpec, open_synthesis
from dire_plug.types import LoopInputs, Materials, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.ui import Advance

MOST_BYTES = 4 << 30
"""Passes are gathered into one file up to this size."""


def recover(job: Job) -> None:
    """Run the passes that aren't finished; then write images.safetensors.

    Raises:
        UpstreamFailedError: upstream's script failed; finished passes are kept.
        PluginError: a plugin raised or answered what cannot be used.
    """
    plan = job.plan
    teachers = squeeze(job).in_loop
    spec = synthesis_spec(job, teachers)
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
        _write_tensors(job, plan)
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
    _write_tensors(job, plan)
    write_json(job.folder / "seconds.json", {"seconds": time.monotonic() - started, "resumed_at_pass": first})


def synthesis_spec(job: Job, teachers: Mapping[str, Path]) -> SynthesisSpec:
    """Return what makes this run's synthesis; embeds the real images where a term needs them."""
    recipe = job.recipe
    embedding = teachers if recipe.recover.embedder is None else {MAIN: teachers[MAIN]}
    real = {name: str(real_for_regularizer(job, file)) for name, file in embedding.items()} if job.regularizers else {}
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
        networks=tuple(embedding),
        accelerate=job.accelerate,
        embedder=_embedder(job, teachers[MAIN]),
    )


def _embedder(job: Job, network: Path) -> dict[str, Any] | None:
    """Return what embeds where the loop holds no trained network; fits the whitening that the loop's images have."""
    from dire_plug.data.whitening import ensure

    section, whitens = job.recipe.recover.embedder, job.adapter.whitens(job.recipe.recover)
    whitening = ensure(job.folder / WHITENING, job.dataset.train) if whitens else None
    if section is None:
        return None
    return {
        "network": str(network),
        "classes_per_step": section.classes_per_step,
        "whitening": str(whitening) if whitening else None,
    }


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
    import torch

    from dire_plug.upstream.job import ChildJob
    from dire_plug.upstream.preparing import Workplace, prepare_inputs
    from dire_plug.upstream.runner import run_child
    from dire_plug.upstream.vendor import require_vendored

    inputs = LoopInputs(
        recipe=job.recipe,
        classes=job.classes,
        size=job.dataset.size,
        seed=job.seed,
        folder=(job.folder / "inputs").absolute(),
        images=(job.folder / "images").absolute(),
        training_images=len(job.dataset.train),
    )
    materials = _materials(job, teachers, spec)
    place = Workplace(
        job.cache,
        {"dataset": job.dataset.digest},
        device=str(job.device),
        threads=torch.get_num_threads(),
        teachers={name: digest_file(file) for name, file in teachers.items()},
    )
    inputs = prepare_inputs(job.adapter, inputs, materials, place)
    shutil.rmtree(inputs.folder, ignore_errors=True)
    make_folder(inputs.folder)
    job.adapter.lay_out(inputs, materials)
    call = job.adapter.invocation(inputs)
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
    shutil.rmtree(inputs.folder)


def _materials(job: Job, teachers: Mapping[str, Path], spec: SynthesisSpec) -> Materials:
    """Load what an adapter lays out for its script, on the CPU."""
    import torch
    from safetensors.torch import load_file

    from dire_plug.models.checkpoint import load

    networks = {name: load(file, torch.device("cpu")) for name, file in teachers.items()}
    start = load_file(spec.start["file"])["images"] if spec.start["file"] else None
    return Materials(networks, job.dataset, start)


def _write_tensors(job: Job, plan: Plan) -> None:
    """Gather the passes into images.safetensors, and into images/ where the script saved no files itself.

    `images` [N, 3, H, W] in [0, 1], `labels` and `numbers` [N], by class; where the script saved no files also `loop`,
    the same images in the loop's own space, normalised or whitened, which is not bounded. Sets that would not fit in
    memory several times over stay in `passes/`, in the loop's space.
    """
    from safetensors.torch import save

    passes = job.folder / "passes"
    if (extras := passes / EXTRAS).is_file():
        write_json(job.folder / EXTRAS, read_json(extras))
    if sum(file.stat().st_size for file in passes.iterdir()) > MOST_BYTES:
        ui.say(f"recover: the tensors stay in {passes}: more than {MOST_BYTES >> 30} GiB")
        return
    images, labels, numbers = collect(passes, plan.passes)
    pixels = _to_pixels(job, images).contiguous()
    tensors = {"images": pixels, "labels": labels, "numbers": numbers}
    if not job.adapter.saves_images:
        folder = job.folder / "images"
        save_images(folder, job.adapter, images=pixels, labels=labels.tolist(), numbers=numbers.tolist())
        tensors["loop"] = images.contiguous()
    write_atomically(job.folder / TENSORS, save(tensors))
    shutil.rmtree(passes, ignore_errors=True)


def _to_pixels(job: Job, images: Tensor) -> Tensor:
    """Return images of the loop's space with values in [0, 1]; what lies outside is clipped."""
    import torch

    from dire_plug.data.augment import denormalise

    if not job.adapter.whitens(job.recipe.recover):
        return denormalise(images, job.script.mean, job.script.std)
    from dire_plug.data.whitening import load

    return load(job.folder / WHITENING, torch.device("cpu")).invert(images).clamp(0, 1)
