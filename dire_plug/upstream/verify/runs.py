"""Run one script at reduced size: generated images, seeded untrained teachers, a trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from dire_plug.data.augmentation import zca
from dire_plug.data.dataset import Dataset, make_tensor_dataset
from dire_plug.files import digest_file, make_folder, write_atomically
from dire_plug.models import build
from dire_plug.models.architectures import stems
from dire_plug.models.checkpoint import Network
from dire_plug.models.checkpoint import save as save_network
from dire_plug.recipe.model import Recipe
from dire_plug.synthesis import SynthesisSpec
from dire_plug.training.loop import initialised
from dire_plug.types import EDGE, LOOP, Adapter, LoopInputs, Script, ScriptInputs, VerifyCase
from dire_plug.upstream.forks import Runner
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.preparations import run_preparation
from dire_plug.upstream.trace import TRACE
from dire_plug.upstream.verify.observe import digest_head, digest_weight, head_of

SEED = 0
PASSES = "passes"
"""The folder, in that of a patched run, of its finished slots."""
TEST_PER_CLASS = 1
"""Generated test images of each class: scripts that evaluate read some."""
PIXELS = (32, 224)
"""The range of pixels of start images in the answered run."""


@dataclass(frozen=True)
class RunHashes:
    """The hashes that compare two runs: of the optimised tensors, step by step, and of the saved files.

    Attributes:
        losses: what `backward` was called of before each step; compared by nobody, they tell how far apart runs are.
        folder: of the run.
    """

    steps: tuple[tuple[str, ...], ...]
    files: dict[str, str]
    losses: tuple[float | None, ...] = field(default=(), compare=False)
    folder: Path = field(default=Path(), compare=False)


@dataclass(frozen=True)
class Setup:
    """All that the runs of one script share: the recipe (in `inputs`), its files, and the step at which they stop.

    Attributes:
        inputs: its two folders hold what `write_inputs` wrote, which each run gets a copy of.
        start: as `SynthesisSpec.start`.
        real: as `SynthesisSpec.real`: seeded rows, other ones for each network, class and number of rows.
    """

    adapter: Adapter
    case: VerifyCase
    inputs: LoopInputs
    script_inputs: ScriptInputs
    start: dict[str, Any]
    real: dict[str, str]
    steps: int | None


def set_up(adapter: Adapter, name: str, folder: Path, *, run: Runner) -> Setup:
    """Generate images, make seeded untrained teachers, and run what upstream's own code prepares."""
    case, script = adapter.verify_case(name), adapter.scripts[name]
    recipe, classes = _recipe(adapter, case, case.recover, ipc=case.ipc), case.classes or script.classes
    dataset = generate(case.real_per_class, classes=classes, size=script.size)
    known = list(case.teachers.values())
    teachers = {
        # two of one architecture must differ, or nobody could tell which is which
        key: _teacher(script, architecture, seed=SEED + known[:place].count(architecture))
        for place, (key, architecture) in enumerate(case.teachers.items())
    }
    start, file = None, None
    if recipe.recover.start == "real":
        shape = (classes, case.real_per_class, 3, script.size, script.size)
        start, file = dataset.train.images().reshape(shape), folder / "start.safetensors"
        write_atomically(file, save({"images": start}))
    inputs = LoopInputs(recipe, classes, script.size, SEED, folder / "inputs", folder / "images")
    script_inputs = ScriptInputs(teachers, dataset, start)
    for one in adapter.preparations(inputs):
        place = folder / "prepared" / one.name
        made = run_preparation(adapter, one.name, inputs, script_inputs, folder=place, run=run)
        inputs = replace(inputs, prepared={**inputs.prepared, one.name: made})
    described = _describe_start(script, recipe.recover.start, file)
    real = {
        key: _write_real(folder, number, head_of(one.model), classes)
        for number, (key, one) in enumerate(teachers.items())
    }
    return _write_inputs(Setup(adapter, case, inputs, script_inputs, described, real, case.steps), folder / "given")


def set_up_answered(setup: Setup, folder: Path) -> Setup:
    """Return the setup of the run in which hooks are answered: other start images, batches and image numbers.

    What the adapter refuses stays as it was. Start images, where the recipe gives them, differ from those that are
    written for the script.
    """
    adapter, case, script = setup.adapter, setup.case, setup.adapter.scripts[setup.case.recover["script"]]
    classes = case.answered_classes or setup.inputs.classes
    flags = {**case.recover["flags"], **case.answered.get("flags", {})}
    recover = {**case.recover, **case.answered, "flags": flags}
    refused = {
        key for key, _ in adapter.problems(_recipe(adapter, case, recover, ipc=case.answered_ipc), classes=classes)
    }
    for key in ("start", "plan"):
        if f"recover.{key}" in refused:
            # a method that can't start otherwise, or regroup, is tested with its own start or plan
            del recover[key]
            recover |= {key: case.recover[key]} if key in case.recover else {}
    recipe = _recipe(adapter, case, recover, ipc=case.answered_ipc)
    start_images, file = setup.script_inputs.start, None
    if recipe.recover.start == "real":
        shape = (classes, case.answered_ipc, 3, script.size, script.size)
        start_images, answers = (_draw_pixels(shape, seed=SEED + number) for number in (1, 2))
        make_folder(folder)
        write_atomically(file := folder / "start-answered.safetensors", save({"images": answers}))
    answered = replace(
        setup,
        inputs=replace(setup.inputs, recipe=recipe, classes=classes),
        script_inputs=replace(setup.script_inputs, start=start_images),
        start=_describe_start(script, recipe.recover.start, file),
        steps=case.answered_steps or case.steps,
    )
    return _write_inputs(answered, folder / "given-answered")


def _write_inputs(setup: Setup, folder: Path) -> Setup:
    inputs = _placed(setup.inputs, folder)
    setup.adapter.write_inputs(inputs, setup.script_inputs)
    return replace(setup, inputs=inputs)


def _placed(inputs: LoopInputs, folder: Path) -> LoopInputs:
    """Return the inputs of a run in this folder, of which its two folders are made."""
    for path in (folder / "inputs", folder / "images"):
        make_folder(path)
    return replace(inputs, folder=folder / "inputs", images=folder / "images")


def _draw_pixels(shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Return seeded random pixels, [C, n, 3, H, W]: away from black and white, where clipping alone moves none.

    Every `EDGE`-th column is black and white instead, so that steps leave the range there, and clipping acts.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(*PIXELS, shape, dtype=torch.uint8, generator=generator)
    pixels[..., ::2, ::EDGE], pixels[..., 1::2, ::EDGE] = 0, 255
    return pixels


def _write_real(folder: Path, number: int, head: torch.nn.Linear, classes: int) -> str:
    """Write real embeddings of the network with this number, one or two rows a class; return the file."""
    labels = torch.arange(classes).repeat_interleave(1 + torch.arange(classes) % 2)
    generator = torch.Generator().manual_seed(SEED + number)
    values = torch.rand(len(labels), head.in_features, generator=generator)
    make_folder(folder)
    save_file({"values": values, "labels": labels}, file := folder / f"real-{number}.safetensors")
    return str(file)


def _describe_start(script: Script, kind: str, file: Path | None) -> dict[str, Any]:
    shape = None if file is None else [3, script.size, script.size]
    known = {"mean": list(script.mean), "std": list(script.std)}
    return {"kind": kind, "shape": shape, "file": None if file is None else str(file), **known}


def _recipe(adapter: Adapter, case: VerifyCase, recover: Mapping[str, Any], *, ipc: int) -> Recipe:
    network = {"architecture": "resnet-18", "epochs": 1}
    teachers = {key: {**network, "architecture": architecture} for key, architecture in case.teachers.items()}
    main = next(iter(teachers))
    return Recipe.model_validate(
        {
            "name": "verify",
            "title": "verify",
            "method": adapter.name,
            "upstream": {"repository": adapter.upstream.repository, "commit": adapter.upstream.commit},
            "dataset": {"name": "generated"},
            "ipc": ipc,
            "squeeze": {
                "outputs": adapter.scripts[recover["script"]].classes,
                "teacher": teachers.pop(main),
                "others": teachers,
                "independent": network,
            },
            "prepare": dict(case.prepare),
            "recover": dict(recover),
            "evaluate": {"protocol": "on-the-fly", "students": ["resnet-18"]},
        }
    )


def generate(per_class: int, *, classes: int, size: int) -> Dataset:
    """Return a dataset of seeded random images, class by class."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        shape = (classes * count, 3, size, size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pixels, torch.arange(classes).repeat_interleave(count)

    names = [f"class {number}" for number in range(classes)]
    return make_tensor_dataset("generated", train=draw(per_class), test=draw(TEST_PER_CLASS), classes=names)


def _teacher(script: Script, architecture: str, *, seed: int) -> Network:
    """Return a seeded, untrained network."""
    # not every architecture has the script's stem; any will do, since only runs with the same one are compared
    stem = script.stem if script.stem in stems(architecture) else "small"
    model = initialised(lambda: build(architecture, outputs=script.classes, stem=stem, size=script.size), seed)
    return Network(model.eval(), architecture, script.classes, stem, script.mean, script.std)


def run_jobs(jobs: Mapping[str, ChildJob], *, run: Runner) -> dict[str, RunHashes]:
    """Run one script for a few steps in each way; return what each left, by name."""
    run(list(jobs.values()), logs=[job.folder / "log.txt" for job in jobs.values()])
    return {name: read_hashes(job.folder) for name, job in jobs.items()}


def write_job(
    setup: Setup,
    folder: Path,
    tree: Path,
    *,
    regularizers: dict[str, dict[str, Any]] | None = None,
    accelerate: bool = False,
    components: Sequence[str] = (),
    observed: Mapping[str, bool] | None = None,
) -> ChildJob:
    """Write what one run of a script reads, and return its job.

    Args:
        folder: of this run alone.
        tree: patched or not.
        regularizers: of a patched run, where none may be active; None: the run is unpatched.
        accelerate: as `--accelerate exact`.
        components: of `--accelerate fast`.
        observed: the settings of `observe` but for its folder; None: the run isn't observed.
    """
    inputs = _placed(setup.inputs, folder)
    for given, path in ((setup.inputs.folder, inputs.folder), (setup.inputs.images, inputs.images)):
        shutil.copytree(given, path, symlinks=True, dirs_exist_ok=True)
    call = setup.adapter.invocation(inputs)
    synthesis = None
    if regularizers is not None:
        synthesis = describe_synthesis(setup, folder, regularizers, accelerate=accelerate, components=components)
    return ChildJob(
        tree=tree,
        script=call.script,
        arguments=call.arguments,
        folder=folder,
        pass_arguments={0: tuple(setup.adapter.pass_arguments(0, setup.inputs.recipe.recover.script))},
        shims=call.shims,
        synthesis=synthesis,
        seed=SEED,
        trace=folder / TRACE,
        stop_after_steps=setup.steps,
        optimized=setup.adapter.scripts[setup.case.recover["script"]].optimized,
        observed=None if observed is None else {"folder": str(folder), **_identities(setup), **observed},
    )


def _identities(setup: Setup) -> dict[str, Any]:
    """Return what tells the teachers' networks from others: by what a network is, not by what a patch says."""
    teachers = {key: one.model for key, one in setup.script_inputs.teachers.items()}
    return {
        "heads": {digest_head(model): key for key, model in teachers.items()},
        "weights": {digest_weight(one): list(one.shape) for model in teachers.values() for one in model.parameters()},
    }


def describe_synthesis(
    setup: Setup,
    folder: Path,
    regularizers: dict[str, dict[str, Any]],
    *,
    accelerate: bool,
    components: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the specification of a patched run's synthesis with these regularizers."""
    recipe = setup.inputs.recipe
    embedder = None
    if recipe.recover.embedder is not None:
        network = folder / "embedder.safetensors"
        save_network(network, next(iter(setup.script_inputs.teachers.values())))
        embedder = recipe.recover.embedder.model_dump() | {"whitening": _whitening(setup, folder)}
        if embedder["network"] != LOOP:
            embedder["network"] = str(network)
    return SynthesisSpec(
        adapter=setup.adapter.name,
        recover=recipe.recover.model_dump(mode="json"),
        regularizers=regularizers,
        classes=setup.inputs.classes,
        ipc=recipe.ipc,
        steps=setup.adapter.steps(recipe.recover),
        seed=SEED,
        # on the CPU alone the same script gives the same bits twice, so that runs can be compared
        device="cpu",
        start=setup.start,
        real=setup.real,
        passes=str(folder / PASSES),
        # the test term keeps nothing, so a cut run resumes where the script lets it
        chained=False,
        independent=setup.adapter.scripts[recipe.recover.script].slots == "independent",
        networks=tuple(setup.case.teachers),
        embedder=embedder,
        accelerate=accelerate,
        components=tuple(components),
    ).to_json()


def _whitening(setup: Setup, folder: Path) -> str | None:
    if not setup.adapter.whitens(setup.inputs.recipe.recover):
        return None
    return str(zca.ensure(folder / "whitening.safetensors", setup.script_inputs.dataset.train))


def read_hashes(folder: Path) -> RunHashes:
    """Read the trace of a run, and hash the files that it saved."""
    steps, saved = [json.loads(line) for line in (folder / TRACE).read_text().splitlines()], folder / "images"
    files = {path.relative_to(saved).as_posix(): digest_file(path) for path in saved.rglob("*") if path.is_file()}
    losses = tuple(one["loss"] for one in steps)
    return RunHashes(tuple(tuple(one["tensors"]) for one in steps), files, losses, folder)
