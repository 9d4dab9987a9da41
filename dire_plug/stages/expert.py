"""The last snapshot of an expert that upstream's own code trained, as a network of ours: it embeds by option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file
from dire_plug.runs.cache import cached
from dire_plug.stages.inputs import prepare_upstream
from dire_plug.stages.job import WHITENING, Job

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
"""Raised when the same expert gives another file."""


def expert_network(job: Job, teachers: Mapping[str, Path], *, start: str | None) -> Path:
    """Return the file of the first expert as it is after its last epoch; trains the experts where they aren't cached.

    Where the loop's images are whitened the network whitens what it gets: then it takes pixels, else images
    normalised as the script does.

    Raises:
        DirePlugError: the method has no experts, or their parameters don't fit the architecture.
    """
    inputs, _ = prepare_upstream(job, teachers, start=start)
    architecture, parameters = job.adapter.expert(inputs)
    whitening = job.folder / WHITENING if job.adapter.whitens(job.recipe.recover) else None
    key = {
        "format": FORMAT,
        "architecture": architecture,
        "parameters": _digest(parameters),
        "whitening": digest_file(whitening) if whitening else None,
        "script": job.recipe.recover.script,
    }

    def make(folder: Path) -> None:
        _write(folder / "expert.safetensors", job, architecture, parameters, whitening=whitening)

    return cached(job.cache, kind="expert", key=key, make=make) / "expert.safetensors"


def _write(path: Path, job: Job, architecture: str, parameters: Sequence[Tensor], *, whitening: Path | None) -> None:
    import torch

    from dire_plug.data import whitening as transforms
    from dire_plug.models import build
    from dire_plug.models.checkpoint import Network, save
    from dire_plug.models.whitened import Whitened

    model: nn.Module = build(architecture, outputs=job.classes, stem="small", size=job.dataset.size)
    fill(model, parameters)
    mean, std = job.script.mean, job.script.std
    if whitening is not None:
        transform = transforms.load(whitening, torch.device("cpu"))
        model, mean, std = Whitened(model, mean=transform.mean, matrix=transform.matrix), (0, 0, 0), (1, 1, 1)
    save(path, Network(model, architecture, job.classes, "small", mean, std))


def fill(model: nn.Module, parameters: Sequence[Tensor]) -> None:
    """Put parameters, in the network's own order, into a network.

    Raises:
        DirePlugError: their number or a shape differs.
    """
    import torch

    own = list(model.parameters())
    if [tuple(one.shape) for one in own] != [tuple(one.shape) for one in parameters]:
        raise DirePlugError(
            f"the expert has {len(parameters)} parameters of other shapes than the {len(own)} of the network that "
            "embeds; take recover.embedder.network=teacher"
        )
    with torch.no_grad():
        for one, value in zip(own, parameters, strict=True):
            one.copy_(value)


def _digest(parameters: Sequence[Tensor]) -> str:
    import hashlib

    found = hashlib.sha256()
    for one in parameters:
        found.update(one.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
