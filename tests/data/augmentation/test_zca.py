"""ZCA whitening against kornia's, against its definition, and on disk."""

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from dire_plug.data.augmentation import zca
from dire_plug.data.augmentation.zca import fit, load, save
from dire_plug.errors import DirePlugError

CPU = torch.device("cpu")


def make_images(count: int = 300, size: int = 4) -> Tensor:
    smooth = torch.rand(count, 3, 2, 2, generator=Generator().manual_seed(0))
    noise = 0.2 * torch.rand(count, 3, size, size, generator=Generator().manual_seed(1))
    return 0.8 * smooth.repeat_interleave(size // 2, 2).repeat_interleave(size // 2, 3) + noise


def test_it_is_kornias() -> None:
    kornia = pytest.importorskip("kornia", reason="kornia, which MTT takes, isn't installed")
    images = make_images()
    theirs = kornia.enhance.ZCAWhitening(eps=0.1, compute_inv=True).fit(images.double())
    ours = fit(images)
    assert torch.allclose(ours.apply(images).double(), theirs(images.double()), atol=1e-5)
    assert torch.allclose(ours.invert(images).double(), theirs.inverse_transform(images.double()), atol=1e-5)


def test_the_whitened_covariance_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zca, "CHUNK", 70)
    images = make_images()
    flat = images.flatten(1).double()
    covariance = torch.cov(flat.T)
    whitened = fit(images).apply(images).flatten(1).double()
    # (S + ε)^(−1/2) on both sides leaves S/(S + ε): Σ·(Σ + εI)⁻¹.
    expected = covariance @ torch.linalg.inv(covariance + 0.1 * torch.eye(48).double())
    assert torch.allclose(torch.cov(whitened.T), expected, atol=1e-5)
    assert whitened.mean(0).abs().max() < 1e-5


def test_the_matrix_is_symmetric_and_inverting_brings_pixels_back() -> None:
    images = make_images()
    found = fit(images)
    assert torch.allclose(found.matrix, found.matrix.T, atol=1e-5)
    assert torch.allclose(found.invert(found.apply(images)), images, atol=1e-5)


def test_grey_levels_are_fitted_as_pixels() -> None:
    levels = (make_images() * 255).to(torch.uint8)
    assert torch.allclose(fit(levels).matrix, fit(levels.float() / 255).matrix, atol=1e-4)


def test_gradients_pass_both_ways() -> None:
    found = fit(make_images())
    images = make_images(2).requires_grad_()
    found.invert(found.apply(images)).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert torch.allclose(images.grad, torch.ones_like(images), atol=1e-4)


def test_it_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    found = fit(make_images())
    save(tmp_path / "w.safetensors", found)
    again = load(tmp_path / "w.safetensors", CPU)
    assert all(torch.equal(getattr(found, name), getattr(again, name)) for name in ("mean", "matrix", "inverse"))


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(DirePlugError, match=r"w\.safetensors: cannot be read as a whitening"):
        load(tmp_path / "w.safetensors", CPU)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(DirePlugError, match=r"was fitted on 48 numbers an image, these have 192 \(3×8×8\)"):
        fit(make_images()).apply(make_images(2, size=8))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(DirePlugError, match="needs two training images or more, not 1"):
        fit(make_images(1))
