"""Squeeze: the teacher T, and the independent network I in which the images are judged too; trained or loaded.

The seeds of both are fixed (0 and 1), not the run's: runs of all seeds and arms share one teacher, so that what
differs between them is the synthesis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file
from dire_plug.recipe.model import TrainingSection
from dire_plug.stages.job import Job
from dire_plug.stages.network import Role, cached_network, ensure_network, initial_network

MAIN: Literal["teacher"] = "teacher"
INDEPENDENT: Literal["independent"] = "independent"
TEACHER_SEED = 0
INDEPENDENT_SEED = 1
INDEPENDENT_STEM = "small"
"""Of I where its architecture has it, whatever the script's networks have."""
FROZEN_SEED = 100
"""Of the networks that only terms see, which differ in architecture; far from those of the loop's."""


@dataclass(frozen=True)
class Teachers:
    """The files of the networks: T, I, the further ones in the loop by their key, and those that only terms see."""

    teacher: Path
    independent: Path
    others: Mapping[str, Path] = field(default_factory=dict)
    frozen: Mapping[str, Path] = field(default_factory=dict)

    @property
    def in_loop(self) -> dict[str, Path]:
        """Key → file of the networks that synthesize, T first."""
        return {MAIN: self.teacher, **self.others}

    def digests(self) -> dict[str, str]:
        """Return the sha256 of each file."""
        files = {**self.in_loop, INDEPENDENT: self.independent, **self.frozen}
        return {name: digest_file(path) for name, path in files.items()}


def squeeze(job: Job) -> Teachers:
    """Return T and I, trained or loaded as the recipe says; both are cached.

    Raises:
        DirePlugError: the head is narrower than the dataset's classes, a checkpoint doesn't fit, a training diverged.
    """
    teacher, independent = squeeze_one(job, MAIN), squeeze_one(job, INDEPENDENT)
    others = {role.name: ensure_network(job, role) for role in _roles_in_loop(job)[1:]}
    return Teachers(teacher, independent, others, {role.name: ensure_network(job, role) for role in _frozen(job)})


def squeeze_loop(job: Job) -> Teachers:
    """Return the networks in the loop alone, T in I's place: students need no other; as `squeeze` does.

    Raises:
        DirePlugError: see `squeeze`.
    """
    teacher = squeeze_one(job, MAIN)
    return Teachers(teacher, teacher, {role.name: ensure_network(job, role) for role in _roles_in_loop(job)[1:]})


def cached_loop(job: Job) -> dict[str, Path]:
    """Return key → file of the networks in the loop that the cache holds; none is made."""
    found = {role.name: cached_network(job, role) for role in _roles_in_loop(job)}
    return {name: file for name, file in found.items() if file is not None}


def squeeze_one(job: Job, name: Literal["teacher", "independent"]) -> Path:
    """Return the file of T, or of I, alone; as `squeeze` does.

    Raises:
        DirePlugError: see `squeeze`.
    """
    section = job.recipe.squeeze
    if section.outputs < job.classes:
        raise DirePlugError(
            f"squeeze.outputs: {section.outputs} outputs can't tell the {job.classes} classes of {job.dataset.name} "
            f"apart; raise it to {job.classes} or take a script with as many"
        )
    if name == MAIN:
        return ensure_network(job, _roles_in_loop(job)[0])
    return ensure_network(job, _independent(job))


def lacking(job: Job) -> list[str]:
    """Return the names of the networks that the cache lacks: of those in the loop, of I, and of those of the terms."""
    roles = [*_roles_in_loop(job), _independent(job), *_frozen(job)]
    return [role.name for role in roles if cached_network(job, role) is None]


def untrained(job: Job, folder: Path) -> Teachers:
    """Write all networks but I with seeded initial weights into `folder`, T in I's place.

    A step in them takes as long as in trained ones, so that a loop can be timed.
    """
    from dire_plug.models.checkpoint import save

    def write(role: Role) -> Path:
        blank = replace(role, section=role.section.model_copy(update={"checkpoint": None}))
        network = initial_network(job, blank)
        file = folder / f"{role.name.replace(':', '-')}.safetensors"
        save(file, replace(network, model=network.model.cpu()))
        return file

    main, *others = _roles_in_loop(job)
    teacher = write(main)
    outside = {role.name: write(role) for role in _frozen(job)}
    return Teachers(teacher, teacher, {role.name: write(role) for role in others}, outside)


def _roles_in_loop(job: Job) -> list[Role]:
    """Return T and the further networks in the loop, in the recipe's order."""
    section = job.recipe.squeeze
    others = enumerate(section.others.items(), start=1)
    return [
        Role(MAIN, section.teacher, job.script.stem, TEACHER_SEED),
        *(Role(name, one, _stem(job, one), INDEPENDENT_SEED + number) for number, (name, one) in others),
    ]


def _frozen(job: Job) -> list[Role]:
    """Return the networks outside of the loop in which the recipe's terms work; none in an arm without a term."""
    sections = job.recipe.term.frozen(job.recipe.squeeze) if job.regularizers else {}
    return [Role(name, one, _stem(job, one), FROZEN_SEED) for name, one in sections.items()]


def _independent(job: Job) -> Role:
    from dire_plug.models import stem_like

    section = job.recipe.squeeze.independent
    return Role(INDEPENDENT, section, stem_like(section.architecture, INDEPENDENT_STEM), INDEPENDENT_SEED)


def _stem(job: Job, training: TrainingSection) -> str:
    """Return the script's stem where the architecture has it, else the one that it has."""
    from dire_plug.models import stem_like

    return stem_like(training.architecture, job.script.stem)
