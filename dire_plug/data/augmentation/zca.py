"""ZCA whitening, as MTT uses it: images are decorrelated over all their pixels and channels.

With X [N, D] the flattened training images in [0, 1], μ their mean and Σ = U·S·Uᵀ their covariance (over N − 1):
whitened = (x − μ)·W with W = U·(S + ε)^(−1/2)·Uᵀ, and back x = whitened·W⁻¹ + μ with W⁻¹ = U·(S + ε)^(1/2)·Uᵀ.
MTT takes kornia's `ZCAWhitening` with ε = .1 (`get_dataset` in its utils.py); here Σ and its eigenvectors are float64.
"""

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dire_plug.data.dataset import Split
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically

EPSILON = 0.1
"""MTT's ε; it weighs against eigenvalues of images in [0, 1]."""
CHUNK = 2000
"""Images that are held in float64 at a time."""


@dataclass(frozen=True, eq=False)  # comparing tensors gives tensors, which are no truth value
class Whitening:
    """A ZCA transform, float32.

    Attributes:
        mean: [D], with D = 3·H·W.
        matrix: [D, D], symmetric: whitens.
        inverse: [D, D], symmetric: undoes it.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Return images, [N, 3, H, W] in [0, 1], whitened: float32, same shape; differentiable."""
        return ((self._flat(images) - self.mean) @ self.matrix).reshape(images.shape)

    def invert(self, images: Tensor) -> Tensor:
        """Return whitened images, [N, 3, H, W], as pixels that may lie outside of [0, 1]; differentiable."""
        return (self._flat(images) @ self.inverse + self.mean).reshape(images.shape)

    def to(self, device: torch.device) -> "Whitening":
        """Return the transform on `device`."""
        return Whitening(self.mean.to(device), self.matrix.to(device), self.inverse.to(device))

    def _flat(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if flat.shape[1] != len(self.mean):
            raise DirePlugError(
                f"whitening: was fitted on {len(self.mean)} numbers an image, these have {flat.shape[1]} "
                f"({'×'.join(map(str, images.shape[1:]))}); fit it on images of this size"
            )
        return flat.to(torch.float32)


def fit(images: Tensor, *, epsilon: float = EPSILON) -> Whitening:
    """Return the transform of training images: [N, 3, H, W], float in [0, 1] or uint8; on the images' device.

    Raises:
        DirePlugError: there are fewer than two images.
    """
    if len(images) < 2:
        raise DirePlugError(f"whitening: needs two training images or more, not {len(images)}")
    chunks = torch.split(images.flatten(1), CHUNK)
    mean = sum((_scaled(chunk).sum(0) for chunk in chunks), torch.zeros((), device=images.device)) / len(images)
    width = chunks[0].shape[1]
    # float64: the smallest eigenvalues are divided by, and float32 would make them noise
    products = torch.zeros(width, width, dtype=torch.float64, device=images.device)
    for chunk in chunks:
        centred = _scaled(chunk) - mean
        products.addmm_(centred.T, centred)
    # ascending, and slightly negative where pixels are constant; hence the clamp
    values, vectors = torch.linalg.eigh(products / (len(images) - 1))
    roots = (values.clamp(min=0) + epsilon).sqrt()
    return Whitening(
        mean=mean.float(), matrix=_compose(vectors, 1 / roots).float(), inverse=_compose(vectors, roots).float()
    )


def ensure(path: Path, split: Split) -> Path:
    """Write the transform of a split's images to `path`, unless it is there; return `path`."""
    if not path.is_file():
        save(path, fit(split.images()))
    return path


def save(path: Path, whitening: Whitening) -> None:
    """Write a transform as safetensors, atomically."""
    tensors = {"mean": whitening.mean, "matrix": whitening.matrix, "inverse": whitening.inverse}
    # safetensors refuses tensors that aren't contiguous
    write_atomically(path, safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}))


def load(path: Path, device: torch.device) -> Whitening:
    """Read a transform that `save` wrote, onto `device`.

    Raises:
        DirePlugError: the file is missing, damaged, or holds something else.
    """
    try:
        found = safetensors.torch.load_file(path)
        return Whitening(found["mean"], found["matrix"], found["inverse"]).to(device)
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise DirePlugError(
            f"{path}: cannot be read as a whitening ({error}); remove the run's folder and run the command again"
        ) from error


def _scaled(chunk: Tensor) -> Tensor:
    """Return flattened images as float64 in [0, 1]."""
    return chunk.double() / 255 if chunk.dtype == torch.uint8 else chunk.double()


def _compose(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values) @ vectors.T
