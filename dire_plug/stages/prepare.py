"""What the loop needs before it starts: the start images of the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.runs.cache import cached
from dire_plug.seeding import derive
from dire_plug.stages.job import Job
from dire_plug.stages.select import draw_per_class

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 2


def prepare_start(job: Job) -> dict[str, Any]:
    """Return the `start` of a `SynthesisSpec`: the script's own, noise, or a file of real images of each class.

    Noise has a shape where the dataset's images aren't of the script's size, and is upstream's own otherwise.

    Raises:
        DirePlugError: a class has fewer real images than IPC.
    """
    size = job.dataset.size
    if job.recipe.recover.start == "own":
        return {"kind": "own", "shape": None, "file": None}
    if job.recipe.recover.start == "noise":
        return {"kind": "noise", "shape": None if size == job.script.size else [3, size, size], "file": None}
    entry = cached(
        job.cache,
        kind="start",
        key={
            "format": FORMAT,
            "dataset": job.dataset.digest,
            "ipc": job.recipe.ipc,
            "seed": job.seed,
        },
        make=lambda folder: _write_real_images(job, folder),
    )
    return {
        "kind": "real",
        "shape": [3, size, size],
        "file": str(entry / "start.safetensors"),
        "mean": list(job.script.mean),
        "std": list(job.script.std),
    }


def _write_real_images(job: Job, folder: Path) -> None:
    """Draw IPC real images of each class without replacement; write them as uint8 [C, ipc, 3, H, W]."""
    from safetensors.torch import save

    indices = draw_per_class(
        job.dataset,
        ipc=job.recipe.ipc,
        seed=derive(job.seed, "start"),
        refuse=lambda name, count: DirePlugError(
            f"class '{name}' of {job.dataset.name} has {count} images; IPC {job.recipe.ipc} needs as many "
            "to start from; lower the IPC or use recover.start=noise"
        ),
    )
    images = job.dataset.train.images(indices).cpu()
    shape = (job.classes, job.recipe.ipc, *images.shape[1:])
    write_atomically(folder / "start.safetensors", save({"images": images.reshape(shape).contiguous()}))
