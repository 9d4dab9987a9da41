"""Squeeze: the teacher T, and the independent network I in which the images are judged too; trained or loaded.

The seeds of both are fixed (0 and 1), not the run's: runs of all seeds and arms share one teacher, so that what
differs between them is the synthesis.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, read_json, write_json
from dire_plug.recipe.model import TrainingSection
from dire_plug.runs.cache import cached, entry_of
from dire_plug.stages.job import Job

if TYPE_CHECKING:
    from torch import Generator
    from torch.optim import Optimizer

    from dire_plug.models.checkpoint import Network
    from dire_plug.protocols.training import Epoch

FORMAT = 1
"""Raised when the same settings give another network."""
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


@dataclass(frozen=True)
class _Role:
    name: str
    section: TrainingSection
    stem: str
    seed: int


def squeeze(job: Job) -> Teachers:
    """Return T and I, trained or loaded as the recipe says; both are cached.

    Raises:
        DirePlugError: the head is narrower than the dataset's classes, a checkpoint doesn't fit, a training diverged.
    """
    teacher, independent = squeeze_one(job, MAIN), squeeze_one(job, INDEPENDENT)
    others = {role.name: _network(job, role) for role in _roles_in_loop(job)[1:]}
    return Teachers(teacher, independent, others, {role.name: _network(job, role) for role in _frozen(job)})


def squeeze_loop(job: Job) -> Teachers:
    """Return the networks in the loop alone, T in I's place: students need no other; as `squeeze` does.

    Raises:
        DirePlugError: see `squeeze`.
    """
    teacher = squeeze_one(job, MAIN)
    return Teachers(teacher, teacher, {role.name: _network(job, role) for role in _roles_in_loop(job)[1:]})


def cached_loop(job: Job) -> dict[str, Path]:
    """Return key → file of the networks in the loop that the cache holds; none is made."""
    entries = {role.name: entry_of(job.cache, kind="squeeze", key=_key(job, role)) for role in _roles_in_loop(job)}
    return {name: entry / "network.safetensors" for name, entry in entries.items() if entry.is_dir()}


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
        return _network(job, _roles_in_loop(job)[0])
    return _network(job, _independent(job))


def lacking(job: Job) -> list[str]:
    """Return the names of the networks that the cache lacks: of those in the loop, of I, and of those of the terms."""
    roles = [*_roles_in_loop(job), _independent(job), *_frozen(job)]
    return [role.name for role in roles if not entry_of(job.cache, kind="squeeze", key=_key(job, role)).is_dir()]


def untrained(job: Job, folder: Path) -> Teachers:
    """Write all networks but I with seeded initial weights into `folder`, T in I's place.

    A step in them takes as long as in trained ones, so that a loop can be timed.
    """
    from dire_plug.models.checkpoint import save

    def write(role: _Role) -> Path:
        blank = replace(role, section=role.section.model_copy(update={"checkpoint": None}))
        network = _initial(job, blank)
        file = folder / f"{role.name.replace(':', '-')}.safetensors"
        save(file, replace(network, model=network.model.cpu()))
        return file

    main, *others = _roles_in_loop(job)
    teacher = write(main)
    outside = {role.name: write(role) for role in _frozen(job)}
    return Teachers(teacher, teacher, {role.name: write(role) for role in others}, outside)


def _roles_in_loop(job: Job) -> list[_Role]:
    """Return T and the further networks in the loop, in the recipe's order."""
    section = job.recipe.squeeze
    others = enumerate(section.others.items(), start=1)
    return [
        _Role(MAIN, section.teacher, job.script.stem, TEACHER_SEED),
        *(_Role(name, one, _stem(job, one), INDEPENDENT_SEED + number) for number, (name, one) in others),
    ]


def _frozen(job: Job) -> list[_Role]:
    """Return the networks outside of the loop in which the recipe's terms work; none in an arm without a term."""
    sections = job.recipe.term.frozen(job.recipe.squeeze) if job.regularizers else {}
    return [_Role(name, one, _stem(job, one), FROZEN_SEED) for name, one in sections.items()]


def _independent(job: Job) -> _Role:
    from dire_plug.models import stem_like

    section = job.recipe.squeeze.independent
    return _Role(INDEPENDENT, section, stem_like(section.architecture, INDEPENDENT_STEM), INDEPENDENT_SEED)


def _stem(job: Job, training: TrainingSection) -> str:
    """Return the script's stem where the architecture has it, else the one that it has."""
    from dire_plug.models import stem_like

    return stem_like(training.architecture, job.script.stem)


def _network(job: Job, role: _Role) -> Path:
    """Return the file of one network; make it where the cache lacks it."""
    made: list[bool] = []

    def make(folder: Path) -> None:
        made.append(True)
        _make(job, role, folder)

    entry = cached(job.cache, kind="squeeze", key=_key(job, role), make=make)
    found = read_json(entry / "network.json")
    report = ui.say if made else ui.detail
    judged = found.get("judged", "test")
    report(f"squeeze: {role.name} ({role.section.architecture}) has {found['accuracy']:.2f} % {judged} accuracy")
    return entry / "network.safetensors"


def _key(job: Job, role: _Role) -> dict[str, Any]:
    """Return all that decides the network, except the device."""
    import torch

    settings = role.section.model_dump(mode="json")
    if (checkpoint := role.section.checkpoint) is not None:
        path = Path(checkpoint).expanduser()
        source = checkpoint if checkpoint.startswith("torchvision:") or not path.is_file() else digest_file(path)
        settings = {"architecture": role.section.architecture, "checkpoint": source}
    return {
        "format": FORMAT,
        "dataset": job.dataset.digest,
        "settings": settings,
        "mean": list(job.script.mean),
        "std": list(job.script.std),
        "stem": role.stem,
        "outputs": job.recipe.squeeze.outputs,
        "seed": role.seed,
        "torch": torch.__version__,
    }


def _make(job: Job, role: _Role, folder: Path) -> None:
    """Write network.safetensors and, last, network.json with its accuracy on the images that judge at that time."""
    from dire_plug.models.checkpoint import save
    from dire_plug.protocols.testing import accuracy
    from dire_plug.stages.views import plain_batches

    network = _initial(job, role)
    if role.section.checkpoint is None:
        _train(job, role, network, folder / "training")
    tested = accuracy(network.model, plain_batches(job.dataset.test, network, device=job.device))
    save(folder / "network.safetensors", replace(network, model=network.model.cpu()))
    write_json(
        folder / "network.json",
        {
            "role": role.name,
            "architecture": role.section.architecture,
            "checkpoint": role.section.checkpoint,
            "epochs": None if role.section.checkpoint else role.section.epochs,
            "dataset": job.dataset.name,
            "accuracy": tested,
            "judged": job.dataset.judged,
            "device": str(job.device),
        },
    )
    shutil.rmtree(folder / "training", ignore_errors=True)


def _initial(job: Job, role: _Role) -> Network:
    """Return the network on the job's device, with the weights of the checkpoint or with seeded initial ones.

    A ConvNet trained here reads its last map as `head` says; a transformer is made for the dataset's size.
    """
    from dire_plug.models import build
    from dire_plug.models.architectures import is_made_for_a_size, size_of
    from dire_plug.models.checkpoint import Network
    from dire_plug.protocols.training import initialised
    from dire_plug.stages.weights import read_weights

    architecture, outputs, stem = role.section.architecture, job.recipe.squeeze.outputs, role.stem
    if role.section.checkpoint is None:
        sized = role.section.head == "flat" or is_made_for_a_size(architecture)
        size = job.dataset.size if sized else None
        model = initialised(lambda: build(architecture, outputs=outputs, stem=stem, size=size), role.seed)
    else:
        state = read_weights(job, role.section.checkpoint, architecture=architecture, stem=stem)
        model = build(architecture, outputs=outputs, stem=stem, size=size_of(architecture, state))
        model.load_state_dict(state)
    return Network(model.to(job.device), architecture, outputs, stem, job.script.mean, job.script.std)


def _train(job: Job, role: _Role, network: Network, folder: Path) -> None:
    """Train in place by cross-entropy on the training images."""
    from dire_plug.protocols.training import Epoch, Training, shuffled, train
    from dire_plug.stages.views import training_view

    section, split, model = role.section, job.dataset.train, network.model
    view = training_view(network, augmentation=section.augmentation, padding=section.padding)

    def run_epoch(epoch: int, optimiser: Optimizer, generator: Generator) -> Epoch:
        import torch
        from torch.nn import functional as F

        model.train()
        losses = []
        for batch in shuffled(len(split), section.batch_size, generator):
            inputs = view(split.images(batch).to(job.device), generator)
            loss = F.cross_entropy(model(inputs), split.labels[batch].to(job.device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
        return Epoch(torch.stack(losses).mean())

    training = Training(
        epochs=section.epochs,
        lr=section.lr,
        weight_decay=section.weight_decay,
        seed=role.seed,
        momentum=section.momentum,
        warmup_epochs=section.warmup_epochs,
        schedule=section.schedule,
    )
    with ui.progress(f"squeeze: {role.name} ({section.architecture})", section.epochs) as advance:
        train(model, run_epoch, training, folder=folder, progress=advance)
