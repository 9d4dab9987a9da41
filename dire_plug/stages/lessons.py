"""What a student learns from and is tested on, as the recipe's protocol wants it. Imports torch: import it late."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Generator, Tensor

from dire_plug.data.augment import enlarge_and_crop, normalise
from dire_plug.data.differentiable import dsa
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.models.checkpoint import Network
from dire_plug.protocols.students import StudentData
from dire_plug.recipe.evaluate import DeltSection, HardLabelsSection
from dire_plug.recipe.values import LEARNED
from dire_plug.stages.images import TENSORS
from dire_plug.stages.job import WHITENING, Job
from dire_plug.stages.views import mixing, plain_batches, plain_view, rand_augmenting, raw_batches, training_view
from dire_plug.types import EXTRAS, IMAGENET_MEAN, IMAGENET_STD, LEARNED_LR, LOOP

MOST_TEST_BYTES = 4 << 30
"""The largest test set that the device holds as networks see it; ImageNet-1K's would take 30 GB."""


def prepare_lesson(job: Job, network: Network, images: Tensor, labels: Tensor) -> StudentData:
    """Put together what students learn from and the whole test set.

    A test set is held on the device as networks see it; if that takes more than `MOST_TEST_BYTES`, as grey levels in
    main memory, each batch of which is brought to what networks see when it is its turn.

    Args:
        network: whose normalisation images get.
        images: [n, 3, h, w], uint8, or float in [0, 1].
        labels: [n].

    Raises:
        DirePlugError: the recipe wants images whitened and the loop's aren't, or the other way round.
    """
    section = job.recipe.evaluate
    if isinstance(section, HardLabelsSection):
        return _lesson_in_loop_space(job, section, network, images, labels)
    enlarge, augmentation, before = False, section.model_dump(include={"augmentation", "padding"}), None
    if isinstance(section, DeltSection):
        augmentation = {"augmentation": "resized_crop_flip", "padding": 0, "least_scale": section.min_scale}
        enlarge = section.test_crop
        before = rand_augmenting(**section.randaugment.model_dump()) if section.randaugment else None
        if section.statistics == "imagenet":
            network = replace(network, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    tests, test_view = _test_set(job, network, enlarge=enlarge)
    return StudentData(
        images,
        labels,
        view=training_view(network, **augmentation, before=before),
        test_images=tests,
        test_labels=job.dataset.test.labels,
        test_view=test_view,
        mix=mixing(mixup_alpha=getattr(section, "mixup", 0), cutmix_alpha=getattr(section, "cutmix", 0)),
        plain=plain_view(network),
    )


def _test_set(job: Job, network: Network, *, enlarge: bool) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the test images, [m, 3, h, w], and what brings a batch of them to what networks see."""
    split, size = job.dataset.test, job.dataset.size
    if 4 * len(split) * 3 * size**2 <= MOST_TEST_BYTES:
        batches = plain_batches(split, network, device=job.device, enlarge=enlarge)
        return torch.cat([batch for batch, _ in batches]), torch.Tensor.float
    images = torch.empty(len(split), 3, size, size, dtype=torch.uint8)
    start = 0
    for batch, _ in raw_batches(split, device=images.device):
        images[start : start + len(batch)] = batch
        start += len(batch)
    view = plain_view(network)
    return images, lambda batch: view(enlarge_and_crop(batch) if enlarge else batch)


def protocol_values(job: Job) -> dict[str, Any]:
    """Return what the protocol's numbers are taken from: the recipe's keys, and what something else decides.

    Raises:
        DirePlugError: the learned learning rate is asked for, and the synthesis learned none.
    """
    section = job.recipe.evaluate
    values = section.model_dump() | {"static": section.protocol == "static-labels"}
    if isinstance(section, HardLabelsSection) and section.lr == LEARNED:
        values["lr"] = _learned_rate(job, section)
    return values


def _learned_rate(job: Job, section: HardLabelsSection) -> float:
    """Return the learning rate that the synthesis learned; where real images stand in its place, `lr_without`."""
    if job.engine == "none":
        return section.lr_without
    path = job.folder / EXTRAS
    found = read_json(path).get(LEARNED_LR) if path.is_file() else None
    if found is None:
        raise DirePlugError(
            f"evaluate.lr: is 'learned', but the synthesis of this run left no learned learning rate in {path}; "
            "set evaluate.lr to a number, or recover with a script that learns one"
        )
    return float(found)


def _lesson_in_loop_space(
    job: Job, section: HardLabelsSection, network: Network, images: Tensor, labels: Tensor
) -> StudentData:
    """Return images and test set in the space of the loop, normalised or whitened, with DSA for a view."""
    see = _whitened(job) if section.whiten else plain_view(network)
    loop = _loop_images(job, section) if section.source == "tensor" else None

    def view(batch: Tensor, generator: Generator) -> Tensor:
        return dsa(batch, operations=section.dsa, generator=generator)

    return StudentData(
        see(images.to(job.device)) if loop is None else loop,
        labels,
        view,
        test_images=torch.cat([see(batch) for batch, _ in raw_batches(job.dataset.test, device=job.device)]),
        test_labels=job.dataset.test.labels,
    )


def _loop_images(job: Job, section: HardLabelsSection) -> Tensor | None:
    """Return the images as the loop left them, [n, 3, h, w], unbounded; None where only their pixels are kept."""
    path = job.folder / TENSORS
    if job.engine == "none" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            images: Tensor | None = file.get_tensor(LOOP) if LOOP in file.keys() else None  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DirePlugError(f"{path}: cannot be read ({error}); remove it and recover again") from error
    if images is not None and job.adapter.whitens(job.recipe.recover) != section.whiten:
        are, want = ("normalised", "false") if section.whiten else ("whitened", "true")
        raise DirePlugError(f"evaluate.whiten: the images of this run's loop are {are}; set evaluate.whiten={want}")
    return images


def _whitened(job: Job) -> Callable[[Tensor], Tensor]:
    """Return what whitens pixels, uint8 or float in [0, 1], as the run's loop does; fitted here where it has none."""
    from dire_plug.data.whitening import ensure, load

    whitening = load(ensure(job.folder / WHITENING, job.dataset.train), job.device)
    return lambda images: whitening.apply(normalise(images, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
