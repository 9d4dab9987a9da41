"""One script at reduced size: generated images, seeded untrained teachers, and one run of it with a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save
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
from dire_plug.types import LOOP, Adapter, LoopInputs, Script, ScriptInputs, VerifyCase
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.preparations import run_preparation
from dire_plug.upstream.runner import run_together

SEED = 0
TEST_PER_CLASS = 1
"""Generated test images of each class: scripts that evaluate read some."""
PIXELS = (32, 224)
"""The range of pixels of start images in the answered run."""


class Run(Protocol):
    """Runs jobs, as `run_together` does in child processes."""

    def __call__(self, jobs: Sequence[ChildJob], *, logs: Sequence[Path]) -> None:
        """Run them all; write their output into `logs`."""


@dataclass(frozen=True)
class Evidence:
    """What one run left: the hashes of the optimised tensors, step by step, and those of the saved files."""

    steps: tuple[tuple[str, ...], ...]
    files: dict[str, str]


@dataclass(frozen=True)
class Trial:
    """What runs of one script share: the recipe, in `inputs`, what is made for it, and after how many steps they stop.

    Attributes:
        start: as `SynthesisSpec.start`.
    """

    adapter: Adapter
    case: VerifyCase
    inputs: LoopInputs
    script_inputs: ScriptInputs
    start: dict[str, Any]
    steps: int | None


def set_up(adapter: Adapter, name: str, folder: Path) -> Trial:
    """Generate images, make seeded untrained teachers, and run what upstream's own code prepares."""
    case, script = adapter.verify_case(name), adapter.scripts[name]
    recipe, classes = _recipe(adapter, case, case.recover, ipc=case.ipc), case.classes or script.classes
    dataset = generate(case.real_per_class, classes=classes, size=script.size)
    teachers = {key: _teacher(script, architecture) for key, architecture in case.teachers.items()}
    start, file = None, None
    if recipe.recover.start == "real":
        shape = (classes, case.real_per_class, 3, script.size, script.size)
        start, file = dataset.train.images().reshape(shape), folder / "start.safetensors"
        write_atomically(file, save({"images": start}))
    inputs = LoopInputs(recipe, classes, script.size, SEED, folder / "inputs", folder / "images")
    script_inputs = ScriptInputs(teachers, dataset, start)
    for one in adapter.preparations(inputs):
        made = run_preparation(adapter, one.name, inputs, script_inputs, folder=folder / "prepared" / one.name)
        inputs = replace(inputs, prepared={**inputs.prepared, one.name: made})
    return Trial(adapter, case, inputs, script_inputs, _describe_start(script, recipe.recover.start, file), case.steps)


def set_up_answered(trial: Trial, folder: Path) -> Trial:
    """Return the trial of the run in which hooks are answered: other start images, batches and image numbers.

    What the adapter refuses stays as it was. Start images, where the recipe gives them, differ from those that are laid
    out for the script.
    """
    adapter, case, script = trial.adapter, trial.case, trial.adapter.scripts[trial.case.recover["script"]]
    classes = case.answered_classes or trial.inputs.classes
    flags = {**case.recover["flags"], **case.answered.get("flags", {})}
    recover = {**case.recover, **case.answered, "flags": flags}
    refused = {
        key for key, _ in adapter.problems(_recipe(adapter, case, recover, ipc=case.answered_ipc), classes=classes)
    }
    for key in ("start", "plan"):
        if f"recover.{key}" in refused:
            del recover[key]
            recover |= {key: case.recover[key]} if key in case.recover else {}
    recipe = _recipe(adapter, case, recover, ipc=case.answered_ipc)
    start_images, file = trial.script_inputs.start, None
    if recipe.recover.start == "real":
        shape = (classes, case.answered_ipc, 3, script.size, script.size)
        start_images, told = (_draw_pixels(shape, seed=SEED + number) for number in (1, 2))
        make_folder(folder)
        write_atomically(file := folder / "start-answered.safetensors", save({"images": told}))
    return replace(
        trial,
        inputs=replace(trial.inputs, recipe=recipe, classes=classes),
        script_inputs=replace(trial.script_inputs, start=start_images),
        start=_describe_start(script, recipe.recover.start, file),
        steps=case.answered_steps or case.steps,
    )


def _draw_pixels(shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Return seeded random pixels, [C, n, 3, H, W], away from black and white: clipping alone moves none of them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(*PIXELS, shape, dtype=torch.uint8, generator=generator)


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


def _teacher(script: Script, architecture: str) -> Network:
    """Return a seeded, untrained network."""
    stem = script.stem if script.stem in stems(architecture) else "small"
    model = initialised(lambda: build(architecture, outputs=script.classes, stem=stem, size=script.size), SEED)
    return Network(model.eval(), architecture, script.classes, stem, script.mean, script.std)


@dataclass(frozen=True)
class Kind:
    """One run of a script.

    Attributes:
        trial: what it shares with others.
        tree: patched or not.
        regularizers: of a patched run, where none may be active; None: the run is unpatched.
        accelerate: as `--accelerate exact`.
        observed: what `observe` is told beside its folder; None: nobody looks on.
    """

    trial: Trial
    tree: Path
    regularizers: dict[str, dict[str, Any]] | None = None
    accelerate: bool = False
    observed: Mapping[str, bool] | None = None


def run_trials(folder: Path, kinds: Mapping[str, Kind], *, run: Run = run_together) -> dict[str, Evidence]:
    """Run one script for a few steps in each way, in `folder/<name>`; return what each left, by name."""
    folders = {name: (folder / name).absolute() for name in kinds}
    jobs = [_write_job(folders[name], kind) for name, kind in kinds.items()]
    run(jobs, logs=[place / "log.txt" for place in folders.values()])
    return {name: read_evidence(place / "trace.jsonl", place / "images") for name, place in folders.items()}


def _write_job(folder: Path, kind: Kind) -> ChildJob:
    """Write what a run needs, and return it."""
    trial = kind.trial
    inputs = replace(trial.inputs, folder=folder / "inputs", images=folder / "images")
    for path in (inputs.folder, inputs.images):
        make_folder(path)
    trial.adapter.write_inputs(inputs, trial.script_inputs)
    call = trial.adapter.invocation(inputs)
    synthesis = None
    if kind.regularizers is not None:
        synthesis = describe_synthesis(trial, folder, kind.regularizers, accelerate=kind.accelerate)
    return ChildJob(
        tree=kind.tree,
        script=call.script,
        arguments=call.arguments,
        folder=folder,
        pass_arguments={0: tuple(trial.adapter.pass_arguments(0))},
        shims=call.shims,
        synthesis=synthesis,
        seed=SEED,
        trace=folder / "trace.jsonl",
        stop_after_steps=trial.steps,
        observed=None if kind.observed is None else {"folder": str(folder), **kind.observed},
    )


def describe_synthesis(
    trial: Trial, folder: Path, regularizers: dict[str, dict[str, Any]], *, accelerate: bool
) -> dict[str, Any]:
    """Return what the child is told of the synthesis of a patched run, with these regularizers."""
    recipe = trial.inputs.recipe
    embedder = None
    if recipe.recover.embedder is not None:
        network = folder / "embedder.safetensors"
        save_network(network, next(iter(trial.script_inputs.teachers.values())))
        embedder = recipe.recover.embedder.model_dump() | {"whitening": _whitening(trial, folder)}
        if embedder["network"] != LOOP:
            embedder["network"] = str(network)
    return SynthesisSpec(
        adapter=trial.adapter.name,
        recover=recipe.recover.model_dump(mode="json"),
        regularizers=regularizers,
        classes=trial.inputs.classes,
        ipc=recipe.ipc,
        steps=trial.adapter.steps(recipe.recover),
        seed=SEED,
        device="cpu",
        start=trial.start,
        real={},
        passes=str(folder / "passes"),
        networks=tuple(trial.case.teachers),
        embedder=embedder,
        accelerate=accelerate,
    ).to_json()


def _whitening(trial: Trial, folder: Path) -> str | None:
    if not trial.adapter.whitens(trial.inputs.recipe.recover):
        return None
    return str(zca.ensure(folder / "whitening.safetensors", trial.script_inputs.dataset.train))


def read_evidence(trace: Path, saved: Path) -> Evidence:
    """Read a trace and hash the files below the folder `saved`."""
    steps = tuple(tuple(json.loads(line)["tensors"]) for line in trace.read_text().splitlines())
    files = {path.relative_to(saved).as_posix(): digest_file(path) for path in saved.rglob("*") if path.is_file()}
    return Evidence(steps, files)
