"""Augmentation: parity with Pillow and torchvision, and the random parameters."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.augmentations import mix
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from dire_plug.data.augmentation.batch import (
    crop_flip,
    crop_flip_at,
    denormalise,
    draw_boxes,
    mixup,
    normalise,
    resize_boxes,
    resized_crop_flip,
    resized_crop_flip_at,
)
from dire_plug.data.augmentation.draws import Augmentation

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def random_images(count: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_normalising_is_bit_equal_to_torchvisions_transforms() -> None:
    images = random_images(4)
    expected = functional.normalize(images.float() / 255, list(MEAN), list(STD))
    assert torch.equal(normalise(images, MEAN, STD), expected)
    assert torch.equal(normalise(images.float() / 255, MEAN, STD), expected)


def test_denormalising_brings_the_pixels_back_and_clamps() -> None:
    images = random_images(4)
    assert torch.equal((denormalise(normalise(images, MEAN, STD), MEAN, STD) * 255).round().byte(), images)
    assert denormalise(torch.full((1, 3, 2, 2), 99.0), MEAN, STD).max() == 1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 24)])
def test_crop_and_flip_are_bit_equal_to_pillow(height: int, width: int) -> None:
    images = random_images(40, height, width)
    generator = torch.Generator().manual_seed(1)
    tops, lefts = torch.randint(0, 9, (2, 40), generator=generator)
    flips = torch.rand(40, generator=generator) < 0.5
    ours = crop_flip_at(images, tops, lefts, flips, 4)
    for index in range(40):
        top, left = int(tops[index]), int(lefts[index])
        padded = ImageOps.expand(to_pillow(images[index]), border=4, fill=0)
        cropped = padded.crop((left, top, left + width, top + height))
        expected = ImageOps.mirror(cropped) if flips[index] else cropped
        assert torch.equal(ours[index], from_pillow(expected))


def test_crops_reach_every_offset_and_flip_about_half() -> None:
    marked = torch.zeros(2000, 3, 9, 9, dtype=torch.uint8)
    marked[:, :, 4, 3] = 255
    cropped = crop_flip(padding=2, flip=True)(marked, torch.Generator().manual_seed(0))
    places = cropped[:, 0].flatten(1).argmax(1)
    assert set((places // 9).tolist()) == {2, 3, 4, 5, 6}
    # Column 3 − offset unflipped is 1 to 5, flipped 3 to 7.
    flipped = (places % 9 > 5).sum() / (places % 9 < 3).sum()
    assert 0.8 < flipped < 1.25


def test_nothing_moves_without_padding_and_flip() -> None:
    images = random_images(8)
    assert torch.equal(crop_flip(padding=0, flip=False)(images, torch.Generator().manual_seed(0)), images)


@pytest.mark.parametrize("augment", [crop_flip(padding=4, flip=True), resized_crop_flip()])
def test_one_seed_gives_one_augmentation(augment: Augmentation) -> None:
    images = random_images(8)
    first, again, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_resized_crops_agree_with_pillow_within_one_grey_level() -> None:
    images = random_images(30, 48, 48)
    generator = torch.Generator().manual_seed(2)
    boxes = draw_boxes(images.shape, generator=generator, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    flips = torch.rand(30, generator=generator) < 0.5
    ours = resized_crop_flip_at(images, boxes, flips)
    assert ours.dtype == torch.uint8
    for index, (top, left, height, width) in enumerate(boxes.tolist()):
        image = to_pillow(images[index]).crop((left, top, left + width, top + height))
        image = image.resize((48, 48), Image.Resampling.BILINEAR)
        expected = from_pillow(ImageOps.mirror(image) if flips[index] else image)
        assert (ours[index].int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [8, 32, 50])
def test_boxes_resized_by_products_are_torchvisions_in_floats_to_the_pixel(size: int) -> None:
    images = random_images(60, size, size + 6)
    drawn = resized_crop_flip().draw(images.shape, torch.Generator().manual_seed(3))
    whole = [
        functional.resized_crop(image.float(), *box, size=list(image.shape[-2:]), antialias=True)
        for image, box in zip(images, drawn.boxes.tolist(), strict=True)
    ]
    assert torch.equal(resize_boxes(images, drawn.boxes), torch.stack(whole).round().to(torch.uint8))
    torch.testing.assert_close(resize_boxes(images.float(), drawn.boxes), torch.stack(whole), rtol=1e-5, atol=1e-3)


def test_boxes_lie_inside_and_are_distributed_as_torchvisions() -> None:
    images = torch.empty(4000, 3, 64, 64, dtype=torch.uint8)
    boxes = draw_boxes(
        images.shape, generator=torch.Generator().manual_seed(0), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)
    ).double()
    assert (boxes >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 64).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 64).all()
    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(images[0], [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    ).double()
    # The standard error of a mean of 4000 such numbers is below 0.3 pixels.
    assert (boxes.mean(0) - theirs.mean(0)).abs().max() < 1.5
    assert (boxes.std(0) - theirs.std(0)).abs().max() < 1.5


def test_the_ratio_of_a_box_is_width_to_height() -> None:
    images = torch.empty(200, 3, 64, 64, dtype=torch.uint8)
    boxes = draw_boxes(images.shape, generator=torch.Generator().manual_seed(0), scale=(0.2, 0.4), ratio=(2.0, 2.0))
    assert ((boxes[:, 3] - 2 * boxes[:, 2]).abs() <= 1.5).all()


def test_an_image_that_no_box_fits_gets_the_central_one() -> None:
    images = torch.empty(3, 3, 8, 64, dtype=torch.uint8)
    boxes = draw_boxes(images.shape, generator=torch.Generator().manual_seed(0), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert boxes.tolist() == [[0, 28, 8, 8]] * 3


def test_mixup_mixes_by_one_share_that_the_generator_sets() -> None:
    images = random_images(16).float()
    mixed, order, share = mix(mixup(0.8), images, torch.Generator().manual_seed(5))
    assert 0 < share < 1
    assert sorted(order.tolist()) == list(range(16))
    for index in range(16):
        torch.testing.assert_close(mixed[index], share * images[index] + (1 - share) * images[order[index]])
    assert mix(mixup(0.8), images, torch.Generator().manual_seed(5))[2] == share
    assert mix(mixup(0.8), images, torch.Generator().manual_seed(6))[2] != share


def test_shares_of_mixup_follow_the_beta_distribution() -> None:
    generator, images = torch.Generator().manual_seed(0), torch.zeros(1, 1, 1, 1)
    shares = torch.tensor([mix(mixup(0.8), images, generator)[2] for _ in range(2000)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4·(2a + 1)).
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * 2.6)) < 0.01


def test_mixup_without_alpha_changes_nothing() -> None:
    images = random_images(4).float()
    mixed, _, share = mix(mixup(0), images, torch.Generator().manual_seed(0))
    assert share == 1
    assert torch.equal(mixed, images)
