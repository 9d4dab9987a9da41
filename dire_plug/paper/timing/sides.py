"""A side of a timing: a method and an arm, by a recipe, with networks that nobody trained and images that nobody took.

A step takes as long with them. So nothing is trained, and no dataset is needed: images are generated, but for the
embedded ones of the demonstrations; real embeddings are random and non-negative.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save

from dire_plug.data import Dataset, class_count, on_device
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, write_atomically
from dire_plug.models import last_linear
from dire_plug.models.checkpoint import load
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import read_data
from dire_plug.recipe import REAL_IMAGE_ARMS
from dire_plug.stages.artefacts import Inputs, Networks, loop_inputs, name_term_embeddings
from dire_plug.stages.embed import FILE
from dire_plug.stages.prepare import prepare
from dire_plug.stages.recover import synthesis_spec
from dire_plug.stages.squeeze import network_file, write_untrained
from dire_plug.store.artefacts import Artefact, Store
from dire_plug.synthesis import SynthesisSpec
from dire_plug.types import CORESET
from dire_plug.upstream.verify.runs import generate

SEED = 0
MOST_BYTES = 4 << 30
"""The largest training set that is generated."""


@dataclass(frozen=True)
class Side:
    """One side, ready to run.

    Attributes:
        name: as the user gave it.
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


def plan_side(name: str, request: Request) -> Run:
    """Return what `name` stands for under the options of `request`: METHOD, or METHOD+ARM; the arm is baseline then.

    Raises:
        DirePlugError: an unknown method, recipe or arm, an arm that synthesizes nothing, upstream's code isn't here.
    """
    method, _, arm = name.replace(":", "+").partition("+")
    arm = arm or "baseline"
    if arm in REAL_IMAGE_ARMS:
        raise DirePlugError(f"{name}: the arm '{arm}' takes real images and synthesizes none; there is nothing to time")
    return plan_run(replace(request, method=method, arm=arm))


def check_engines(planned: Mapping[str, Run]) -> str:
    """Return the engine of all sides.

    Raises:
        DirePlugError: they differ, and the time of one says nothing beside that of another.
    """
    engines = {name: one.engine for name, one in planned.items()}
    if len(set(engines.values())) > 1:
        missing = ", ".join(sorted({one.adapter.name for one in planned.values() if one.engine == "native"}))
        raise DirePlugError(
            f"sides of one timing must use one engine, not {engines}; get upstream's code with: "
            f"dire-plug vendor {missing}"
        )
    return next(iter(engines.values()))


def set_up(name: str, planned: Run, folder: Path, *, real: int) -> Side:
    """Make the networks, images and embeddings of one side in `folder`.

    Args:
        real: images of each class that are generated, and real embeddings of each class; at least IPC.

    Raises:
        DirePlugError: the recipe's method prepares for hours before its loop, or the images don't fit in memory.
    """
    folder = folder.absolute()
    make_folder(folder)
    dataset = _dataset(planned, per_class=max(real, planned.recipe.ipc))
    run = replace(
        planned,
        request=replace(planned.request, seed=SEED),
        data=on_device(dataset, planned.device),
        own_store=Store(folder / "store"),
    )
    _refuse_long_preparations(run)
    networks = write_untrained(run)
    inputs = prepare(run, networks)
    embeddings = name_term_embeddings(run, networks, inputs)
    for one in embeddings.values():
        run.store.ensure(one, partial(_write_real, run, one, per_class=real))
    spec = synthesis_spec(run, networks, inputs, embeddings, folder=folder)
    return Side(name, run, spec, networks, inputs, folder)


def _dataset(planned: Run, *, per_class: int) -> Dataset:
    """Return the embedded images of a demonstration, else generated ones of the dataset's classes and size."""
    recipe = planned.recipe
    if recipe.demonstration:
        return read_data(planned)
    classes = class_count(recipe.dataset.name)
    size = recipe.dataset.size or planned.adapter.scripts[recipe.recover.script].size
    if classes * per_class * 3 * size**2 > MOST_BYTES:
        per_class = recipe.ipc
    if (needed := classes * per_class * 3 * size**2) > MOST_BYTES:
        raise DirePlugError(
            f"recipe '{planned.source.stem}': {per_class} generated images a class take {needed / 2**30:.0f} GiB; "
            "lower --ipc: a step takes as long"
        )
    return generate(per_class, classes=classes, size=size)


def _refuse_long_preparations(run: Run) -> None:
    """Raise for a recipe of the paper whose method makes something first with upstream's own code, on real images."""
    if run.recipe.demonstration or run.engine != "upstream":
        return
    nowhere = Path("nowhere")
    if names := [one.name for one in run.adapter.preparations(loop_inputs(run, folder=nowhere, images=nowhere))]:
        raise DirePlugError(
            f"{run.adapter.name}, recipe '{run.recipe.name}': before its loop upstream's code makes "
            f"{', '.join(names)}, for hours; time --recipe quick, or look at the steps of a real run"
        )


def _write_real(run: Run, real: Artefact, folder: Path, *, per_class: int) -> None:
    """Write seeded random non-negative embeddings instead of those of a network.

    Where the recipe wants a coreset, the first rows of each class stand for its centres.
    """
    network = real.inputs.get("embeddings", real).inputs["network"]
    labels = torch.arange(run.classes).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(SEED)
    values = torch.randn(len(labels), _width(network_file(run, network)), generator=generator).abs()
    content = {"values": values, "labels": labels}
    if (k := run.recipe.real.coreset) is not None:
        centre = (torch.arange(per_class) < k).repeat(run.classes)
        each = torch.ones(int(centre.sum()))
        parts = {"centres": values[centre], "labels": labels[centre], "weights": each, "variances": each.clone()}
        content |= {f"{CORESET}{name}": part for name, part in parts.items()}
    write_atomically(folder / FILE, save(content))


def _width(network: Path) -> int:
    return last_linear(load(network, torch.device("cpu")).model).in_features
