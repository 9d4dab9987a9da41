"""Run SRe2L's recover loop for small images, in our own code: the same mathematics, the same hooks.

Follows `recover_cifar.py` of SRe2L's small-dataset code: cross-entropy of the rolled images in the frozen teacher
plus the distance of the batch statistics to the teacher's running ones (in every BatchNorm layer, the first one
weighted more), Adam with a cosine schedule, and clipping to the range of real pixels after each step.
Draws random numbers in the same order, so that on a CPU it gives upstream's bits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dire_plug.types import Script

if TYPE_CHECKING:
    from dire_plug.synthesis import RunningSynthesis


@dataclass(frozen=True)
class Settings:
    """The flags of upstream's script, and what it hard-codes: `classes`, `size`, `mean`, `std`."""

    batch_size: int
    iteration: int
    lr: float
    jitter: int
    r_bn: float
    first_bn_multiplier: float
    classes: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_settings(script: Script, flags: Mapping[str, Any]) -> Settings:
    """Return the settings that flags in upstream's spelling, and its script, stand for."""
    return Settings(
        batch_size=flags["batch-size"],
        iteration=flags["iteration"],
        lr=flags["lr"],
        jitter=flags["jitter"],
        r_bn=flags["r-bn"],
        first_bn_multiplier=flags["first-bn-multiplier"],
        classes=script.classes,
        size=script.size,
        mean=script.mean,
        std=script.std,
    )


class StatisticsLoss:
    """Distance between the statistics of a batch and the running ones of one BatchNorm layer, at its latest forward."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        """Hook the layer."""
        self.value = torch.zeros(())
        self.handle = layer.register_forward_hook(self._compute)

    def _compute(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        features = inputs[0]
        mean = features.mean(dim=(0, 2, 3))
        # biased, as upstream's; torch's running variance is the unbiased one, and upstream compares both
        variance = features.permute(1, 0, 2, 3).flatten(1).var(dim=1, correction=0)
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.value = torch.norm(layer.running_var - variance) + torch.norm(layer.running_mean - mean)


def recover_pass(
    synthesis: RunningSynthesis, teacher: nn.Module, settings: Settings
) -> Iterator[tuple[Tensor, list[int], list[int]]]:
    """Synthesize one pass, slot by slot; call between `begin_pass` and `end_pass`.

    Yields:
        for each slot its images [N, 3, H, W] in [0, 1], their labels, and which image of its class each one is.
    """
    device = next(teacher.parameters()).device
    # first: what it does to the layers' hooks for `--accelerate fast` reaches those that come later
    synthesis.watch(teacher)
    statistics = [StatisticsLoss(layer) for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
    for first in range(0, settings.classes, settings.batch_size):
        last = min(first + settings.batch_size, settings.classes)
        labels = synthesis.labels(torch.arange(first, last, device=device))
        # drawn even where a plugin answers with other start images: the random state goes on as upstream's does
        noise = torch.randn((len(labels), 3, settings.size, settings.size), device=device, requires_grad=True)
        images = synthesis.start(noise, labels)
        _optimise(synthesis, images, labels, teacher=teacher, statistics=statistics, settings=settings)
        index = [synthesis.image_index(synthesis.pass_index, position) for position in range(len(labels))]
        yield _to_pixels(images.detach(), settings), labels.tolist(), index
    for statistic in statistics:
        statistic.handle.remove()


def _optimise(
    synthesis: RunningSynthesis,
    images: Tensor,
    labels: Tensor,
    *,
    teacher: nn.Module,
    statistics: list[StatisticsLoss],
    settings: Settings,
) -> None:
    optimizer = torch.optim.Adam([images], lr=settings.lr, betas=(0.5, 0.9), eps=1e-8)
    # as upstream: the first BatchNorm layer alone has a multiplier
    weights = [settings.first_bn_multiplier] + [1.0] * (len(statistics) - 1)
    for step in range(synthesis.steps_to_do(settings.iteration)):
        # from the step's number, as upstream does; torch's own schedule is recursive and rounds differently
        optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * step / settings.iteration)) * settings.lr
        # Python's generator and this order: upstream draws its shifts so
        shifts = random.randint(0, settings.jitter), random.randint(0, settings.jitter)
        optimizer.zero_grad()
        logits = teacher(torch.roll(images, shifts=shifts, dims=(2, 3)))
        terms = [statistic.value * weight for statistic, weight in zip(statistics, weights, strict=True)]
        loss = F.cross_entropy(logits, labels) + settings.r_bn * torch.stack(terms).sum()
        loss = synthesis.loss(loss, images=images, labels=labels, step=step)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        # through `.data`: the optimiser's leaf stays the same object, and autograd sees nothing
        images.data = _clip(images.data, settings)
        synthesis.step_done(loss, images=images, labels=labels, step=step)


def _clip(images: Tensor, settings: Settings) -> Tensor:
    """Keep normalised images within the range of real pixels."""
    for channel, (mean, std) in enumerate(zip(settings.mean, settings.std, strict=True)):
        images[:, channel].clamp_(-mean / std, (1 - mean) / std)
    return images


def _to_pixels(images: Tensor, settings: Settings) -> Tensor:
    pixels = images.clone()
    for channel, (mean, std) in enumerate(zip(settings.mean, settings.std, strict=True)):
        pixels[:, channel] = (pixels[:, channel] * std + mean).clamp(0, 1)
    return pixels
