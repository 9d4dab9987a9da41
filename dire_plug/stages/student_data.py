"""What a student learns from and is tested on, as the recipe's protocol wants it."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from dire_plug.data.augmentation.batch import enlarge_and_crop, normalise
from dire_plug.data.augmentation.dsa import dsa
from dire_plug.data.augmentation.zca import load as load_whitening
from dire_plug.errors import DirePlugError
from dire_plug.models.checkpoint import Network
from dire_plug.recipe.evaluate import DeltSection, EvaluateSection, HardLabelsSection
from dire_plug.recipe.values import LEARNED
from dire_plug.stages.images import ImageSet
from dire_plug.stages.prepare import ensure_whitening
from dire_plug.store.runs import Run
from dire_plug.training.students import StudentData
from dire_plug.training.transforms import mixing, plain_batches, plain_view, rand_augmenting, raw_batches, training_view
from dire_plug.types import EXTRAS, IMAGENET_MEAN, IMAGENET_STD, LEARNED_LR

MOST_TEST_BYTES = 4 << 30
"""The largest test set that the device holds as networks see it; ImageNet-1K's would take 30 GB."""


def prepare_lesson(run: Run, section: EvaluateSection, network: Network, images: ImageSet) -> StudentData:
    """Put together what students learn from and the whole test set.

    A test set is held on the device as networks see it; if that takes more than `MOST_TEST_BYTES`, as grey levels in
    main memory, each batch of which is brought to what networks see when it is its turn.

    Args:
        section: the protocol.
        network: whose normalisation images get.

    Raises:
        DirePlugError: the recipe wants images whitened and the loop's aren't, or the other way round.
    """
    if isinstance(section, HardLabelsSection):
        return _lesson_in_loop_space(run, section, network, images)
    enlarge, augmentation, before = False, section.model_dump(include={"augmentation", "padding"}), None
    if isinstance(section, DeltSection):
        augmentation = {"augmentation": "resized_crop_flip", "padding": 0, "least_scale": section.min_scale}
        enlarge = section.test_crop
        before = rand_augmenting(**section.randaugment.model_dump()) if section.randaugment else None
        if section.statistics == "imagenet":
            network = replace(network, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    tests, test_view = _test_set(run, network, enlarge=enlarge)
    return StudentData(
        images.images,
        images.labels,
        view=training_view(network, **augmentation, before=before),
        test_images=tests,
        test_labels=run.dataset.test.labels,
        test_view=test_view,
        mix=mixing(mixup_alpha=getattr(section, "mixup", 0), cutmix_alpha=getattr(section, "cutmix", 0)),
        plain=plain_view(network),
    )


def _test_set(run: Run, network: Network, *, enlarge: bool) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the test images, [m, 3, h, w], and what brings a batch of them to what networks see."""
    split, size = run.dataset.test, run.dataset.size
    if 4 * len(split) * 3 * size**2 <= MOST_TEST_BYTES:
        batches = plain_batches(split, network, device=run.device, enlarge=enlarge)
        return torch.cat([batch for batch, _ in batches]), torch.Tensor.float
    images = torch.empty(len(split), 3, size, size, dtype=torch.uint8)
    start = 0
    for batch, _ in raw_batches(split, device=images.device):
        images[start : start + len(batch)] = batch
        start += len(batch)
    view = plain_view(network)
    return images, lambda batch: view(enlarge_and_crop(batch) if enlarge else batch)


def with_rate(section: EvaluateSection, images: ImageSet) -> EvaluateSection:
    """Return the section with a number for its learning rate, where it asks for the one that was learned.

    Raises:
        DirePlugError: the learned learning rate is asked for, and the synthesis learned none.
    """
    if isinstance(section, HardLabelsSection) and section.lr == LEARNED:
        return section.model_copy(update={"lr": _learned_rate(section, images)})
    return section


def _learned_rate(section: HardLabelsSection, images: ImageSet) -> float:
    """Return the learning rate that the synthesis learned; where real images stand in its place, `lr_without`."""
    if not images.synthesized:
        return section.lr_without
    found = images.extras.get(LEARNED_LR)
    if found is None:
        raise DirePlugError(
            f"evaluate.lr: is 'learned', but the synthesis of this run left no learned learning rate in {EXTRAS}; "
            "set evaluate.lr to a number, or recover with a script that learns one"
        )
    return float(found)


def _lesson_in_loop_space(run: Run, section: HardLabelsSection, network: Network, images: ImageSet) -> StudentData:
    """Return images and test set in the space of the loop, normalised or whitened, with DSA for a view."""
    see = _whitened(run) if section.whiten else plain_view(network)
    loop = _loop_images(section, images) if section.source == "tensor" else None

    def view(batch: Tensor, generator: Generator) -> Tensor:
        return dsa(batch, operations=section.dsa, generator=generator)

    return StudentData(
        see(images.images.to(run.device)) if loop is None else loop,
        images.labels,
        view,
        test_images=torch.cat([see(batch) for batch, _ in raw_batches(run.dataset.test, device=run.device)]),
        test_labels=run.dataset.test.labels,
    )


def _loop_images(section: HardLabelsSection, images: ImageSet) -> Tensor | None:
    """Return the images as the loop left them, [n, 3, h, w], unbounded; None where only their pixels are kept."""
    found = images.read_loop()
    if found is not None and images.whitened != section.whiten:
        are, want = ("normalised", "false") if section.whiten else ("whitened", "true")
        raise DirePlugError(f"evaluate.whiten: the images of this run's loop are {are}; set evaluate.whiten={want}")
    return found


def _whitened(run: Run) -> Callable[[Tensor], Tensor]:
    """Return what whitens pixels, uint8 or float in [0, 1], as a loop does whose images are whitened."""
    whitening = load_whitening(ensure_whitening(run), run.device)
    return lambda images: whitening.apply(normalise(images, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
