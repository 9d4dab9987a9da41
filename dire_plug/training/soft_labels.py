"""Relabel: every epoch's batches drawn, labelled and stored before the first student, where the protocol stores labels.

All students of a run read the same labels, which don't depend on them. At 1000 outputs an image takes 2 kB an epoch:
30 GB for ImageNet-1K at IPC 50 and 300 epochs. What it takes is said before, in disk and time, and refused where the
disk hasn't as much; the labels go when the last student of the run is finished.
"""

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.models.checkpoint import Network
from dire_plug.recipe.evaluate import FkdEnsembleSection, FkdSection
from dire_plug.seeding import derive
from dire_plug.store.runs import Run
from dire_plug.training.loop import seeded, shuffled
from dire_plug.training.protocols import stored_label
from dire_plug.training.soft_label_files import (
    FOLDER,
    Drawn,
    Geometry,
    draw,
    epoch_bytes,
    epoch_file,
    is_stored,
    read_epoch,
    rebuild,
    write_epoch,
)
from dire_plug.training.students import Stored, StudentData, own_copies

PROBED = 128
"""Images that are labelled twice, the second time by the clock, to say how long all will take."""


@dataclass(frozen=True, eq=False)
class _Labelling:
    """The images, how they are shown, who labels them, and where."""

    images: Tensor
    geometry: Geometry
    models: list[nn.Module]
    section: FkdSection | FkdEnsembleSection
    device: torch.device


def relabel(
    run: Run,
    section: FkdSection | FkdEnsembleSection,
    networks: list[Network],
    *,
    data: StudentData,
    folder: Path,
    name: str,
) -> Stored:
    """Label the epochs that aren't stored yet, and return what gives out the batches of each.

    What is random comes from (the run's seed, the epoch), so a stage that was killed goes on with the same labels.

    Args:
        section: the protocol, whose `stored_label` is kept.
        networks: those that label, on the run's device; all take equally normalised images.
        data: its images and classes.
        folder: named by all that decides the labels; it gets a file for each epoch.
        name: of the set, for the progress.

    Raises:
        DirePlugError: the disk has too little room, or a file can't be written.
    """
    labelling = _labelling(run, section, networks, data)
    files = {epoch: epoch_file(folder, epoch) for epoch in range(section.epochs)}
    missing = {epoch: path for epoch, path in files.items() if not is_stored(path)}
    if missing:
        _announce(labelling, folder=folder, epochs=len(missing), outputs=networks[0].outputs)
        with ui.progress(f"relabel ({name})", section.epochs) as advance:
            for epoch, path in missing.items():
                batches = list(_label(labelling, derive(run.seed, FOLDER, epoch)))
                write_epoch(path, batches)
                advance(epoch + 1)
    classes = data.labels.to(run.device)

    def stored(epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for drawn, logits in read_epoch(files[epoch], batch_size=section.batch_size):
            inputs = rebuild(labelling.images, drawn, geometry=labelling.geometry, device=run.device)
            yield inputs, logits.to(run.device).float(), classes[drawn.indices.to(run.device)]

    return stored


def _labelling(
    run: Run, section: FkdSection | FkdEnsembleSection, networks: list[Network], data: StudentData
) -> _Labelling:
    models = [network.model for network in networks]
    return _Labelling(
        images=_placed(data.images, run.device),
        geometry=Geometry(
            augmentation=section.augmentation,
            padding=section.padding,
            mixup=section.mixup if isinstance(section, FkdSection) else 0,
            cutmix=section.cutmix,
            mean=networks[0].mean,
            std=networks[0].std,
        ),
        models=own_copies(
            models, models[0], training=isinstance(section, FkdSection) and section.teacher_mode == "train"
        ),
        section=section,
        device=run.device,
    )


def _placed(images: Tensor, device: torch.device) -> Tensor:
    """Return the images on `device` where they take less than half of what is free there, else where they are."""
    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.nbytes < free // 2 else images


def _label(labelling: _Labelling, seed: int) -> Iterator[tuple[Drawn, Tensor]]:
    """Yield the batches of one epoch, each with its logits in half precision, on the CPU."""
    generator = Generator().manual_seed(seed)
    with seeded(seed, labelling.device):
        for indices in shuffled(len(labelling.images), labelling.section.batch_size, generator):
            drawn = draw(labelling.images, indices, geometry=labelling.geometry, generator=generator)
            yield drawn, _logits(labelling, drawn)


def _logits(labelling: _Labelling, drawn: Drawn) -> Tensor:
    inputs = rebuild(labelling.images, drawn, geometry=labelling.geometry, device=labelling.device)
    return stored_label(labelling.section, labelling.models, inputs).half().cpu()


def _announce(labelling: _Labelling, *, folder: Path, epochs: int, outputs: int) -> None:
    """Say what the labels of so many epochs take of disk and time.

    Raises:
        DirePlugError: the disk has less.
    """
    images = len(labelling.images)
    needed = epochs * epoch_bytes(images, math.ceil(images / labelling.section.batch_size), outputs)
    what = f"the soft labels of {epochs} epochs × {images} images take {_size(needed)}"
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DirePlugError(
            f"{folder}: {what}, and {_size(free)} are free on this disk; free some, put runs on another disk with "
            "--out, or lower evaluate.epochs, which the published protocol doesn't"
        )
    took = _time(images * epochs, labelling)
    ui.say(f"relabel: {what} of disk until the students are finished; to make them takes {took}")


def _time(images: int, labelling: _Labelling) -> str:
    """Return in words about how long it takes to label so many images, measured on a few."""
    few = torch.arange(min(PROBED, len(labelling.images)))
    drawn = draw(labelling.images, few, geometry=labelling.geometry, generator=Generator().manual_seed(0))
    with seeded(0, labelling.device):
        _logits(labelling, drawn)
        began = time.perf_counter()
        _logits(labelling, drawn)
    minutes = round((time.perf_counter() - began) / len(few) * images / 60)
    if minutes == 0:
        return "less than a minute"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {minutes} min"


def _size(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e8 else f"{amount / 1e6:.1f} MB"
