"""Relabel: draw, label and store every epoch's batches before the first student, where the protocol stores labels.

All students of a run read the same labels, which don't depend on them. At 1000 outputs an image takes 2 kB an epoch:
30 GB for ImageNet-1K at IPC 50 and 300 epochs, or the share `labels_kept` of that. The cost in disk and time is printed
before, and it is an error if the disk has less; the labels are removed when the last student of the run is finished.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Generator, Tensor

from dire_plug import ui
from dire_plug.data.augmentation.draws import to_device
from dire_plug.devices import upload
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.models.checkpoint import Network
from dire_plug.recipe.evaluate import StoredSection
from dire_plug.seeding import derive
from dire_plug.store.runs import Run
from dire_plug.training.loop import seeded, shuffled
from dire_plug.training.protocols import stored_label
from dire_plug.training.stored_batches import (
    FOLDER,
    StoredTransform,
    TransformParams,
    count_stored,
    draw_stored,
    epoch_bytes,
    epoch_file,
    is_stored,
    read_epoch,
    write_epoch,
)
from dire_plug.training.students import Stored, StudentData, own_copies, place, take

PROBED = 128
"""Images that are labelled twice, the second time timed, to estimate how long all will take."""


def relabel(
    run: Run,
    section: StoredSection,
    networks: list[Network],
    *,
    data: StudentData,
    folder: Path,
    name: str,
) -> Stored:
    """Label the epochs that aren't stored yet, and return a function that yields the batches of each.

    What is random comes from (the run's seed, the epoch), so a stage that was killed resumes with the same labels.

    Args:
        section: the protocol, whose `stored_label` is kept.
        networks: those that label, on the run's device; all take equally normalised images.
        data: its images and classes.
        folder: named by all that decides the labels; it gets a file for each epoch.
        name: of the set, for the progress.

    Raises:
        DirePlugError: the disk has too little room, or a file can't be written.
    """
    mixup, cutmix = section.mixes
    images, models = place(data.images, run.device), [network.model for network in networks]
    transform = StoredTransform(
        augmentation=section.augmentation,
        padding=section.padding,
        mixup=mixup,
        cutmix=cutmix,
        mean=networks[0].mean,
        std=networks[0].std,
    )
    # copies: in train mode BatchNorm's running statistics drift, and these networks are used again
    teachers = own_copies(models, models[0], training=section.labels_by_batch)

    def label(order: Iterable[Tensor], generator: Generator) -> list[tuple[TransformParams, Tensor]]:
        """Return what was drawn for each batch, and its logits in half precision, on the CPU."""
        drawn = [transform.draw(images.shape, indices, generator=generator) for indices in order]
        logits = []
        for params, on_device in zip(drawn, to_device(drawn, run.device), strict=True):
            inputs = transform.apply(take(images, params.indices, on_device.indices), on_device)
            logits.append(stored_label(section, teachers, inputs).half())
        # at once: each copy to the host waits for the device
        together = torch.cat(logits).cpu()
        return list(zip(drawn, torch.split(together, [len(one) for one in logits]), strict=True))

    counts = _count(section, len(images))
    files = {epoch: epoch_file(folder, epoch) for epoch in range(len(counts))}
    missing = {epoch: path for epoch, path in files.items() if not is_stored(path)}
    if missing:
        needed = labels_bytes(section, images=len(images), outputs=networks[0].outputs, epochs=list(missing))
        cost = _check_disk(folder, needed, epochs=len(missing), images=len(images))
        took = _estimate_time(label, len(images), epochs=len(missing), device=run.device)
        ui.say(f"relabel: {cost} of disk until the students are finished; making them takes {took}")
        with ui.progress(f"relabel ({name})", len(counts)) as advance:
            for epoch, path in missing.items():
                # for each epoch its own: those that a killed process stored stay as they are
                seed = derive(run.seed, FOLDER, epoch)
                generator = Generator().manual_seed(seed)
                with seeded(seed, run.device):
                    order = islice(shuffled(len(images), section.batch_size, generator), counts[epoch])
                    batches = label(order, generator)
                write_epoch(path, batches)
                advance(epoch + 1)
    classes = data.labels.to(run.device)

    def stored(epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        batches = list(_read(files, counts, section, epoch=epoch, images=len(images), seed=run.seed))
        everything = to_device([params for params, _ in batches], run.device)
        for (params, logits), on_device in zip(batches, everything, strict=True):
            inputs = transform.apply(take(images, params.indices, on_device.indices), on_device)
            yield inputs, upload(logits, run.device).float(), classes[on_device.indices]

    return stored


def _read(
    files: Mapping[int, Path],
    counts: Sequence[int],
    section: StoredSection,
    *,
    epoch: int,
    images: int,
    seed: int,
) -> Iterator[tuple[TransformParams, Tensor]]:
    """Yield the batches of an epoch in order; where not all labels are kept, some that are drawn for it."""
    if section.labels_kept == 1:
        yield from read_epoch(files[epoch], batch_size=section.batch_size)
        return
    generator = Generator().manual_seed(derive(seed, FOLDER, "drawn", epoch))
    drawn = draw_stored(counts, images=images, batch_size=section.batch_size, generator=generator)
    found = dict[tuple[int, int], tuple[TransformParams, Tensor]]()
    # file by file, each opened once
    for of in sorted({of for of, _ in drawn}):
        wanted = sorted({batch for one, batch in drawn if one == of})
        batches = read_epoch(files[of], batch_size=section.batch_size, only=wanted)
        found |= {(of, number): batch for number, batch in zip(wanted, batches, strict=True)}
    yield from (found[one] for one in drawn)


def _count(section: StoredSection, images: int) -> list[int]:
    return count_stored(images, batch_size=section.batch_size, epochs=section.epochs, kept=section.labels_kept)


def labels_bytes(section: StoredSection, *, images: int, outputs: int, epochs: Sequence[int] | None = None) -> int:
    """Return how many bytes the labels take that are stored of these epochs, by default of all."""
    counts = _count(section, images)
    return sum(
        epoch_bytes(min(counts[epoch] * section.batch_size, images), counts[epoch], outputs)
        for epoch in (range(len(counts)) if epochs is None else epochs)
    )


def _check_disk(folder: Path, needed: int, *, epochs: int, images: int) -> str:
    """Return in words how many bytes the labels take.

    Raises:
        DirePlugError: the disk has less.
    """
    cost = f"the soft labels of {epochs} epochs × {images} images take {_size(needed)}"
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DirePlugError(
            f"{folder}: {cost}, and {_size(free)} are free on this disk; free some, set DIRE_PLUG_SCRATCH to a "
            "folder on another disk, or store fewer by evaluate.labels_kept or evaluate.epochs, which most published "
            "protocols don't"
        )
    return cost


def _estimate_time(
    label: Callable[[Iterable[Tensor], Generator], object], images: int, *, epochs: int, device: torch.device
) -> str:
    """Return in words about how long it takes to label so many images, measured on a few."""
    few = torch.arange(min(PROBED, images))
    with seeded(0, device):
        label([few], Generator().manual_seed(0))  # the first call also allocates memory and chooses kernels
        began = time.perf_counter()
        label([few], Generator().manual_seed(0))
    # labels end on the CPU, so the clock has waited for the device
    minutes = round((time.perf_counter() - began) / len(few) * images * epochs / 60)
    if minutes == 0:
        return "less than a minute"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {minutes} min"


def _size(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e8 else f"{amount / 1e6:.1f} MB"
