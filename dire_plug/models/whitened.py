"""A network that takes images in ZCA space, as one that takes pixels: what whitens stands before it."""

from torch import Tensor, nn

PREFIX = "whitening."
"""Of the keys of what whitens, in a state dict."""


class Whitened(nn.Module):
    """Whitens images, [N, 3, H, W] in [0, 1], and classifies them.

    Args:
        network: takes whitened images of that shape.
        mean: [D], with D = 3·H·W, of the flattened pixels.
        matrix: [D, D], symmetric.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, network: nn.Module, *, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's outputs, [N, K]."""
        outputs: Tensor = self.network(((images.flatten(1) - self.mean) @ self.matrix).reshape(images.shape))
        return outputs

    def whitening(self) -> dict[str, Tensor]:
        """Return what whitens, by the keys of a file."""
        return {f"{PREFIX}mean": self.mean, f"{PREFIX}matrix": self.matrix}
