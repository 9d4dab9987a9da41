"""Synthesize the images of one run, by upstream's patched script or by the native loop, pass by pass.

What is left in the run folder: `images/`, as upstream saves them, and `images.safetensors`, the tensors before saving.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.files import digest_file, make_folder, read_json, write_atomically, write_json
from dire_plug.stages.embed import real_for_regularizer
from dire_plug.stages.expert import expert_network
from dire_plug.stages.images import TENSORS, save_images
from dire_plug.stages.inputs import prepare_upstream
from dire_plug.stages.job import EXTRAS, LOSSES, WHITENING, Job
from dire_plug.stages.prepare import prepare_start
from dire_plug.stages.squeeze import MAIN, Teachers, squeeze
from dire_plug.synthesis.embedder import LOOP
from dire_plug.synthesis.passes import collect, finished_passes
from dire_plug.synthesis.recording import gather_losses
from dire_plug.synthesis.running import SynthesisSpec, open_synthesis
from dire_plug.types import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.ui import Advance
    from dire_plug.upstream.job import ChildJob

EXPERT = "expert"
"""The key of an expert's last snapshot, where the terms work in that."""
MOST_BYTES = 4 << 30
"""Passes are gathered into one file up to this size."""


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


def synthesis_spec(
    job: Job, networks: Teachers, *, embed_real: Callable[[Job, Path], Path] = real_for_regularizer
) -> SynthesisSpec:
    """Return what makes this run's synthesis; embeds the real images where a term needs them.

    Args:
        embed_real: the job and a network's file → the file of the real embeddings.
    """
    recipe, start = job.recipe, prepare_start(job)
    whitening = _ensure_whitening(job)
    embedding = _embedding_networks(job, networks.in_loop, start=start["file"])
    frozen = networks.frozen
    files = {**({} if not job.regularizers or LOOP in embedding else embedding), **frozen}
    real = {name: str(embed_real(job, file)) for name, file in files.items()}
    embedder = None
    if (section := recipe.recover.embedder) is not None:
        network = next(iter(embedding.values()))
        embedder = _embedder(network, whitening, classes_per_step=section.classes_per_step)
    return SynthesisSpec(
        adapter=job.adapter.name,
        recover=recipe.recover.model_dump(mode="json"),
        regularizers=job.regularizers,
        classes=job.classes,
        ipc=recipe.ipc,
        steps=job.adapter.steps(recipe.recover),
        seed=job.seed,
        device=str(job.device),
        start=start,
        real=real,
        passes=str(job.folder / "passes"),
        networks=tuple(embedding),
        accelerate=job.accelerate,
        embedder=embedder,
        frozen={name: _embedder(file, whitening) for name, file in frozen.items()},
        in_loop=recipe.term.in_loop(recipe.squeeze),
    )


def _embedder(network: Path, whitening: Path | None, *, classes_per_step: int | None = None) -> dict[str, Any]:
    """Return what `synthesis.embedder.Embedder` is made of; without `classes_per_step` it embeds all classes."""
    return {
        "network": str(network),
        "classes_per_step": classes_per_step,
        "whitening": str(whitening) if whitening else None,
    }


def _ensure_whitening(job: Job) -> Path | None:
    """Return the file of the ZCA transform that the loop's images have, fitted here at first; None without one."""
    from dire_plug.data.whitening import ensure

    return ensure(job.folder / WHITENING, job.dataset.train) if job.adapter.whitens(job.recipe.recover) else None


def _embedding_networks(job: Job, teachers: Mapping[str, Path], *, start: str | None) -> Mapping[str, Path]:
    """Return key → file of the networks in which the terms work; the loop's own untrained one has no file."""
    section = job.recipe.recover.embedder
    if section is None:
        return teachers
    if section.network == EXPERT:
        return {EXPERT: expert_network(job, teachers, start=start)} if job.regularizers else {EXPERT: teachers[MAIN]}
    return {LOOP: Path(LOOP)} if section.network == LOOP else {MAIN: teachers[MAIN]}


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
    if (losses := gather_losses(passes, plan.passes)) is not None:
        write_json(job.folder / LOSSES, losses)
        _tell_of_coreset(job, losses["mean"])
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


def _tell_of_coreset(job: Job, curves: Mapping[str, Sequence[float | None]]) -> None:
    """Say how far EDM through the recipe's coreset is from the exact one, at the first and the last step."""
    errors = next((curve for name, curve in curves.items() if "/edm error" in name), None)
    cosines = next((curve for name, curve in curves.items() if "/edm gradient" in name), None)
    if errors is None or cosines is None:
        return
    at = " and ".join(
        f"{100 * error:.2g} % with a gradient at cosine {cosine:.4f} ({when} step)"
        for error, cosine, when in ((errors[0], cosines[0], "first"), (errors[-1], cosines[-1], "last"))
        if error is not None and cosine is not None
    )
    ui.say(f"recover: EDM by a coreset of {job.recipe.real.coreset} a class: off by {at}")


def _to_pixels(job: Job, images: Tensor) -> Tensor:
    """Return images of the loop's space with values in [0, 1]; what lies outside is clipped."""
    import torch

    from dire_plug.data.augment import denormalise

    if not job.adapter.whitens(job.recipe.recover):
        return denormalise(images, job.script.mean, job.script.std)
    from dire_plug.data.whitening import load

    return load(job.folder / WHITENING, torch.device("cpu")).invert(images).clamp(0, 1)
