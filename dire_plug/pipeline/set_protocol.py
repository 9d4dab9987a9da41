"""What a protocol needs of a set beyond its pixels, and what stands in the place of what the set lacks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dire_plug.files import read_json, write_atomically
from dire_plug.pipeline.outside import OpenedSet
from dire_plug.recipe.evaluate import HardLabelsSection
from dire_plug.recipe.values import LEARNED
from dire_plug.runs.directory import RunFolder
from dire_plug.stages.images import TENSORS
from dire_plug.stages.job import WHITENING
from dire_plug.types import EXTRAS, LEARNED_LR, LOOP

if TYPE_CHECKING:
    from torch import Tensor


def fit_protocol(opened: OpenedSet) -> tuple[OpenedSet, Tensor | None, list[str]]:
    """Return the set with a protocol that needs nothing it lacks, the images in the loop's space where students learn
    from those, and what was put in the place of what.

    Hard labels alone need more than pixels: a learned learning rate (else `lr_without`), and the loop's own tensors
    (else pixels, normalised or whitened).
    """
    section, notes = opened.job.recipe.evaluate, list[str]()
    if not isinstance(section, HardLabelsSection):
        return opened, None, notes
    if section.lr == LEARNED and LEARNED_LR not in learned_by(opened):
        notes.append(f"the set brings no learned learning rate; evaluate.lr_without ({section.lr_without}) is used")
        section = section.model_copy(update={"lr": section.lr_without})
    used = loop = opened.condensed.loop if section.source == "tensor" else None
    if loop is not None and not _is_loops_space(opened, section):
        used = None
        notes.append("students learn from pixels, cut off at 0 and 1: the tensors aren't in the protocol's own space")
    recipe = opened.job.recipe.model_copy(update={"evaluate": section})
    job = replace(opened.job, recipe=recipe, engine="none" if used is None and not opened.run else "upstream")
    return replace(opened, job=job), used, notes


def _is_loops_space(opened: OpenedSet, section: HardLabelsSection) -> bool:
    """Tell whether the set's tensors are in the space in which the protocol trains: a run's are, or it refuses."""
    if opened.run is not None:
        return True
    space, script = opened.reading.space, opened.job.script
    if space is None or opened.job.adapter.whitens(opened.job.recipe.recover) != section.whiten:
        return False
    return section.whiten if space.kind == "zca" else (space.mean, space.std) == (script.mean, script.std)


def learned_by(opened: OpenedSet) -> dict[str, Any]:
    """Return what the run's script learned beside the images."""
    path = opened.run.path / EXTRAS if opened.run else None
    found: dict[str, Any] = read_json(path) if path and path.is_file() else {}
    return found


def lay_out(opened: OpenedSet, run: RunFolder, loop: Tensor | None) -> None:
    """Put into the folder what a lesson reads from a run's: loop tensors, whitening, learned rate."""
    from safetensors.torch import save

    if loop is not None:
        write_atomically(run.path / TENSORS, save({LOOP: loop.contiguous()}))
    if opened.run is not None:
        for name in (EXTRAS, WHITENING):
            if (opened.run.path / name).is_file():
                shutil.copyfile(opened.run.path / name, run.path / name)
