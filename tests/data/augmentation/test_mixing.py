"""CutMix and the enlarged test crop."""

import pytest
import torch
from PIL import Image
from support.augmentations import mix
from torch import Generator, Tensor
from torchvision.transforms import CenterCrop, Resize

from dire_plug.data.augmentation.batch import cutmix, enlarge_and_crop
from dire_plug.training.transforms import mixing


def numbered(count: int, size: int = 8) -> Tensor:
    return torch.arange(count).float()[:, None, None, None].expand(count, 3, size, size)


def test_a_batch_shares_one_box_of_another_image() -> None:
    images = numbered(6)
    for seed in range(30):
        mixed, order, share = mix(cutmix(1), images, Generator().manual_seed(seed))
        pasted = (mixed != images)[order != torch.arange(6)]
        assert all(torch.equal(box, pasted[0]) for box in pasted)
        box = pasted[0, 0]
        assert int(box.sum()) == int(box.any(0).sum()) * int(box.any(1).sum())
        assert share == pytest.approx(1 - int(box.sum()) / 64)
        assert all(torch.equal(mixed[i][:, box], images[order[i]][:, box]) for i in range(6))


def test_the_images_that_came_in_stay_as_they_were() -> None:
    images = torch.rand(4, 3, 8, 8)
    before = images.clone()
    mix(cutmix(1), images, Generator().manual_seed(0))
    assert torch.equal(images, before)


def test_the_shares_of_cutmix_1_are_spread_over_the_unit_interval() -> None:
    generator = Generator().manual_seed(0)
    shares = torch.tensor([mix(cutmix(1), numbered(2, 32), generator)[2] for _ in range(1000)])
    # With λ uniform the side s = √(1 − λ) has density 2s, and s − s²/4 of it lies inside: ∫2s(s − s²/4)² ds = 77/240.
    assert abs(shares.mean() - (1 - 77 / 240)) < 0.04
    assert shares.min() < 0.2
    assert shares.max() > 0.97


def test_no_mixing_returns_the_batch_and_draws_nothing() -> None:
    images, generator = numbered(3), Generator().manual_seed(0)
    state = generator.get_state()
    mixed, order, share = mix(mixing(), images, generator)
    assert (mixed is images, order.tolist(), share) == (True, [0, 1, 2], 1.0)
    assert torch.equal(generator.get_state(), state)


def test_the_recipes_alpha_chooses_how_a_batch_is_mixed() -> None:
    images = numbered(4)
    blended = mixing(mixup_alpha=0.8)(images, Generator().manual_seed(3))
    pasted = mixing(cutmix_alpha=1)(images, Generator().manual_seed(3))
    assert not torch.equal(blended, blended.round())
    assert torch.equal(pasted, pasted.round())


def test_small_test_images_are_not_enlarged() -> None:
    for size in (8, 32):
        images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
        assert enlarge_and_crop(images) is images


def test_enlarged_test_images_agree_with_pillow_within_one_grey_level() -> None:
    images = torch.randint(0, 256, (3, 3, 64, 64), generator=Generator().manual_seed(0)).to(torch.uint8)
    ours = enlarge_and_crop(images)
    for index in range(3):
        picture = Image.fromarray(images[index].permute(1, 2, 0).numpy())
        theirs = CenterCrop(64)(Resize(72)(picture))
        pixels = torch.tensor(list(theirs.tobytes())).reshape(64, 64, 3).permute(2, 0, 1)
        assert (ours[index].int() - pixels).abs().max() <= 1
