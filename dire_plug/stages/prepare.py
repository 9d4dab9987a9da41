"""Prepare: make what the loop needs before it starts.

Real start images, the ZCA transform, what upstream's own code makes first (ranked selections, statistics, experts), and
an expert as a network of ours. Each is made once, and shared by all arms and seeds that don't change it.
"""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dire_plug.data.augmentation import zca
from dire_plug.errors import DirePlugError
from dire_plug.models import build
from dire_plug.models import checkpoint as checkpoints
from dire_plug.models.checkpoint import Network, Whitened
from dire_plug.recipe.model import RDED
from dire_plug.seeding import derive
from dire_plug.stages.artefacts import Inputs, Networks, loop_inputs, name_inputs, name_whitening
from dire_plug.stages.real_images import draw_per_class
from dire_plug.stages.real_patches import PATCHES, make_of_patches
from dire_plug.stages.row_file import stream_rows
from dire_plug.stages.squeeze import FILE as NETWORK
from dire_plug.stages.squeeze import network_file
from dire_plug.store.runs import Run
from dire_plug.types import ScriptInputs
from dire_plug.upstream.preparations import MADE, run_preparation

START = "start.safetensors"
WHITENING = "whitening.safetensors"


def prepare(run: Run, networks: Networks) -> Inputs:
    """Return what the loop needs, made where the store lacks it.

    Raises:
        DirePlugError: a class has fewer real images than IPC; upstream's code isn't vendored.
        UpstreamFailedError: upstream's code failed; earlier preparations are kept.
    """
    inputs = name_inputs(run, networks)
    if inputs.start is not None:
        run.store.ensure(inputs.start, partial(_write_start, run, networks))
    if inputs.whitening is not None:
        ensure_whitening(run)
    # loaded for the first preparation that is made, if any, and then shared
    script_inputs = cache(lambda: load_script_inputs(run, networks, inputs))
    for name, one in inputs.prepared.items():
        run.store.ensure(one, lambda folder, name=name: _prepare(run, inputs, name, folder, script_inputs()))  # type: ignore[misc]
    if inputs.expert is not None:
        run.store.ensure(inputs.expert, partial(_write_expert, run, inputs))
    return inputs


def ensure_whitening(run: Run) -> Path:
    """Return the file of the ZCA transform of the training images, fitted where the store lacks it."""
    entry = run.store.ensure(
        name_whitening(run), lambda folder: zca.save(folder / WHITENING, zca.fit(run.dataset.train.images()))
    )
    return entry / WHITENING


def whitening_file(run: Run, inputs: Inputs) -> Path | None:
    """Return the file of the transform of the loop's images; None where they aren't whitened."""
    return None if inputs.whitening is None else run.store.path(inputs.whitening) / WHITENING


def start_file(run: Run, inputs: Inputs) -> Path | None:
    """Return the file of the start images; None where the loop isn't given any."""
    return None if inputs.start is None else run.store.path(inputs.start) / START


def prepared_folders(run: Run, inputs: Inputs) -> dict[str, Path]:
    """Return name of a preparation → the folder that upstream's code filled."""
    return {name: (run.store.path(one) / MADE).absolute() for name, one in inputs.prepared.items()}


def load_script_inputs(run: Run, networks: Networks, inputs: Inputs) -> ScriptInputs:
    """Load what an adapter writes for its script, on the CPU."""
    cpu, start = torch.device("cpu"), start_file(run, inputs)
    teachers = {name: checkpoints.load(network_file(run, one), cpu) for name, one in networks.in_loop.items()}
    return ScriptInputs(teachers, run.dataset, load_file(start)["images"] if start else None)


def _write_start(run: Run, networks: Networks, folder: Path) -> None:
    """Write IPC images of each class, real ones drawn without replacement, or RDED's: uint8, [C, ipc, 3, H, W]."""
    if run.recipe.recover.start == RDED:
        of_classes = make_of_patches(run, networks, sources=folder / PATCHES)
    else:
        of_classes = (run.dataset.train.images(own).cpu() for own in torch.split(_draw_start(run), run.recipe.ipc))
    places = torch.arange(run.classes)
    with stream_rows(folder / START, places, beside={}, dtype=torch.uint8, name="images") as add:
        for images in of_classes:
            add(images[None])


def _draw_start(run: Run) -> Tensor:
    """Draw IPC real images of each class without replacement: their indices, [C·ipc], by class."""
    return draw_per_class(
        run.dataset,
        ipc=run.recipe.ipc,
        seed=derive(run.seed, "start"),
        too_few=lambda name, count: DirePlugError(
            f"class '{name}' of {run.dataset.name} has {count} images; IPC {run.recipe.ipc} needs as many "
            "to start from; lower the IPC or use recover.start=noise"
        ),
    )


def _prepare(run: Run, inputs: Inputs, name: str, folder: Path, script_inputs: ScriptInputs) -> None:
    # an adapter sees from these folders what is prepared already
    before = list(inputs.prepared)[: list(inputs.prepared).index(name)]
    prepared = {one: path for one, path in prepared_folders(run, inputs).items() if one in before}
    described = loop_inputs(run, folder=folder, images=folder, prepared=prepared)
    threads = torch.get_num_threads()
    run_preparation(run.adapter, name, described, script_inputs, folder=folder, device=str(run.device), threads=threads)


def _write_expert(run: Run, inputs: Inputs, folder: Path) -> None:
    """Write the first expert as it is after its last epoch, as a network of ours.

    Where the loop's images are whitened the network whitens what it gets: then it takes pixels, else images
    normalised as the script does.

    Raises:
        DirePlugError: the method has no experts, or their parameters don't fit the architecture.
    """
    described = loop_inputs(run, folder=folder, images=folder, prepared=prepared_folders(run, inputs))
    architecture, parameters = run.adapter.expert(described)
    model: nn.Module = build(architecture, outputs=run.classes, stem="small", size=run.dataset.size)
    # upstream keeps bare parameter lists without names, so order and shapes are all there is to compare
    fill(model, parameters)
    mean, std = run.script.mean, run.script.std
    if (file := whitening_file(run, inputs)) is not None:
        transform = zca.load(file, torch.device("cpu"))
        model, mean, std = Whitened(model, mean=transform.mean, matrix=transform.matrix), (0, 0, 0), (1, 1, 1)
    checkpoints.save(folder / NETWORK, Network(model, architecture, run.classes, "small", mean, std))


def fill(model: nn.Module, parameters: Sequence[Tensor]) -> None:
    """Put parameters, in the network's own order, into a network.

    Raises:
        DirePlugError: their number or a shape differs.
    """
    own = list(model.parameters())
    if [tuple(one.shape) for one in own] != [tuple(one.shape) for one in parameters]:
        raise DirePlugError(
            f"the expert has {len(parameters)} parameters of other shapes than the {len(own)} of the network that "
            "embeds; take recover.embedder.network=teacher"
        )
    with torch.no_grad():
        for one, value in zip(own, parameters, strict=True):
            one.copy_(value)
