"""A side of a timing: a method and an arm, by a recipe, with networks that nobody trained and images that nobody took.

A step takes as long with them. So nothing is trained, and no dataset is needed: images are generated, but for the
embedded ones of the demonstrations; real embeddings are random and non-negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, write_atomically
from dire_plug.pipeline.request import PlannedRun, Request, choose_device, plan_run
from dire_plug.recipe import REAL_IMAGE_ARMS
from dire_plug.stages.job import Job
from dire_plug.types import LoopInputs

if TYPE_CHECKING:
    from dire_plug.data import Dataset
    from dire_plug.synthesis import SynthesisSpec

SEED = 0
MOST_BYTES = 4 << 30
"""The largest training set that is generated."""


@dataclass(frozen=True)
class Side:
    """One side, ready to run.

    Attributes:
        name: as the user gave it.
        job: its run, in a folder of its own.
        spec: the synthesis.
        teachers: key → file of the networks in the loop.
    """

    name: str
    job: Job
    spec: SynthesisSpec
    teachers: Mapping[str, Path]

    @property
    def steps(self) -> int:
        """The steps of the whole synthesis."""
        plan = self.job.plan
        return self.spec.steps * plan.slots_per_pass * plan.passes


def plan_side(name: str, request: Request) -> PlannedRun:
    """Return what `name` stands for under the options of `request`: METHOD, or METHOD+ARM; the arm is baseline then.

    Raises:
        DirePlugError: an unknown method, recipe or arm, an arm that synthesizes nothing, upstream's code isn't here.
    """
    method, _, arm = name.replace(":", "+").partition("+")
    arm = arm or "baseline"
    if arm in REAL_IMAGE_ARMS:
        raise DirePlugError(f"{name}: the arm '{arm}' takes real images and synthesizes none; there is nothing to time")
    return plan_run(replace(request, method=method, arm=arm))


def check_engines(planned: Mapping[str, PlannedRun]) -> str:
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


def set_up(name: str, planned: PlannedRun, folder: Path, *, real: int) -> Side:
    """Make the networks, images and embeddings of one side in `folder`.

    Args:
        real: images of each class that are generated, and real embeddings of each class; at least IPC.

    Raises:
        DirePlugError: the recipe's method prepares for hours before its loop, or the images don't fit in memory.
    """
    import torch

    from dire_plug.stages.specify import synthesis_spec
    from dire_plug.stages.squeeze import untrained

    resolved, request = planned.resolved, planned.request
    make_folder(folder)
    job = Job(
        recipe=resolved.recipe,
        arm=request.arm,
        regularizers=resolved.regularizers,
        adapter=planned.adapter,
        dataset=_dataset(planned, per_class=max(real, resolved.recipe.ipc)),
        seed=SEED,
        device=torch.device(choose_device(request.device)),
        engine=planned.engine,
        folder=folder.absolute(),
        cache=folder.absolute() / "cache",
        offline=request.offline,
        accelerate=request.accelerate == "exact",
    )
    _refuse_long_preparations(job)
    networks = untrained(job, folder.absolute())
    spec = synthesis_spec(job, networks, embed_real=partial(_write_real, per_class=real))
    return Side(name, job, spec, networks.in_loop)


def _dataset(planned: PlannedRun, *, per_class: int) -> Dataset:
    """Return the embedded images of a demonstration, else generated ones of the dataset's classes and size."""
    from dire_plug.data import class_count
    from dire_plug.pipeline.run import load_data
    from dire_plug.upstream.trial import generate

    recipe = planned.resolved.recipe
    if recipe.demonstration:
        return load_data(planned)
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


def _refuse_long_preparations(job: Job) -> None:
    """Refuse a recipe of the paper whose method makes something first with upstream's own code, on real images."""
    if job.recipe.demonstration or job.engine != "upstream":
        return
    inputs = LoopInputs(job.recipe, job.classes, job.dataset.size, job.seed, job.folder, job.folder)
    if names := [preparation.name for preparation in job.adapter.preparations(inputs)]:
        raise DirePlugError(
            f"{job.adapter.name}, recipe '{job.recipe.name}': before its loop upstream's code makes "
            f"{', '.join(names)}, for hours; time --recipe quick, or look at the steps of a real run"
        )


def _write_real(job: Job, network: Path, *, per_class: int) -> Path:
    """Write seeded random non-negative embeddings in the place of those of `network`; return their file.

    Where the recipe wants a coreset, the first rows of each class stand for its centres.
    """
    import torch
    from safetensors.torch import save

    from dire_plug.types import CORESET

    labels = torch.arange(job.classes).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(SEED)
    values = torch.randn(len(labels), _width(network), generator=generator).abs()
    content = {"values": values, "labels": labels}
    if (k := job.recipe.real.coreset) is not None:
        centre = (torch.arange(per_class) < k).repeat(job.classes)
        each = torch.ones(int(centre.sum()))
        parts = {"centres": values[centre], "labels": labels[centre], "weights": each, "variances": each.clone()}
        content |= {f"{CORESET}{name}": part for name, part in parts.items()}
    file = network.with_name(f"real-{network.name}")
    write_atomically(file, save(content))
    return file


def _width(network: Path) -> int:
    import torch

    from dire_plug.models import last_linear
    from dire_plug.models.checkpoint import load

    return last_linear(load(network, torch.device("cpu")).model).in_features
