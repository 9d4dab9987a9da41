"""One network of a run, trained or loaded, with its accuracy; cached."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.files import digest_file, read_json, write_json
from dire_plug.recipe.model import TrainingSection
from dire_plug.runs.cache import cached, entry_of
from dire_plug.stages.job import Job

if TYPE_CHECKING:
    from torch import Generator
    from torch.optim import Optimizer

    from dire_plug.models.checkpoint import Network
    from dire_plug.protocols.training import Epoch

FILE = "network.safetensors"
FORMAT = 1
"""Raised when the same settings give another network."""


@dataclass(frozen=True)
class Role:
    """What one network of a run is.

    Attributes:
        name: `teacher`, `independent`, or the recipe's key of a further one.
        section: how it is trained, or where its weights are.
        stem: of its architecture.
        seed: of its initial weights and its training.
    """

    name: str
    section: TrainingSection
    stem: str
    seed: int


def ensure_network(job: Job, role: Role) -> Path:
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
    return entry / FILE


def cached_network(job: Job, role: Role) -> Path | None:
    """Return the file of one network where the cache has it; none is made."""
    entry = entry_of(job.cache, kind="squeeze", key=_key(job, role))
    return entry / FILE if entry.is_dir() else None


def _key(job: Job, role: Role) -> dict[str, Any]:
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


def _make(job: Job, role: Role, folder: Path) -> None:
    """Write network.safetensors and, last, network.json with its accuracy on the images that judge at that time."""
    from dire_plug.models.checkpoint import save
    from dire_plug.protocols.testing import accuracy
    from dire_plug.stages.views import plain_batches

    network = initial_network(job, role)
    if role.section.checkpoint is None:
        _train(job, role, network, folder / "training")
    tested = accuracy(network.model, plain_batches(job.dataset.test, network, device=job.device))
    save(folder / FILE, replace(network, model=network.model.cpu()))
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


def initial_network(job: Job, role: Role) -> Network:
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


def _train(job: Job, role: Role, network: Network, folder: Path) -> None:
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
