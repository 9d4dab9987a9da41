"""Set up the synthesis of an arm for timing, with untrained networks and generated images, and run it in a process.

A step takes as long with them. So nothing is trained, and no dataset is needed: images are generated, except for the
embedded ones of the demonstrations; real embeddings are random and non-negative.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dire_plug.data import Dataset, on_device
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, read_json, write_atomically, write_json
from dire_plug.models import last_linear
from dire_plug.models.checkpoint import load
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import count_classes, read_data
from dire_plug.plugins import load_adapter
from dire_plug.recipe import REAL_IMAGE_ARMS
from dire_plug.stages.artefacts import Inputs, Networks, loop_inputs, name_term_embeddings
from dire_plug.stages.embed import FILE
from dire_plug.stages.prepare import prepare
from dire_plug.stages.recover import child_job, run_native_pass, synthesis_spec
from dire_plug.stages.squeeze import network_file, write_untrained
from dire_plug.store.artefacts import Store
from dire_plug.synthesis import SynthesisSpec, open_synthesis
from dire_plug.types import CORESET
from dire_plug.types.artefact import Artefact
from dire_plug.upstream.interleave import take_turns
from dire_plug.upstream.runner import run_child
from dire_plug.upstream.trace import StopScriptError
from dire_plug.upstream.verify.runs import generate

SEED = 0
MOST_BYTES = 4 << 30
"""The largest training set that is generated."""
TAIL = 15
"""Lines of the child's output that an error shows."""


@dataclass(frozen=True)
class TimedArm:
    """A method and an arm, ready to run.

    Attributes:
        name: METHOD or METHOD+ARM, as the user gave it.
        run: its run, with a store of its own.
        spec: the synthesis.
        networks, inputs: of the loop.
        folder: where it works.
    """

    name: str
    run: Run
    spec: SynthesisSpec
    networks: Networks
    inputs: Inputs
    folder: Path

    @property
    def steps(self) -> int:
        """The steps of the whole synthesis."""
        plan = self.run.plan
        return self.spec.steps * plan.slots_per_pass * plan.passes


def plan_arm(name: str, request: Request) -> Run:
    """Plan METHOD or METHOD+ARM under the options of `request`; the arm defaults to baseline.

    Raises:
        DirePlugError: an unknown method, recipe or arm, an arm that synthesizes nothing, or upstream's code isn't
            vendored.
    """
    method, _, arm = name.replace(":", "+").partition("+")
    arm = arm or "baseline"
    if arm in REAL_IMAGE_ARMS:
        raise DirePlugError(f"{name}: the arm '{arm}' uses real images and synthesizes none, so it can't be timed")
    return plan_run(replace(request, method=method, arm=arm))


def check_engines(planned: Mapping[str, Run]) -> str:
    """Return the engine of all arms.

    Raises:
        DirePlugError: they differ, so their times can't be compared.
    """
    engines = {name: one.engine for name, one in planned.items()}
    if len(set(engines.values())) > 1:
        missing = ", ".join(sorted({one.adapter.name for one in planned.values() if one.engine == "native"}))
        raise DirePlugError(
            f"all arms of a timing must use one engine, not {engines}; get upstream's code with: "
            f"dire-plug vendor {missing}"
        )
    return next(iter(engines.values()))


def set_up(name: str, planned: Run, folder: Path, *, real: int) -> TimedArm:
    """Make the networks, images and embeddings of one arm in `folder`.

    Args:
        real: images of each class that are generated, and real embeddings of each class; at least IPC.

    Raises:
        DirePlugError: the recipe's method prepares for hours before its loop, or the images don't fit in memory.
    """
    folder = folder.absolute()
    make_folder(folder)
    dataset = _make_dataset(planned, per_class=max(real, planned.recipe.ipc))
    run = replace(
        planned,
        request=replace(planned.request, seed=SEED),
        data=on_device(dataset, planned.device),
        own_store=Store(folder / "store"),  # untrained networks must not enter the user's store
    )
    _check_preparations(run)
    networks = write_untrained(run)
    inputs = prepare(run, networks)
    embeddings = name_term_embeddings(run, networks, inputs)
    for one in embeddings.values():
        run.store.ensure(one, partial(_write_real, run, one, per_class=real))
    spec = synthesis_spec(run, networks, inputs, embeddings, folder=folder)
    return TimedArm(name, run, spec, networks, inputs, folder)


def _make_dataset(planned: Run, *, per_class: int) -> Dataset:
    """Return the embedded images of a demonstration, else generated ones of the dataset's classes and size."""
    recipe = planned.recipe
    if recipe.demonstration:
        return read_data(planned)
    classes = count_classes(recipe)
    size = recipe.dataset.size or planned.adapter.scripts[recipe.recover.script].size
    if classes * per_class * 3 * size**2 > MOST_BYTES:
        per_class = recipe.ipc  # the loop reads no more than these
    if (needed := classes * per_class * 3 * size**2) > MOST_BYTES:
        raise DirePlugError(
            f"recipe '{planned.recipe.name}': {per_class} generated images a class take {needed / 2**30:.0f} GiB; "
            "lower --ipc: a step takes as long"
        )
    return generate(per_class, classes=classes, size=size)


def _check_preparations(run: Run) -> None:
    """Raise for a recipe of the paper whose method first runs upstream's own code on real images."""
    if run.recipe.demonstration or run.engine != "upstream":
        return
    nowhere = Path("nowhere")
    if names := [one.name for one in run.adapter.preparations(loop_inputs(run, folder=nowhere, images=nowhere))]:
        raise DirePlugError(
            f"{run.adapter.name}, recipe '{run.recipe.name}': before its loop upstream's code makes "
            f"{', '.join(names)}, which takes hours; time --recipe quick, or look at the steps of a real run"
        )


def _write_real(run: Run, real: Artefact, folder: Path, *, per_class: int) -> None:
    """Write seeded random non-negative embeddings instead of those of a network.

    Where the recipe wants a coreset, the first rows of each class stand for its centres.
    """
    network = real.inputs.get("embeddings", real).inputs["network"]
    width = last_linear(load(network_file(run, network), torch.device("cpu")).model).in_features
    labels = torch.arange(run.classes).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(SEED)
    # non-negative, as embeddings behind a ReLU are
    values = torch.randn(len(labels), width, generator=generator).abs()
    content = {"values": values, "labels": labels}
    if (k := run.recipe.real.coreset) is not None:
        centre = (torch.arange(per_class) < k).repeat(run.classes)
        each = torch.ones(int(centre.sum()))
        parts = {"centres": values[centre], "labels": labels[centre], "weights": each, "variances": each.clone()}
        content |= {f"{CORESET}{name}": part for name, part in parts.items()}
    write_atomically(folder / FILE, save(content))


# The synthesis in a process of its own: upstream's patched script, or the native loop.


def run_synthesis(arm: TimedArm, turns: Mapping[str, Any] | None) -> None:
    """Run an arm's synthesis to its end, or until the parent stops it.

    Args:
        turns: see `interleave.take_turns`; None runs without waiting.

    Raises:
        DirePlugError: the child failed; the message has its last lines.
    """
    for name in ("images", "passes"):  # what an earlier process of this arm left
        shutil.rmtree(arm.folder / name, ignore_errors=True)
        make_folder(arm.folder / name)
    (_run_upstream if arm.run.engine == "upstream" else _run_native)(arm, turns)


def _run_upstream(arm: TimedArm, turns: Mapping[str, Any] | None) -> None:
    child = child_job(
        arm.run,
        arm.spec,
        networks=arm.networks,
        inputs=arm.inputs,
        passes=range(arm.run.plan.passes),
        folder=arm.folder,
    )
    run_child(replace(child, turns=turns), log=arm.folder / "log.txt", on_event=lambda event: None)


def _run_native(arm: TimedArm, turns: Mapping[str, Any] | None) -> None:
    file, log = arm.folder / "native.json", arm.folder / "log.txt"
    threads = torch.get_num_threads()
    content = {
        "spec": arm.spec.to_json(),
        "network": str(network_file(arm.run, arm.networks.teacher)),
        "passes": arm.run.plan.passes,
        "images": str(arm.folder / "images"),
        "threads": threads,
        "turns": turns,
    }
    write_json(file, content)
    with log.open("ab") as output:
        # -P: the folder in which the user stands must not shadow a package
        command = [sys.executable, "-P", "-m", "dire_plug.paper.timing.arms", str(file)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()[-TAIL:]
        last = "\n".join(f"  {line}" for line in lines)
        raise DirePlugError(f"{arm.name}: the native loop ended with status {done.returncode}; its last lines:\n{last}")


def main(file: Path) -> None:
    """Run all passes of a native job, `python -m dire_plug.paper.timing.arms JOB`; stop when the parent says so."""
    job = read_json(file)
    torch.set_num_threads(job["threads"])
    spec = SynthesisSpec(**job["spec"])
    adapter = load_adapter(spec.adapter)
    synthesis = open_synthesis(job["spec"], lambda event: None)
    with contextlib.suppress(StopScriptError):
        take_turns(synthesis, job["turns"])
        for index in range(job["passes"]):
            # loaded for each pass, since upstream's script is started for each and loads it too
            network = load(Path(job["network"]), torch.device(spec.device)).model.eval().requires_grad_(False)
            run_native_pass(synthesis, network, adapter, spec, index=index, images=Path(job["images"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
