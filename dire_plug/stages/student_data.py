"""Build the data of a student: training and test images as the recipe's protocol wants them."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dire_plug import ui
from dire_plug.data.augmentation.batch import enlarge_and_crop, normalise
from dire_plug.data.augmentation.dsa import dsa
from dire_plug.data.augmentation.zca import load as load_whitening
from dire_plug.data.folders import FolderSplit
from dire_plug.errors import DirePlugError
from dire_plug.models.checkpoint import Network
from dire_plug.recipe.evaluate import DeltSection, EvaluateSection, HardLabelsSection
from dire_plug.recipe.values import LEARNED
from dire_plug.stages.artefacts import name_pixels
from dire_plug.stages.images import ImageSet
from dire_plug.stages.prepare import ensure_whitening
from dire_plug.stages.row_file import VALUES, stream_rows
from dire_plug.store.runs import Run
from dire_plug.training.students import EvalTransform, StudentData, place
from dire_plug.training.transforms import (
    eval_transform,
    mixing,
    raw_batches,
    train_transform,
)
from dire_plug.types import EXTRAS, IMAGENET_MEAN, IMAGENET_STD, LEARNED_LR

PIXELS = "pixels.safetensors"
MOST_FLOAT_BYTES = 4 << 30
"""The largest set of images that the device holds in float; ImageNet-1K's test set would take 30 GB."""


def build_student_data(run: Run, section: EvaluateSection, network: Network, images: ImageSet) -> StudentData:
    """Return what students learn from, and the whole test set.

    A test set is held normalised on the device; if that takes more than `MOST_FLOAT_BYTES`, as uint8 pixels, and each
    batch is normalised when it is used; in a file of the store, which is read batch by batch, if the device has no room
    for it. Hard labels' training images are held likewise; the other protocols' are pixels, since they are cropped.

    Args:
        section: the protocol.
        network: the one whose normalisation images get.

    Raises:
        DirePlugError: the recipe wants images whitened and the loop's aren't, or the other way round.
    """
    if isinstance(section, HardLabelsSection):
        return _build_in_loop_space(run, section, network, images)
    enlarge, augmentation, before = False, section.model_dump(include={"augmentation", "padding"}), None
    if isinstance(section, DeltSection):
        augmentation = {"augmentation": "resized_crop_flip", "padding": 0, "least_scale": section.min_scale}
        enlarge = section.test_crop
        if section.randaugment:
            from dire_plug.data.augmentation.rand_augment import rand_augment

            before = rand_augment(**section.randaugment.model_dump())
        # as DELT's validation scripts normalise, whatever the dataset
        if section.statistics == "imagenet":
            network = replace(network, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    plain = eval_transform(network)
    tests, test_transform = _test_set(run, (lambda batch: plain(enlarge_and_crop(batch))) if enlarge else plain)
    return StudentData(
        images.images,
        images.labels,
        train_transform=train_transform(network, **augmentation, before=before),
        test_images=tests,
        test_labels=run.dataset.test.labels,
        test_transform=test_transform,
        mix=mixing(mixup_alpha=getattr(section, "mixup", 0), cutmix_alpha=getattr(section, "cutmix", 0)),
        plain_transform=plain,
    )


def _test_set(run: Run, transform: EvalTransform) -> tuple[Tensor, EvalTransform]:
    """Return the test images, [m, 3, h, w], and what is left to do of `transform`, from pixels to networks' images."""
    split = run.dataset.test
    if _fits(run, len(split)):
        batches = raw_batches(split, device=run.device)
        return torch.cat([transform(batch) for batch, _ in batches]), torch.Tensor.float
    images = _map_pixels(run, split) if isinstance(split, FolderSplit) else split.images()
    return place(images, run.device), transform


def _fits(run: Run, count: int) -> bool:
    """Return whether the device holds so many images in float."""
    return 4 * count * 3 * run.dataset.size**2 <= MOST_FLOAT_BYTES


def _map_pixels(run: Run, split: FolderSplit) -> Tensor:
    """Return the images of a split, uint8, [m, 3, h, w], mapped from a file of the store, which all students share.

    Pages of the file are read when they are used; processes of one machine have them in memory once.
    """

    def make(folder: Path) -> None:
        with (
            stream_rows(folder / PIXELS, torch.arange(len(split)), beside={}, dtype=torch.uint8) as add,
            ui.progress("evaluate: decode the test set", len(split)) as advance,
        ):
            done = 0
            for batch, _ in raw_batches(split, device=torch.device("cpu")):
                add(batch)
                done += len(batch)
                advance(done)

    return load_file(run.store.ensure(name_pixels(split), make) / PIXELS)[VALUES]


def with_rate(section: EvaluateSection, images: ImageSet) -> EvaluateSection:
    """Return the section with a number for its learning rate, where it asks for the one that was learned.

    Raises:
        DirePlugError: the learned learning rate is asked for, and the synthesis learned none.
    """
    if isinstance(section, HardLabelsSection) and section.lr == LEARNED:
        return section.model_copy(update={"lr": _learned_rate(section, images)})
    return section


def _learned_rate(section: HardLabelsSection, images: ImageSet) -> float:
    """Return the learning rate that the synthesis learned; where real images replace it, `lr_without`."""
    if not images.synthesized:
        return section.lr_without
    found = images.extras.get(LEARNED_LR)
    if found is None:
        raise DirePlugError(
            f"evaluate.lr: is 'learned', but the synthesis of this run left no learned learning rate in {EXTRAS}; "
            "set evaluate.lr to a number, or recover with a script that learns one"
        )
    return float(found)


def _build_in_loop_space(run: Run, section: HardLabelsSection, network: Network, images: ImageSet) -> StudentData:
    """Return images and test set in the space of the loop, normalised or whitened, with DSA as the train transform."""
    to_loop = _whiten(run) if section.whiten else eval_transform(network)
    loop = _loop_images(section, images) if section.source == "tensor" else None
    if loop is None and _fits(run, len(images.images)):
        loop = to_loop(images.images.to(run.device))
    augmentation = dsa(section.dsa)
    if loop is None:
        augment = augmentation.apply
        augmentation = replace(augmentation, apply=lambda batch, drawn: augment(to_loop(batch), drawn))
    tests, test_transform = _test_set(run, to_loop)
    return StudentData(
        images.images if loop is None else loop,
        images.labels,
        augmentation,
        test_images=tests,
        test_labels=run.dataset.test.labels,
        test_transform=test_transform,
    )


def _loop_images(section: HardLabelsSection, images: ImageSet) -> Tensor | None:
    """Return the images as the loop left them, [n, 3, h, w], unbounded; None where only their pixels are kept."""
    found = images.read_loop()
    if found is not None and images.whitened != section.whiten:
        are, want = ("normalised", "false") if section.whiten else ("whitened", "true")
        raise DirePlugError(f"evaluate.whiten: the images of this run's loop are {are}; set evaluate.whiten={want}")
    return found


def _whiten(run: Run) -> EvalTransform:
    """Return the ZCA whitening of pixels, uint8 or float in [0, 1], as a loop applies it."""
    whitening = load_whitening(ensure_whitening(run), run.device)
    return lambda images: whitening.apply(normalise(images, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
