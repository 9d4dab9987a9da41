"""DSA's six operations against slow loops and against what stands still, and that gradients pass."""

from functools import partial

import pytest
import torch
from support.augmentations import undrawn
from torch import Generator, Tensor

from dire_plug.data.augmentation.dsa import OPERATIONS, colour, cut_out, dsa, flip, rotate, scale, shift
from dire_plug.recipe import values


def make_images(count: int = 300, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=Generator().manual_seed(0))


def generator(seed: int = 1) -> Generator:
    return Generator().manual_seed(seed)


def test_recipes_know_the_operations() -> None:
    assert tuple(OPERATIONS) == values.OPERATIONS


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_image_gets_parameters_of_its_own_that_the_generator_sets(name: str) -> None:
    same = make_images(1).expand(60, -1, -1, -1)
    changed = OPERATIONS[name](same, generator())
    assert changed.shape == same.shape
    assert torch.equal(changed, OPERATIONS[name](same, generator()))
    assert len(torch.unique(changed.flatten(1), dim=0)) > 1
    assert not torch.equal(changed, OPERATIONS[name](same, generator(2)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_pass(name: str) -> None:
    images = make_images(20).requires_grad_()
    OPERATIONS[name](images, generator()).square().sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_colour_changes_brightness_saturation_and_contrast_in_this_order() -> None:
    images, draws = make_images(5).double(), generator()
    changed = colour(images, generator())
    first, second, third = (torch.rand(5, 1, 1, 1, generator=draws).flatten().tolist() for _ in range(3))
    for index in range(5):
        one = images[index] + first[index] - 0.5
        grey = (one[0] + one[1] + one[2]) / 3
        one = grey + (one - grey) * 2 * second[index]
        one = one.mean() + (one - one.mean()) * (third[index] + 0.5)
        assert torch.allclose(changed[index], one)


def test_shifts_reach_an_eighth_of_the_size_and_bring_in_zero() -> None:
    images = torch.zeros(2000, 3, 16, 16)
    images[:, :, 8, 8] = 1
    moved = shift(images, generator())
    places = moved[:, 0].flatten(1).argmax(1)
    assert set((places // 16).tolist()) == set((places % 16).tolist()) == set(range(6, 11))
    assert (shift(torch.ones(50, 3, 16, 16), generator()) == 0).any()


@pytest.mark.parametrize("size", [8, 6])
def test_a_square_of_half_of_the_size_is_cut_out_where_it_lies_inside(size: int) -> None:
    holes = cut_out(torch.ones(4000, 3, size, size), generator()) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    sides = {(int(hole.any(1).sum()), int(hole.any(0).sum())) for hole in holes[:, 0]}
    half = int(size * 0.5 + 0.5)
    assert max(sides) == (half, half)
    # An even square's centre may be the border itself, so that half of it is outside; an odd one's may not.
    least = half // 2 if half % 2 == 0 else half // 2 + 1
    assert {side for pair in sides for side in pair} == set(range(least, half + 1))
    assert all(int(hole.sum()) == int(hole.any(1).sum()) * int(hole.any(0).sum()) for hole in holes[:200, 0])


def test_about_half_of_the_images_are_flipped_and_the_others_left() -> None:
    images = make_images(1000)
    flipped = flip(images, generator())
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(flipped == images).flatten(1).all(1))
    assert 430 < int(mirrored.sum()) < 570


def test_stretching_keeps_the_centre_and_scales_the_distance_from_it() -> None:
    size = 9
    ramp = torch.linspace(-1, 1, size)
    images = (ramp[None, :] + 10 * ramp[:, None]).expand(500, 3, size, size)
    stretched = scale(images, generator())
    centre = size // 2
    assert stretched[:, :, centre, centre].abs().max() < 1e-5
    across = (stretched[:, 0, centre, centre + 1] / ramp[centre + 1]).double()
    down = (stretched[:, 0, centre + 1, centre] / (10 * ramp[centre + 1])).double()
    for factors in (across, down):
        assert 1 / 1.2 - 1e-4 < factors.min() < 0.86
        assert 1.17 < factors.max() < 1.2 + 1e-4
    assert not torch.allclose(across, down, atol=1e-3)


def test_turning_is_by_up_to_fifteen_degrees_either_way() -> None:
    size = 9
    ramp = torch.linspace(-1, 1, size).expand(size, size)
    turned = rotate(ramp.expand(800, 3, size, size), generator())
    centre = size // 2
    across, down = turned[:, 0, centre, centre + 1], turned[:, 0, centre + 1, centre]
    angles = torch.rad2deg(torch.atan2(down, across))
    assert torch.allclose(across.square() + down.square(), torch.full((800,), (2 / (size - 1)) ** 2), atol=1e-5)
    assert -15 - 1e-3 < angles.min() < -14
    assert 14 < angles.max() < 15 + 1e-3


def test_one_operation_is_drawn_for_a_batch() -> None:
    images = make_images(40)
    seen = set()
    for seed in range(40):
        changed = dsa("flip_cutout")(images, generator(seed))
        is_cut = bool((changed == 0).any())
        is_flipped = bool((changed == images.flip(3)).flatten(1).all(1).any())
        assert is_cut != is_flipped
        seen.add(is_cut)
    assert seen == {True, False}


def test_no_operation_changes_nothing() -> None:
    images = make_images(3)
    assert dsa("none")(images, generator()) is images


def test_a_full_turn_of_the_defaults_uses_all_six(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def note(name: str, images: Tensor) -> Tensor:
        seen.append(name)
        return images

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, undrawn(partial(note, name)))
    draws = generator()
    for _ in range(100):
        dsa("_".join(values.OPERATIONS))(make_images(1), draws)
    assert set(seen) == set(values.OPERATIONS)
