"""RandAugment: each operation against timm's on PIL images, and what is drawn for an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm
from torch import Generator, Tensor
from torch.nn import functional as F

from dire_plug.data.augmentation import rand_augment as module
from dire_plug.data.augmentation.rand_augment import FILL, OPERATIONS, rand_augment

TIMM = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "solarize-add": "SolarizeAdd",
    "colour": "Color",
    "contrast": "Contrast",
    "brightness": "Brightness",
    "sharpness": "Sharpness",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateXRel",
    "translate-y": "TranslateYRel",
}
MOVING = ("rotate", "shear-x", "shear-y", "translate-x", "translate-y")
SETTINGS: dict[str, Any] = {"operations": 2, "magnitude": 6, "std": 1.0}


def make_image() -> Tensor:
    """Make a smooth colour image, so that a wrong direction or amount shows and rounding doesn't."""
    waves = torch.rand(1, 3, 8, 8, generator=Generator().manual_seed(0))
    return (F.interpolate(waves, size=(32, 32), mode="bicubic")[0].clamp(0, 1) * 200 + 20).to(torch.uint8)


def make_batch(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=Generator().manual_seed(1))


def draw(images: Tensor, *, seed: int = 0, **settings: Any) -> Tensor:
    return rand_augment(**{**SETTINGS, **settings})(images, Generator().manual_seed(seed))


def ask_timm(monkeypatch: pytest.MonkeyPatch, name: str, level: float) -> Tensor:
    """Return what timm's operation makes of the image at `level`, whose sign counts where something moves."""
    monkeypatch.setattr(timm, "_randomly_negate", lambda value: -value if level < 0 else value)
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
    operation = timm.AugmentOp(TIMM[name], prob=1.0, magnitude=abs(level), hparams=hparams)  # type: ignore[no-untyped-call]
    changed = operation(Image.fromarray(make_image().permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def test_the_operations_are_timms() -> None:
    ops = timm.rand_augment_transform("rand-m6-n2-mstd1.0", hparams={"img_mean": FILL}).ops
    assert sorted(operation.name for operation in ops) == sorted(TIMM.values())
    assert {(op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) for op in ops} == {(0.5, 6, 1.0, None)}
    assert sorted(OPERATIONS) == sorted(TIMM)


@pytest.mark.parametrize("level", [0.0, 3.1, 6.3, 10.0])
@pytest.mark.parametrize("name", [name for name in TIMM if name not in MOVING])
def test_an_operation_on_grey_levels_is_timms_to_one_level(
    monkeypatch: pytest.MonkeyPatch, name: str, level: float
) -> None:
    found, theirs = module._BY_NAME[name](make_image(), level), ask_timm(monkeypatch, name, level)
    assert found.dtype == torch.uint8
    assert (found.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("level", [-10.0, -3.1, 6.3])
@pytest.mark.parametrize("name", MOVING)
def test_an_operation_that_moves_is_timms_but_along_the_border(
    monkeypatch: pytest.MonkeyPatch, name: str, level: float
) -> None:
    found, theirs = module._BY_NAME[name](make_image(), level), ask_timm(monkeypatch, name, level)
    differs = (found.int() - theirs.int()).abs() > 3
    assert differs.float().mean() < 0.06
    assert (found.int() - make_image().int()).abs().float().mean() > 10


def test_each_image_gets_operations_of_its_own_and_a_quarter_of_them_none() -> None:
    images = make_image().expand(400, -1, -1, -1)
    changed = draw(images)
    untouched = (changed == images).flatten(1).all(1)
    assert 0.2 < untouched.float().mean() < 0.35  # both of two are left out at 1/4; a few change nothing here
    assert len(torch.unique(changed.flatten(1), dim=0)) > 100


def test_the_generator_decides_everything() -> None:
    images = make_batch(20)
    kept = images.clone()
    state = torch.get_rng_state()
    assert torch.equal(draw(images), draw(images))
    assert not torch.equal(draw(images), draw(images, seed=1))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)


def caught(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[float]:
    """Return the levels that operations are called with."""
    levels: list[float] = []

    def keep(image: Tensor, level: float) -> Tensor:
        levels.append(level)
        return image

    monkeypatch.setattr(module, "_OPERATIONS", (keep,) * len(OPERATIONS))
    draw(make_batch(2000), **settings)
    return levels


def test_half_of_the_operations_are_done_at_levels_around_the_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = torch.tensor(caught(monkeypatch))
    assert 1850 < len(levels) < 2150  # of 4000, ±5 standard deviations
    assert levels.abs().mean() == pytest.approx(6, abs=0.15)
    assert levels.abs().std() == pytest.approx(1, abs=0.1)
    assert (levels < 0).float().mean() == pytest.approx(0.5, abs=0.06)


def test_levels_stay_between_nothing_and_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = torch.tensor(caught(monkeypatch, magnitude=9, std=5.0))
    assert (float(levels.min()), float(levels.max())) == (-10, 10)
    assert (levels == 0).any()
    assert (levels.abs() == 10).float().mean() == pytest.approx(0.42, abs=0.05)  # above 9 + 1 = mean + 0.2 deviations


def test_without_a_spread_every_level_is_the_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {abs(level) for level in caught(monkeypatch, std=0.0)} == {6.0}


@pytest.mark.parametrize(
    "change", [lambda images: images, lambda images: images.double(), lambda images: images.half()]
)
def test_floats_are_rounded_to_grey_levels_first(change: Callable[[Tensor], Tensor]) -> None:
    images = make_batch(20)
    assert torch.equal(draw(change(images / 255)), draw(images))
