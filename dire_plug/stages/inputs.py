"""What upstream's script of one run gets: its inputs, what its own code prepares before, and the materials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from dire_plug.files import digest_file
from dire_plug.stages.job import Job
from dire_plug.types import LoopInputs, Materials


def prepare_upstream(
    job: Job, teachers: Mapping[str, Path], *, start: str | None
) -> tuple[LoopInputs, Callable[[], Materials]]:
    """Run, or find in the cache, what upstream's own code makes before its loop.

    The materials are loaded at the first call, here where something has to be made.

    Args:
        teachers: key → file of the networks in the loop.
        start: the file of the real start images, if the run has some.

    Raises:
        UpstreamFailedError: upstream's code failed; what was prepared before is kept.
    """
    import torch

    from dire_plug.upstream.preparing import Workplace, prepare_inputs

    inputs = LoopInputs(
        recipe=job.recipe,
        classes=job.classes,
        size=job.dataset.size,
        seed=job.seed,
        folder=(job.folder / "inputs").absolute(),
        images=(job.folder / "images").absolute(),
        training_images=len(job.dataset.train),
    )
    place = Workplace(
        job.cache,
        {"dataset": job.dataset.digest},
        device=str(job.device),
        threads=torch.get_num_threads(),
        teachers={name: digest_file(file) for name, file in teachers.items()},
    )
    materials = cache(lambda: _materials(job, teachers, start))
    return prepare_inputs(job.adapter, inputs, materials, place), materials


def _materials(job: Job, teachers: Mapping[str, Path], start: str | None) -> Materials:
    """Load what an adapter lays out for its script, on the CPU."""
    import torch
    from safetensors.torch import load_file

    from dire_plug.models.checkpoint import load

    networks = {name: load(file, torch.device("cpu")) for name, file in teachers.items()}
    return Materials(networks, job.dataset, load_file(start)["images"] if start else None)
