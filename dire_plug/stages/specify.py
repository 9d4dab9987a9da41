"""What makes a run's synthesis: its networks, its start, and the real images' embeddings for its terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dire_plug.stages.embed import real_for_regularizer
from dire_plug.stages.expert import expert_network
from dire_plug.stages.job import WHITENING, Job
from dire_plug.stages.prepare import prepare_start
from dire_plug.stages.squeeze import MAIN, Teachers
from dire_plug.synthesis import SynthesisSpec
from dire_plug.types import LOOP

EXPERT = "expert"
"""The key of an expert's last snapshot, where the terms work in that."""


def synthesis_spec(
    job: Job, networks: Teachers, *, embed_real: Callable[[Job, Path], Path] = real_for_regularizer
) -> SynthesisSpec:
    """Return what makes this run's synthesis; embeds the real images where a term needs them.

    Args:
        embed_real: the job and a network's file → the file of the real embeddings.
    """
    recipe, start = job.recipe, prepare_start(job)
    whitening = _ensure_whitening(job)
    embedding = _embedding_networks(job, networks.in_loop, start=start["file"])
    frozen = networks.frozen
    files = {**({} if not job.regularizers or LOOP in embedding else embedding), **frozen}
    real = {name: str(embed_real(job, file)) for name, file in files.items()}
    embedder = None
    if (section := recipe.recover.embedder) is not None:
        network = next(iter(embedding.values()))
        embedder = _embedder(network, whitening, classes_per_step=section.classes_per_step)
    return SynthesisSpec(
        adapter=job.adapter.name,
        recover=recipe.recover.model_dump(mode="json"),
        regularizers=job.regularizers,
        classes=job.classes,
        ipc=recipe.ipc,
        steps=job.adapter.steps(recipe.recover),
        seed=job.seed,
        device=str(job.device),
        start=start,
        real=real,
        passes=str(job.folder / "passes"),
        networks=tuple(embedding),
        accelerate=job.accelerate,
        embedder=embedder,
        frozen={name: _embedder(file, whitening) for name, file in frozen.items()},
        in_loop=recipe.term.in_loop(recipe.squeeze),
    )


def _embedder(network: Path, whitening: Path | None, *, classes_per_step: int | None = None) -> dict[str, Any]:
    """Return what `synthesis.embedder.Embedder` is made of; without `classes_per_step` it embeds all classes."""
    return {
        "network": str(network),
        "classes_per_step": classes_per_step,
        "whitening": str(whitening) if whitening else None,
    }


def _ensure_whitening(job: Job) -> Path | None:
    """Return the file of the ZCA transform that the loop's images have, fitted here at first; None without one."""
    from dire_plug.data.whitening import ensure

    return ensure(job.folder / WHITENING, job.dataset.train) if job.adapter.whitens(job.recipe.recover) else None


def _embedding_networks(job: Job, teachers: Mapping[str, Path], *, start: str | None) -> Mapping[str, Path]:
    """Return key → file of the networks in which the terms work; the loop's own untrained one has no file."""
    section = job.recipe.recover.embedder
    if section is None:
        return teachers
    if section.network == EXPERT:
        return {EXPERT: expert_network(job, teachers, start=start)} if job.regularizers else {EXPERT: teachers[MAIN]}
    return {LOOP: Path(LOOP)} if section.network == LOOP else {MAIN: teachers[MAIN]}
