"""Recover: synthesize images, by upstream's patched script or by the native loop, pass by pass.

Each finished pass becomes an entry of the store at once: the final tensors of its batches, in the loop's own space, the
files that the script saved, the record of its losses. Gathered, the passes are the images of a run. Where batches are
seeded by themselves, so does each finished batch, and a pass is put together from those that are there.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dire_plug import plugins, ui
from dire_plug.data.augmentation import zca
from dire_plug.data.augmentation.batch import denormalise
from dire_plug.errors import DirePlugError, UpstreamFailedError
from dire_plug.files import make_folder, read_json, write_atomically, write_json
from dire_plug.image_files import TENSORS, image_path
from dire_plug.models.checkpoint import load
from dire_plug.native import load_native
from dire_plug.recipe.check import FULL
from dire_plug.seeding import seed_everything
from dire_plug.stages.artefacts import (
    Inputs,
    Networks,
    Source,
    embedding_networks,
    keeps_state,
    loop_inputs,
    name_batches,
    name_images,
    name_recovered,
    name_subset,
    seeds_batches,
    shares_batches,
)
from dire_plug.stages.embed import real_file
from dire_plug.stages.images import ImageSet, read_loop_tensors, read_saved, read_tensors, save_images
from dire_plug.stages.prepare import load_script_inputs, prepared_folders, start_file, whitening_file
from dire_plug.stages.real_images import write_subset
from dire_plug.stages.squeeze import network_file
from dire_plug.store.artefacts import link
from dire_plug.store.runs import LOSSES, Run
from dire_plug.synthesis import (
    RunningSynthesis,
    SynthesisSpec,
    collect,
    find_finished,
    find_seeded,
    gather_losses,
    join_batches,
    open_synthesis,
    pass_file,
    seeded_files,
)
from dire_plug.types import EXTRAS, LOOP, Adapter, Plan, Slot
from dire_plug.types.artefact import Artefact
from dire_plug.ui import Advance
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import run_child
from dire_plug.upstream.source.vendor import require_vendored

IMAGES, PASSES, LOG = "images", "passes", "log.txt"
MOST_BYTES = 4 << 30
"""Passes are gathered into one file up to this size."""

Event = dict[str, Any]
OnPass = Callable[[int], None]
"""Called with the number of a pass when it is finished."""


def recover(
    run: Run,
    networks: Networks,
    inputs: Inputs,
    embeddings: Mapping[str, Artefact],
    *,
    folder: Path,
    log: Path | None = None,
) -> ImageSet:
    """Return a run's images, synthesized as far as the store lacks them; link their files into the run's folder.

    Args:
        embeddings: key of a network → the real rows that a term sees in it.
        folder: the run's, which gets `images/` as upstream saves them, `images.safetensors`, `losses.json`, and
            `log.txt`.
        log: receives what upstream's script prints; default: the folder's `log.txt`.

    Raises:
        UpstreamFailedError: upstream's script failed; finished passes are kept.
        PluginError: a plugin raised or answered what cannot be used.
    """
    if run.engine == "none":
        return _real_images(run, networks, folder)
    check_paths(run)
    synthesis, passes = name_recovered(run, networks, inputs, embeddings)
    # under the lease of the synthesis: two runs may share it, and one makes it for both
    if any(run.store.find(one) is None for one in passes):
        with run.store.holding(synthesis):
            _synthesize(
                run,
                networks,
                inputs,
                embeddings,
                synthesis=synthesis,
                passes=passes,
                place=synthesis,
                log=log or folder / LOG,
            )
    gathered = name_images(passes)
    entry = run.store.ensure(gathered, partial(_gather, run, inputs, passes))
    link_images(run, passes, entry, folder)
    extras = folder / EXTRAS
    return ImageSet(
        source=Source({"images": gathered}),
        read=partial(_read, run, folder, ipc=run.plan.ipc),
        name=run.arm,
        read_loop=partial(read_loop_tensors, folder / TENSORS),
        whitened=inputs.whitening is not None,
        extras=read_json(extras) if extras.is_file() else {},
    )


def recover_pass(
    run: Run, networks: Networks, inputs: Inputs, embeddings: Mapping[str, Artefact], *, index: int, log: Path
) -> None:
    """Synthesize one pass by itself, for a run whose passes don't depend on each other.

    It has a work folder and a lease of its own, so that several processes can make the passes of one synthesis at
    once. Every pass is seeded from (seed, pass), so its bits are those that it has among the others.

    Args:
        log: receives what upstream's script prints.

    Raises:
        UpstreamFailedError: upstream's script failed.
        PluginError: a plugin raised or answered what cannot be used.
    """
    assert not keeps_state(run), "a plugin keeps state from pass to pass"
    check_paths(run)
    synthesis, passes = name_recovered(run, networks, inputs, embeddings)
    if run.store.find(passes[index]) is None:
        with run.store.holding(place := _place_of_part(synthesis, index)):
            _synthesize(
                run,
                networks,
                inputs,
                embeddings,
                synthesis=synthesis,
                passes=passes,
                place=place,
                only=index,
                log=log,
            )


def recover_slots(
    run: Run,
    networks: Networks,
    inputs: Inputs,
    embeddings: Mapping[str, Artefact],
    *,
    index: int,
    batches: Sequence[int],
    log: Path,
) -> None:
    """Synthesize some batches of a pass, each an artefact of its own, for a run that `shares_batches`.

    It has a work folder and a lease of its own, as `recover_pass` has. Which batches a process makes together changes
    none of their bits. `recover_pass` and `recover` put the pass together from those that are there, and make the rest.

    Args:
        log: receives what upstream's script prints.

    Raises:
        UpstreamFailedError: upstream's script failed; finished batches are kept.
        PluginError: a plugin raised or answered what cannot be used.
    """
    assert shares_batches(run), "the batches of this synthesis depend on each other"
    check_paths(run)
    synthesis, passes = name_recovered(run, networks, inputs, embeddings)
    named = name_batches(run, synthesis, index)
    if run.store.find(passes[index]) is None and any(run.store.find(named[one]) is None for one in batches):
        with run.store.holding(place := _place_of_part(synthesis, index, batches)):
            _synthesize(
                run,
                networks,
                inputs,
                embeddings,
                synthesis=synthesis,
                passes=passes,
                place=place,
                only=index,
                batches=batches,
                log=log,
            )


def _place_of_part(synthesis: Artefact, only: int, batches: Sequence[int] | None = None) -> Artefact:
    """Return what a part of a synthesis has its work folder and its lease under: one pass, or some batches of it."""
    part: dict[str, Any] = {"only pass": only} | ({} if batches is None else {"only batches": sorted(batches)})
    return Artefact(synthesis.kind, {**synthesis.decided_by, **part}, synthesis.inputs)


def _real_images(run: Run, networks: Networks, folder: Path) -> ImageSet:
    """Return the real images that an arm has instead of synthesized ones; `full` reads the dataset itself."""
    if run.arm == FULL:
        train = run.dataset.train
        return ImageSet(Source(digest=FULL), lambda: (train.images(), train.labels), name=run.arm, synthesized=False)
    subset = name_subset(run, networks)
    entry = run.store.ensure(subset, partial(write_subset, run, networks))
    _link_tree(entry, folder)
    read = partial(_read, run, folder, ipc=run.recipe.ipc)
    return ImageSet(Source({"subset": subset}), read, name=run.arm, synthesized=False)


def _read(run: Run, folder: Path, *, ipc: int) -> tuple[Tensor, Tensor]:
    """Read the images that students and metrics see, as the recipe's `evaluate.source` says."""
    if run.recipe.evaluate.source == "tensor":
        return read_tensors(folder)
    return read_saved(folder / IMAGES, run.adapter, classes=run.classes, ipc=ipc, suffix=run.script.suffix)


# One synthesis.


def check_paths(run: Run) -> None:
    """Raise where two images of the plan would be one file.

    Raises:
        DirePlugError: the adapter names them alike.
    """
    seen: dict[Path, tuple[int, int]] = {}
    for index in range(run.plan.passes):
        for image in _images_of_pass(run.plan, index):
            path = image_path(Path(), run.adapter, *image, run.script.suffix)
            if (other := seen.setdefault(path, image)) != image:
                raise DirePlugError(
                    f"{run.adapter.name}: image {image[1]} of class {image[0]} and image {other[1]} of class "
                    f"{other[0]} would both be {path}; the adapter's FILE_NAME must hold {{label}} and {{image}}"
                )


def _images_of_pass(plan: Plan, index: int, *, batch: int | None = None) -> list[tuple[int, int]]:
    """Return (class, number) of the images of a pass, or of one batch of it."""
    batches = range(plan.slots_per_pass) if batch is None else [batch]
    slots = [plan.slot(Slot(index, one)) for one in batches]
    return [pair for slot in slots for pair in zip(slot.labels, slot.images, strict=True)]


def _synthesize(
    run: Run,
    networks: Networks,
    inputs: Inputs,
    embeddings: Mapping[str, Artefact],
    *,
    synthesis: Artefact,
    passes: Sequence[Artefact],
    place: Artefact,
    log: Path,
    only: int | None = None,
    batches: Sequence[int] | None = None,
) -> None:
    """Make the passes that the store lacks, in a work folder, which is removed at the end.

    Args:
        place: whose work folder it is.
        only: the one pass to make; None makes all.
        batches: of that pass, the ones to make; None makes the pass.
    """
    work = run.store.work(place)
    for name in (PASSES, IMAGES):
        make_folder(work / name)
    finished = PassPublisher(run, inputs, synthesis, passes, work)
    missing = [index for index in finished.publish_left_behind() if only in (None, index)]
    if batches is None:
        missing = [index for index in missing if not finished.put_together(index)]
    else:
        batches = finished.lacking(missing, batches)
    if not missing or batches == []:
        run.store.drop_work(place)
        return
    if only is None and len(missing) < len(passes):
        ui.say(f"recover: {len(passes) - len(missing)} of {len(passes)} passes were finished before")
    spec = synthesis_spec(run, networks, inputs, embeddings, folder=work)
    if batches is not None:
        spec = replace(spec, batches=tuple(batches))
    plan = run.plan
    if keeps_state(run):
        # if one pass is made again, the plugins' state after it may differ, so all that follow are too
        missing = list(range(missing[0], len(passes)))
        if (before := missing[0] - 1) >= 0:
            link(pass_file(run.store.path(passes[before]), before), pass_file(work / PASSES, before))
    of_passes = range(plan.passes) if only is None else [only]
    counted = [(index, one) for index in of_passes for one in (batches or range(plan.slots_per_pass))]
    with ui.progress(f"recover ({run.arm}, {run.engine})", len(counted) * spec.steps) as advance:
        progress = _Progress(counted, spec.steps, advance)

        def on_event(event: Event) -> None:
            progress(event)
            if event["event"] == "slot":
                finished.publish_batch(event["pass"], event["batch"], timed=not event["before"])

        on_pass = finished if batches is None else _leave
        if run.engine == "upstream":
            job = child_job(run, spec, networks=networks, inputs=inputs, passes=missing, folder=work)
            _run_upstream(job, log=log, on_event=on_event, on_pass=on_pass)
        else:
            _run_native(run, spec, networks, passes=missing, folder=work, on_event=on_event, on_pass=on_pass)
    run.store.drop_work(place)


def _leave(_: int) -> None:
    """Do nothing at the end of a pass of which some batches were made: they are published one by one."""


class PassPublisher:
    """Publishes passes, and batches that are seeded by themselves, as entries of the store, as they are finished."""

    def __init__(self, run: Run, inputs: Inputs, synthesis: Artefact, passes: Sequence[Artefact], work: Path) -> None:
        """Start timing the first pass and its first batch."""
        self._run, self._inputs, self._synthesis, self._passes, self._work = run, inputs, synthesis, passes, work
        self._began = self._batch_began = time.monotonic()
        self._resumed: set[int] = set()
        self._batches: dict[int, list[Artefact]] = {}

    def publish_left_behind(self) -> list[int]:
        """Publish the passes that a killed process finished but didn't publish; return the missing ones."""
        for index, one in enumerate(self._passes):
            if self._run.store.find(one) is None and self._is_whole(index):
                self._publish(index, seconds=None)
        missing = [index for index, one in enumerate(self._passes) if self._run.store.find(one) is None]
        self._resumed = {index for index in missing if self._is_begun(index)}
        return missing

    def put_together(self, index: int) -> bool:
        """Take the batches of a pass that are entries; return whether these were all, and the pass is published.

        Otherwise the images that an interrupted process left are removed, since the script writes all again.
        """
        entries = [self._run.store.find(one) for one in self._batches_of(index)]
        files = [seeded_files(Slot(index, batch)) for batch in range(len(entries))]
        for entry, names in zip(entries, files, strict=True):
            if entry is not None:
                for name in names:
                    link(entry / name, self._work / PASSES / name)
                self._resumed.add(index)
        if not entries or None in entries:
            self._remove_images(index)
            return False
        for entry in entries:
            assert entry is not None
            _link_tree(entry / IMAGES, self._work / IMAGES)
        join_batches(self._work / PASSES, index, slots=len(entries))
        self._publish(index, seconds=None)
        return True

    def lacking(self, missing: Sequence[int], batches: Sequence[int]) -> list[int]:
        """Return which batches of the one pass that is `missing` the store lacks; none where it isn't."""
        for index in missing:
            self._remove_images(index)
        return [
            batch
            for index in missing
            for batch in sorted(batches)
            if self._run.store.find(self._batches_of(index)[batch]) is None
        ]

    def publish_batch(self, index: int, batch: int, *, timed: bool) -> None:
        """Publish a finished batch; do nothing where batches are no entries, or this one is there.

        Args:
            timed: whether all of it was made since the last call.
        """
        run, now = self._run, time.monotonic()
        seconds, self._batch_began = now - self._batch_began, now
        if not (named := self._batches_of(index)) or run.store.find(named[batch]) is not None:
            return
        files = seeded_files(Slot(index, batch))
        images = self._wanted_images(index, batch=batch) if run.adapter.saves_images else []
        _require_files(images, self._work, f"batch {batch} of pass {index} of {run.script.path}")
        with run.store.holding(named[batch], wait=True):
            if run.store.find(named[batch]) is None:
                self._fill_and_publish(named[batch], images, files, seconds=seconds if timed else None)

    def _batches_of(self, index: int) -> list[Artefact]:
        """Return the batches of a pass; none where they can't be made apart."""
        if index not in self._batches:
            self._batches[index] = name_batches(self._run, self._synthesis, index)
        return self._batches[index]

    def _wanted_images(self, index: int, *, batch: int | None = None) -> list[Path]:
        """Return where the images of a pass, or of one batch of it, are saved in the work folder."""
        run = self._run
        suffix = run.script.suffix if run.adapter.saves_images else None
        images = _images_of_pass(run.plan, index, batch=batch)
        return [image_path(self._work / IMAGES, run.adapter, *image, suffix) for image in images]

    def _remove_images(self, index: int) -> None:
        # they may be the files of an entry, which the script would write into
        for path in self._wanted_images(index):
            path.unlink(missing_ok=True)

    def __call__(self, index: int) -> None:
        """Publish a finished pass.

        Raises:
            UpstreamFailedError: the script saved fewer files than the plan has images.
        """
        now = time.monotonic()
        # nobody knows how long a killed process took for the slots that are kept
        self._publish(index, seconds=None if index in self._resumed else now - self._began)
        self._began = now

    def _is_whole(self, index: int) -> bool:
        """Return whether a whole finished pass is in the work folder, and not just what plugins kept after it."""
        made = self._work / PASSES
        batches = list(made.glob(f"pass-{index:03d}-batch-*.safetensors"))
        return pass_file(made, index).is_file() and len(batches) == self._run.plan.slots_per_pass

    def _is_begun(self, index: int) -> bool:
        """Return whether an interrupted process finished some batches of a pass."""
        run, made = self._run, self._work / PASSES
        if seeds_batches(run):
            return bool(find_seeded(made, index, slots=run.plan.slots_per_pass))
        return bool(find_finished(made, index, device=str(run.device))[0])

    def _publish(self, index: int, *, seconds: float | None) -> None:
        run, artefact = self._run, self._passes[index]
        images = self._saved_images(index)
        # a process that makes this pass alone may publish it too
        with run.store.holding(artefact, wait=True):
            if keeps_state(run) or run.store.find(artefact) is None:
                stem = f"pass-{index:03d}"
                files = (f"{stem}.safetensors", f"{stem}-batch-*.safetensors", f"losses-{index:03d}.json", EXTRAS)
                self._fill_and_publish(artefact, images, files, seconds=seconds)

    def _fill_and_publish(
        self, artefact: Artefact, images: Sequence[Path], files: Sequence[str], *, seconds: float | None
    ) -> None:
        """Publish images, and those among the files of finished passes that match `files`."""
        run = self._run
        run.store.drop_work(artefact)
        folder = run.store.work(artefact)
        # links, since the next pass of a script may read what this one left
        for pattern in files:
            for path in (self._work / PASSES).glob(pattern):
                link(path, folder / path.name)
        for path in images:
            link(path, folder / path.relative_to(self._work))
        run.store.publish(artefact, folder, seconds=seconds)

    def _saved_images(self, index: int) -> list[Path]:
        """Return the files of a pass's images; write them first where the script saves none."""
        run, folder = self._run, self._work / IMAGES
        if not run.adapter.saves_images:
            slots, labels, numbers = collect({index: self._work / PASSES})
            pixels = _to_pixels(run, self._inputs, slots)
            save_images(folder, run.adapter, images=pixels, labels=labels.tolist(), numbers=numbers.tolist())
        wanted = self._wanted_images(index)
        _require_files(wanted, self._work, f"pass {index} of {run.script.path}")
        # of a script with one pass, also what it saved beside the images: MTT's and DM's own result files
        return sorted(path for path in folder.rglob("*") if path.is_file()) if run.plan.passes == 1 else wanted


def _require_files(wanted: Sequence[Path], work: Path, what: str) -> None:
    """Raise where a script saved fewer images than the plan has.

    Raises:
        UpstreamFailedError: some are missing.
    """
    if lacking := [path for path in wanted if not path.is_file()]:
        raise UpstreamFailedError(
            f"{what} left {len(wanted) - len(lacking)} of {len(wanted)} images; the first that is missing is "
            f"{lacking[0].relative_to(work)}; nothing of it is kept"
        )


class _Progress:
    """Shows the events of a synthesis as a progress bar over the (pass, batch) pairs that are asked for."""

    def __init__(self, counted: Sequence[tuple[int, int]], steps: int, advance: Advance) -> None:
        self._before = {pair: number * steps for number, pair in enumerate(counted)}
        self._advance = advance

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("event") == "step":
            # a pass begins with an event of its batch 0, whichever are made
            before = self._before.get((event["pass"], event["batch"]))
            if before is not None:
                self._advance(before + event["step"], **event["losses"])


def synthesis_spec(
    run: Run, networks: Networks, inputs: Inputs, embeddings: Mapping[str, Artefact], *, folder: Path
) -> SynthesisSpec:
    """Return the specification of this run's synthesis.

    Args:
        folder: where it works; the passes lie in it.
    """
    recipe, whitening = run.recipe, whitening_file(run, inputs)
    embedding = embedding_networks(run, networks, inputs)
    embedder = None
    if (section := recipe.recover.embedder) is not None:
        (network,) = embedding.values()
        # no artefact stands for the loop's own untrained network
        file = LOOP if network is None else str(network_file(run, network))
        embedder = _embedder(file, whitening, classes_per_step=section.classes_per_step)
    names = {"methods": [run.adapter.name], "regularizers": list(run.regularizers)}
    return SynthesisSpec(
        adapter=run.adapter.name,
        recover=recipe.recover.model_dump(mode="json"),
        regularizers=run.regularizers,
        classes=run.classes,
        ipc=recipe.ipc,
        steps=run.adapter.steps(recipe.recover),
        seed=run.seed,
        device=str(run.device),
        start=_start(run, inputs),
        real={key: str(real_file(run, one)) for key, one in embeddings.items()},
        passes=str(folder / PASSES),
        networks=tuple(embedding),
        accelerate=run.request.accelerate == "exact",
        components=run.components.names,
        embedder=embedder,
        frozen={key: _embedder(str(network_file(run, one)), whitening) for key, one in networks.frozen.items()},
        in_loop=recipe.term.in_loop(recipe.squeeze),
        chained=keeps_state(run),
        independent=run.script.slots == "independent",
        code={f"{kind}/{name}": plugins.code_of(kind, name) for kind in names for name in names[kind]},  # type: ignore[arg-type]
    )


def _start(run: Run, inputs: Inputs) -> dict[str, Any]:
    """Return the `start` of a specification: the script's own, noise, or a file of real images of each class.

    Noise has a shape where the dataset's images aren't of the script's size, and is upstream's own otherwise.
    """
    size, script, kind = run.dataset.size, run.script, run.recipe.recover.start
    if kind == "own":
        return {"kind": kind, "shape": None, "file": None}
    if kind == "noise":
        return {"kind": kind, "shape": None if size == script.size else [3, size, size], "file": None}
    return {
        "kind": "real",
        "shape": [3, size, size],
        "file": str(start_file(run, inputs)),
        "mean": list(script.mean),
        "std": list(script.std),
    }


def _embedder(network: str, whitening: Path | None, *, classes_per_step: int | None = None) -> dict[str, Any]:
    """Return what `synthesis.embeddings.FrozenNetwork` is made of; without `classes_per_step` it embeds all classes."""
    return {
        "network": network,
        "classes_per_step": classes_per_step,
        "whitening": str(whitening) if whitening else None,
    }


def _run_native(
    run: Run,
    spec: SynthesisSpec,
    networks: Networks,
    *,
    passes: Sequence[int],
    folder: Path,
    on_event: Callable[[dict[str, Any]], None],
    on_pass: OnPass,
) -> None:
    """Run passes in this process, in our own loop."""
    network = load(network_file(run, networks.teacher), run.device).model.eval().requires_grad_(False)
    synthesis = open_synthesis(spec.to_json(), on_event)
    for index in passes:
        run_native_pass(synthesis, network, run.adapter, spec, index=index, images=folder / IMAGES)
        on_pass(index)


def run_native_pass(
    synthesis: RunningSynthesis,
    network: nn.Module,
    adapter: Adapter,
    spec: SynthesisSpec,
    *,
    index: int,
    images: Path,
) -> None:
    """Run one pass of the native loop in the frozen `network`, and save its images into the folder `images`."""
    native = load_native(adapter.name)
    script = adapter.scripts[spec.recover["script"]]
    # upstream's script counts to its own number; ours goes on to the dataset's
    script = replace(script, classes=max(script.classes, synthesis.classes))
    settings = native.read_settings(script, spec.recover["flags"])
    seed_everything(spec.seed, index)
    synthesis.begin_pass(index)
    for made, labels, numbers in native.recover_pass(synthesis, network, settings):
        save_images(images, adapter, images=made, labels=labels, numbers=numbers)
    synthesis.end_pass()


def _run_upstream(job: ChildJob, *, log: Path, on_event: Callable[[dict[str, Any]], None], on_pass: OnPass) -> None:
    """Run passes in a child process, in upstream's patched script."""

    def see(event: dict[str, Any]) -> None:
        on_event(event)
        if event["event"] == "pass":
            on_pass(event["pass"])

    run_child(job, log=log, on_event=see)


def child_job(
    run: Run, spec: SynthesisSpec, *, networks: Networks, inputs: Inputs, passes: Sequence[int], folder: Path
) -> ChildJob:
    """Write what upstream's patched script reads, and return the child's job.

    Args:
        folder: where it works: `inputs/` and `images/` lie in it.

    Raises:
        DirePlugError: upstream's code isn't vendored.
    """
    prepared = prepared_folders(run, inputs)
    described = loop_inputs(run, folder=folder / "inputs", images=folder / IMAGES, prepared=prepared)
    # files of an interrupted attempt may be older than today's inputs
    shutil.rmtree(described.folder, ignore_errors=True)
    make_folder(described.folder)
    run.adapter.write_inputs(described, load_script_inputs(run, networks, inputs))
    call = run.adapter.invocation(described)
    return ChildJob(
        tree=require_vendored(run.adapter),
        script=call.script,
        arguments=call.arguments,
        folder=folder,
        passes=tuple(passes),
        pass_arguments={index: tuple(run.adapter.pass_arguments(index, run.recipe.recover.script)) for index in passes},
        shims=call.shims,
        synthesis=spec.to_json(),
        seed=run.seed,
        device=str(run.device),
        gpus=run.gpus,
        threads=torch.get_num_threads(),
    )


# The images of all passes.


def _gather(run: Run, inputs: Inputs, passes: Sequence[Artefact], folder: Path) -> None:
    """Gather the passes of a finished synthesis: tensors, losses, and what the script learned.

    images.safetensors: `images` [N, 3, H, W] in [0, 1], `labels` and `numbers` [N], by class; where the script saved no
    files also `loop`, the same images in the loop's own space, normalised or whitened, which is not bounded. Of a set
    that would not fit in memory several times over the tensors stay with the passes, in the loop's space.
    """
    folders = {index: run.store.path(one) for index, one in enumerate(passes)}
    last = folders[len(passes) - 1]
    if (extras := last / EXTRAS).is_file():
        write_json(folder / EXTRAS, read_json(extras))
    if (losses := gather_losses(folders)) is not None:
        write_json(folder / LOSSES, losses)
        _report_coreset_error(run, losses["mean"])
    files = [file for one in folders.values() for file in one.glob("pass-*.safetensors")]
    # gathering holds them several times: read, sorted, as pixels, and in the file that is written
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        ui.say(f"recover: the tensors stay with the passes: more than {MOST_BYTES >> 30} GiB")
        return
    images, labels, numbers = collect(folders)
    tensors = {
        "images": _to_pixels(run, inputs, images).contiguous(),
        "labels": labels,
        "numbers": numbers,
    }
    if not run.adapter.saves_images:
        # students of such methods learn from these and not from files, which would be clipped and rounded
        tensors[LOOP] = images.contiguous()
    write_atomically(folder / TENSORS, save(tensors))


def link_images(run: Run, passes: Sequence[Artefact], gathered: Path, folder: Path) -> None:
    """Link the files of a run's images into its folder; tensors that weren't gathered lie in `passes/` there."""
    _link_tree(gathered, folder)
    for one in passes:
        entry = run.store.path(one)
        _link_tree(entry / IMAGES, folder / IMAGES)
        if not (gathered / TENSORS).is_file():
            for file in entry.glob("pass-*.safetensors"):
                link(file, folder / PASSES / file.name)


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.name != "entry.json":
            link(path, target / path.relative_to(source))


def _report_coreset_error(run: Run, curves: Mapping[str, Sequence[float | None]]) -> None:
    """Print how far EDM with the recipe's coreset is from the exact one, at the first and the last step."""
    errors = next((curve for name, curve in curves.items() if "/edm error" in name), None)
    cosines = next((curve for name, curve in curves.items() if "/edm gradient" in name), None)
    if errors is None or cosines is None:
        return
    at = " and ".join(
        f"{100 * error:.2g} % with a gradient at cosine {cosine:.4f} ({when} step)"
        for error, cosine, when in ((errors[0], cosines[0], "first"), (errors[-1], cosines[-1], "last"))
        if error is not None and cosine is not None
    )
    ui.say(f"recover: EDM by a coreset of {run.recipe.real.coreset} a class: off by {at}")


def _to_pixels(run: Run, inputs: Inputs, images: Tensor) -> Tensor:
    """Return images of the loop's space with values in [0, 1]; what lies outside is clipped."""
    file = whitening_file(run, inputs)
    if file is None:
        return denormalise(images, run.script.mean, run.script.std)
    return zca.load(file, torch.device("cpu")).invert(images).clamp(0, 1)
