"""Train a student: its data, what all protocols share, and the loop over epochs with its tests."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dire_plug.data.augmentation.batch import unmixed
from dire_plug.data.augmentation.draws import Augmentation, to_device
from dire_plug.data.reading import load_ahead
from dire_plug.devices import pin, upload
from dire_plug.recipe.evaluate import EvaluateSection
from dire_plug.training.loop import Curve, Progress, Training, shuffled, train

# The accuracy of a network, in percent.


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return how many percent of the images get their own label, by argmax over the whole head, in eval mode.

    A head may be wider than the number of classes: an answer outside of them counts as wrong, as it does upstream.

    Args:
        batches: (images [n, 3, H, W] as the network takes them, labels [n]); on the network's device.
    """
    answers, labels = predict(model, batches)
    return 100 * float((answers == labels).sum()) / len(labels)


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the output that is largest for each image, in eval mode, and the labels, both [N], on the device.

    Args:
        batches: see `accuracy`.
    """
    training = model.training
    model.eval()
    # no batch waits for the device
    pairs = [(model(images).argmax(dim=1), labels) for images, labels in batches]
    model.train(training)
    answers, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
    return answers, labels


def in_batches(
    images: Tensor, labels: Tensor, *, device: torch.device, batch: int = 500
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield consecutive (images, labels) of at most `batch`, moved to `device`.

    Images on another device are read ahead: they may be mapped from a file, whose pages are read when they are used.
    """
    parts = [slice(start, start + batch) for start in range(0, len(labels), batch)]
    if images.device == device:
        for part in parts:
            yield images[part], labels[part].to(device)
        return
    read = load_ahead(lambda part: (pin(images[part], device), pin(labels[part], device)), parts)
    for some, own in read:
        yield upload(some, device), upload(own, device)


# Images on the device, where they fit.

MOST_UNASKED = 4 << 30
"""Bytes of images that a device takes which doesn't tell how much memory is free."""


def place(images: Tensor, device: torch.device) -> Tensor:
    """Return images on `device` where they take less than half of what is free there, else where they are."""
    if device.type == "cpu":
        return images.to(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2 * MOST_UNASKED
    # half: the other half is for the networks and their activations
    return images.to(device) if images.nbytes < free // 2 else images


def take(images: Tensor, indices: Tensor, on_device: Tensor) -> Tensor:
    """Return some of the images that `place` placed, [n, 3, H, W], on the device where networks run.

    Args:
        indices: which, [n], int64, on the host.
        on_device: the same on that device.
    """
    if images.device.type == on_device.device.type:
        return images[on_device]
    return upload(images[indices], on_device.device)


EvalTransform = Callable[[Tensor], Tensor]
"""From images as they are stored to the same images as networks take them, [n, 3, h, w]; draws nothing."""
Label = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Gives the logits to learn for a mixed batch: its images, their indices, and the partners and share of `Mixed`."""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Gives a differentiable scalar for the student's logits, [n, outputs], the logits to learn, and the classes, [n]."""
Stored = Callable[[int], Iterable[tuple[Tensor, Tensor, Tensor]]]
"""Gives, for an epoch (from 0), its batches: images as networks see them, mixed; the logits to learn; the classes."""


@dataclass(frozen=True)
class StudentData:
    """The images that a student learns from and is tested on, with their transforms.

    Attributes:
        images: [n, 3, H, W], as `train_transform` takes them: uint8, float in [0, 1], or already normalised.
        labels: [n], int64; unused where teachers alone label.
        train_transform: augments and normalises a batch of `images`: cropped, flipped, as networks take them.
        test_images: [m, 3, H, W], as `test_transform` takes them.
        test_labels: [m].
        mix: how an augmented batch is mixed; draws `Mixed`.
        plain_transform: only normalises a batch of `images`.
        test_transform: normalises a batch of `test_images`; a large test set is kept as uint8 pixels until then.
        stored: the batches of each epoch, where they were labelled before.
    """

    images: Tensor
    labels: Tensor
    train_transform: Augmentation
    test_images: Tensor
    test_labels: Tensor
    mix: Augmentation = field(default_factory=unmixed)
    plain_transform: EvalTransform = torch.Tensor.float
    test_transform: EvalTransform = torch.Tensor.float
    stored: Stored | None = None


@dataclass(frozen=True)
class Protocol:
    """A protocol, set up for one student: the columns of the table in docs/reference/protocols.md.

    Attributes:
        label: what labels a mixed batch; None where classes are learned, or labels that are stored.
        loss: of one part of a batch.
        training: how the student is optimised.
        accumulate: parts of a batch that pass the student one after the other, before one step; BatchNorm sees each
            alone, and each counts by 1/accumulate.
    """

    label: Label | None
    loss: Loss
    training: Training
    accumulate: int = 1


def learn(
    student: nn.Module,
    data: StudentData,
    *,
    section: EvaluateSection,
    protocol: Protocol,
    folder: Path,
    progress: Progress | None = None,
) -> Curve:
    """Train `student` in place, on its device, and return the (epoch, accuracy) of each test; the last is of the end.

    Batches come in random order, `section.batch_size` at a time; or they are the stored ones, where `data` has some.

    Args:
        section: the size of batches, and when the student is tested.
        folder, progress: see `training.train`.

    Raises:
        DirePlugError: see `training.train`.
    """
    device = next(student.parameters()).device
    batches = _batches(data, protocol.label, batch_size=section.batch_size, device=device)
    # rounded up; a smaller last part still counts by 1/accumulate
    part = -(-section.batch_size // protocol.accumulate)
    test_labels = data.test_labels.to(device)

    def run_epoch(epoch: int, optimiser: Optimizer, generator: Generator) -> tuple[Tensor, float | None]:
        student.train()
        seen = []
        for batch in batches(epoch, generator):
            optimiser.zero_grad()
            losses = []
            for inputs, targets, classes in zip(*(torch.split(values, part) for values in batch), strict=True):
                loss = protocol.loss(student(inputs), targets, classes) / protocol.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
            optimiser.step()
            seen.append(torch.stack(losses).sum())
        # of the device's values at once: `.item()` in each step would wait for it
        mean = torch.stack(seen).mean()
        if not is_tested(epoch, section):
            return mean, None
        tests = in_batches(data.test_images, test_labels, device=device)
        return mean, accuracy(student, ((data.test_transform(images), labels) for images, labels in tests))

    return train(student, run_epoch, protocol.training, folder=folder, progress=progress)


def find_best(curve: Curve) -> tuple[int, float]:
    """Return the epoch and accuracy of the best test, of equal ones the first.

    It is chosen on the test set, as some published numbers are.
    """
    return max(curve, key=lambda point: (point[1], -point[0]))


def _batches(
    data: StudentData, label: Label | None, *, batch_size: int, device: torch.device
) -> Callable[[int, Generator], Iterable[tuple[Tensor, Tensor, Tensor]]]:
    """Return a function that yields an epoch's batches as `Stored` does: the stored ones, or newly drawn ones."""
    stored = data.stored
    if stored is not None:
        return lambda epoch, _: stored(epoch)
    images, labels = place(data.images, device), data.labels.to(device)

    def draw(epoch: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        # of all batches before the first step: what a step copies to the device makes the host wait for it
        drawn = []
        for batch in shuffled(len(images), batch_size, generator):
            shape = (len(batch), *images.shape[1:])
            drawn.append((batch, data.train_transform.draw(shape, generator), data.mix.draw(shape, generator)))
        for (batch, *_), (indices, augmented, mixed) in zip(drawn, to_device(drawn, device), strict=True):
            inputs = data.train_transform.apply(take(images, batch, indices), augmented)
            inputs = data.mix.apply(inputs, mixed)
            classes = labels[indices]
            yield inputs, classes if label is None else label(inputs, indices, mixed.partners, mixed.share), classes

    return draw


def is_tested(epoch: int, section: EvaluateSection) -> bool:
    """Return whether the student is tested after `epoch`, counted from 0."""
    after = epoch - section.test_from
    return epoch == section.epochs - 1 or (after >= 0 and after % section.test_every == 0)


def knows_best(section: EvaluateSection) -> bool:
    """Return whether each epoch from `test_from` on is tested, of several: else the best of them isn't known."""
    epochs = range(section.test_from, section.epochs)
    return len(epochs) > 1 and all(is_tested(epoch, section) for epoch in epochs)


def own_copies(teachers: Sequence[nn.Module], student: nn.Module, *, training: bool = False) -> list[nn.Module]:
    """Return copies of the teachers on the student's device, in train or eval mode; the originals stay as they are.

    In train mode the running statistics of BatchNorm layers drift, and no student may see what another one left.
    """
    device = next(student.parameters()).device
    # copies even in eval mode: the caller's networks stay on their device and in their mode
    return [copy.deepcopy(teacher).to(device).train(training) for teacher in teachers]
