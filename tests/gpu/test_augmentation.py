"""Augmentation on the pretended GPU: the CPU's images, by draws that go to the device once."""

from collections import Counter

import pytest
import torch
from support.pretended_gpu import DEVICE, back, counted, device_present, put
from torch import Generator, Tensor
from torch.nn import functional as F

from dire_plug.data.augmentation.batch import crop_flip, cutmix, mixup, normalise, resized_crop_flip
from dire_plug.data.augmentation.draws import Augmentation, to_device
from dire_plug.data.augmentation.dsa import OPERATIONS
from dire_plug.data.augmentation.rand_augment import rand_augment

EVERY = {
    "crop and flip": crop_flip(padding=4, flip=True),
    "resized crop": resized_crop_flip(),
    "mixup": mixup(0.8),
    "CutMix": cutmix(1),
    **{f"DSA, {name}": operation for name, operation in OPERATIONS.items()},
}


def make_images(count: int, size: int = 16) -> Tensor:
    """Make smooth images in [0, 1]."""
    waves = torch.rand(count, 3, 6, 6, generator=Generator().manual_seed(1))
    return F.interpolate(waves, size=(size, size), mode="bicubic").clamp(0, 1)


def apply_on_device(augmentation: Augmentation, images: Tensor) -> Tensor:
    """Return what it makes of images there; fail where it waits for the device or gets something from the host."""
    with device_present():
        here = put(images)
        drawn = to_device(augmentation.draw(images.shape, Generator().manual_seed(2)), torch.device(DEVICE))
        augmentation.apply(here, drawn)  # what is kept from the first call on is made
        with counted() as counts:
            changed = augmentation.apply(here, drawn)
        assert not counts.waits
        return back(changed)


@pytest.mark.parametrize("name", EVERY)
def test_an_augmentation_gives_the_cpus_images_without_a_wait(name: str) -> None:
    images = make_images(16)
    expected = EVERY[name](images, Generator().manual_seed(2))
    torch.testing.assert_close(apply_on_device(EVERY[name], images), expected, rtol=1e-4, atol=1e-5)


def test_resized_crops_of_uint8_images_are_within_a_level_of_the_cpus() -> None:
    images = (make_images(300) * 255).to(torch.uint8)
    expected = resized_crop_flip()(images, Generator().manual_seed(2))
    found = apply_on_device(resized_crop_flip(), images)
    assert found.dtype == torch.uint8
    assert (found.int() - expected.int()).abs().max() <= 1


def test_randaugment_is_the_cpus_but_for_a_level_in_few_pixels() -> None:
    images = (make_images(600, size=32) * 255).to(torch.uint8)
    augmentation = rand_augment(operations=1, magnitude=6, std=3)
    expected = augmentation(images, Generator().manual_seed(2))
    differs = (apply_on_device(augmentation, images).int() - expected.int()).abs()
    assert differs.max() <= 1
    assert (differs > 0).float().mean() < 0.001


@pytest.mark.parametrize(
    ("augmentation", "most"),
    [(resized_crop_flip(), 70), (rand_augment(operations=2, magnitude=6, std=1), 400)],
    ids=["resized crop", "RandAugment"],
)
def test_launches_of_a_batch_do_not_grow_with_its_images(augmentation: Augmentation, most: int) -> None:
    launches = []
    for count in (120, 240):
        with device_present():
            images = put(make_images(count))
            drawn = to_device(augmentation.draw(images.shape, Generator().manual_seed(4)), torch.device(DEVICE))
            augmentation.apply(images, drawn)
            with counted() as counts:
                augmentation.apply(images, drawn)
        launches.append(counts.launches.total())
    assert launches[0] == launches[1] <= most


def test_an_epochs_draws_go_to_the_device_in_a_copy_for_each_dtype() -> None:
    augmentation = resized_crop_flip()
    drawn = [augmentation.draw((5, 3, 8, 8), Generator().manual_seed(seed)) for seed in range(7)]
    with device_present():
        with counted() as counts:
            moved = to_device(drawn, torch.device(DEVICE))
        assert counts.launches == Counter({"_to_copy": 2})
        assert not counts.waits
        for before, after in zip(drawn, moved, strict=True):
            assert torch.equal(back(after.boxes), before.boxes)
            assert torch.equal(back(after.flips), before.flips)


def test_normalising_makes_its_constants_once() -> None:
    with device_present():
        images = put(make_images(2))
        normalise(images, (0.5, 0.25, 0.125), (0.5, 0.5, 0.25))
        with counted() as counts:
            normalise(images, (0.5, 0.25, 0.125), (0.5, 0.5, 0.25))
    assert not counts.waits
