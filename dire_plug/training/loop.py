"""Train a network epoch by epoch, so that a killed training resumes where it stopped, with the same result.

Everything random in an epoch comes from (seed, epoch) and the learning rate is a function of the epoch, so what a
checkpoint holds is the network, the optimiser and the tests so far; no random state.
"""

import contextlib
import io
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dire_plug.errors import DirePlugError, DivergedError
from dire_plug.files import digest, write_atomically
from dire_plug.recipe.values import warmup_fault
from dire_plug.seeding import derive

CHECKPOINT = "training.pt"
SAVE_SECONDS = 60.0
"""Least time between two checkpoints: a kill costs about this much, and a training that is shorter writes none."""
SAVE_TOOK = 1.2
"""Seconds of saving from which the time between two checkpoints grows in proportion, so that it costs 2 % at most."""
WARMUP_START = 0.01
"""Learning rate of the first warm-up epoch as a share of the full one, as in torchvision's reference training."""
STEP = 0.1
"""The factor of the learning rate in the schedule `step`."""

Progress = Callable[..., None]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Training:
    """How a network is optimised.

    Attributes:
        epochs: passes over the training images.
        lr: the learning rate at the top of the schedule.
        weight_decay: on all parameters, or on those that `decay` names.
        seed: of the order, the augmentation and the dropout of every epoch; not of the initial weights.
        optimiser: `sgd` with momentum, or `adamw`.
        momentum: of SGD.
        warmup_epochs: epochs of linear warm-up before the schedule.
        schedule: `cosine` falls to 0 by half a cosine over the epochs, `half-cosine` by its first half to lr/2,
            `step` to a tenth at `step_at`; `constant` doesn't fall.
        step_at: the first epoch, from 0, at a tenth.
        forget_momentum: whether the optimiser's state is cleared at `step_at`.
        decay: `all`, or `matrices`: weights with more than one axis, so neither norms nor biases.
    """

    epochs: int
    lr: float
    weight_decay: float
    seed: int
    optimiser: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    warmup_epochs: int = 0
    schedule: Literal["cosine", "half-cosine", "step", "constant"] = "cosine"
    step_at: int = 0
    forget_momentum: bool = False
    decay: Literal["all", "matrices"] = "all"


Curve = list[tuple[int, float]]
"""(epoch, accuracy in percent) of each test."""
RunEpoch = Callable[[int, Optimizer, Generator], tuple[Tensor, float | None]]
"""Trains one epoch; returns the mean loss, a scalar tensor, and the test accuracy, None where it wasn't tested."""


def train(
    model: nn.Module, run_epoch: RunEpoch, training: Training, *, folder: Path, progress: Progress | None = None
) -> Curve:
    """Train `model` in place by calling `run_epoch` for every epoch; return the (epoch, accuracy) of each test.

    Resumes from the checkpoint in `folder` where there is one of the same training, bit for bit on the CPU.

    Args:
        run_epoch: called with the epoch, from 0, the optimiser and a CPU generator seeded for this epoch.
        folder: where checkpoints are kept; the caller removes it when the result is safe.
        progress: called with the number of finished epochs, and `loss` and `accuracy` by keyword.

    Raises:
        DirePlugError: the loss is no longer finite, the warm-up leaves no epoch, or the checkpoint is unreadable.
    """
    # a protocol of a plugin's own may have settings that its recipe's model doesn't compare
    if (why := warmup_fault(training.warmup_epochs, training.epochs)) is not None:
        raise DirePlugError(why)
    optimiser = _optimiser(model, training)
    finished, curve = _resume(folder / CHECKPOINT, model, optimiser, training)
    saved, pause = time.monotonic(), SAVE_SECONDS
    # epochs and not steps: the draws of an epoch come from its number, so it can only be redone whole
    for epoch in range(finished, training.epochs):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(training, epoch)
        if training.schedule == "step" and training.forget_momentum and epoch == training.step_at:
            # what a new optimiser would do, as MTT's evaluation makes one there
            optimiser.state.clear()
        loss, accuracy = _run_seeded(epoch, run_epoch, optimiser, training)
        if accuracy is not None:
            curve.append((epoch, accuracy))
        # not after the last one: the result itself is written in a moment
        if epoch + 1 < training.epochs and (began := time.monotonic()) - saved >= pause:
            _save(folder / CHECKPOINT, model, optimiser, training, epochs=epoch + 1, curve=curve)
            saved = time.monotonic()
            pause = SAVE_SECONDS * max(1, (saved - began) / SAVE_TOOK)
        if progress is not None:
            progress(epoch + 1, loss=loss, **({"accuracy": curve[-1][1]} if curve else {}))
    return curve


def learning_rate(training: Training, epoch: int) -> float:
    """Return the learning rate of `epoch`, from 0: a linear warm-up, then the schedule."""
    if epoch < training.warmup_epochs:
        return training.lr * (WARMUP_START + (1 - WARMUP_START) * epoch / training.warmup_epochs)
    if training.schedule == "constant":
        return training.lr
    if training.schedule == "step":
        return training.lr * (STEP if epoch >= training.step_at else 1)
    done = (epoch - training.warmup_epochs) / (training.epochs - training.warmup_epochs)
    if training.schedule == "half-cosine":
        done /= 2
    return training.lr * (1 + math.cos(math.pi * done)) / 2


def shuffled(count: int, batch_size: int, generator: Generator) -> Iterator[Tensor]:
    """Yield the indices below `count` in random order, `batch_size` at a time; the last batch may be smaller."""
    yield from torch.split(torch.randperm(count, generator=generator), batch_size)


def initialised(make: Callable[[], Made], seed: int) -> Made:
    """Return `make()`, on the CPU, with initial weights that `seed` alone decides; global generators stay as they were.

    `torch.manual_seed` would seed those of CUDA devices too, which `fork_rng(devices=[])` doesn't put back.
    """
    with torch.random.fork_rng(devices=[]):
        # on the CPU whatever the device: a network starts alike on every machine
        torch.default_generator.manual_seed(derive(seed, "weights"))
        return make()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what dropout draws from while the block runs, then put it back as it was.

    That is the CPU's generator and the device's own; those of other devices are left alone. `cuda` without an index,
    which `--device` hands over, is the current device.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def _run_seeded(
    epoch: int, run_epoch: RunEpoch, optimiser: Optimizer, training: Training
) -> tuple[float, float | None]:
    """Run an epoch with its own random state; return its loss, and the accuracy where it was tested."""
    seed = derive(training.seed, "epoch", epoch)
    device = optimiser.param_groups[0]["params"][0].device
    with seeded(seed, device):
        mean, accuracy = run_epoch(epoch, optimiser, Generator().manual_seed(seed))
    # waits for the device, once an epoch
    loss = float(mean)
    if not math.isfinite(loss):
        raise DivergedError(
            f"epoch {epoch}: the loss is {loss}, so the training diverged; lower its lr ({training.lr:g})"
        )
    return loss, accuracy


def _optimiser(model: nn.Module, training: Training) -> Optimizer:
    parameters = _groups(model, training)
    if training.optimiser == "adamw":
        return AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay)
    return SGD(parameters, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay)


def _groups(model: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Return the parameters in one group, or those that don't decay in a second one."""
    if training.decay == "all":
        return [{"params": list(model.parameters())}]
    named = list(model.named_parameters())
    # as upstream's scripts tell norms and biases: by name and number of axes
    decaying = [parameter for name, parameter in named if "weight" in name and parameter.dim() > 1]
    others = [parameter for name, parameter in named if "weight" not in name or parameter.dim() <= 1]
    return [{"params": decaying}, {"params": others, "weight_decay": 0.0}]


def _identity(model: nn.Module, training: Training) -> str:
    """Return a digest of what a checkpoint must share with a training that resumes from it."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return digest({"training": asdict(training), "shapes": shapes})


def _save(path: Path, model: nn.Module, optimiser: Optimizer, training: Training, *, epochs: int, curve: Curve) -> None:
    content = io.BytesIO()
    state = {
        "identity": _identity(model, training),
        "epochs": epochs,
        "curve": curve,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    # into memory first: a kill while writing must leave the old checkpoint whole
    torch.save(state, content)
    write_atomically(path, content.getvalue())


def _resume(path: Path, model: nn.Module, optimiser: Optimizer, training: Training) -> tuple[int, Curve]:
    """Load the checkpoint of the same training, if there is one; return the finished epochs and their tests."""
    if not path.is_file():
        return 0, []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # onto the CPU: AdamW's `step` must stay there
        # of another training, as after a change of the recipe: it starts again instead of mixing both
        if state["identity"] != _identity(model, training):
            return 0, []
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return state["epochs"], [(epoch, accuracy) for epoch, accuracy in state["curve"]]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DirePlugError(f"{path}: the checkpoint cannot be read ({error}); remove it to train again") from error
