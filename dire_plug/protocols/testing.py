"""The accuracy of a network, in percent."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return how many percent of the images get their own label, by argmax over the whole head, in eval mode.

    A head may be wider than the number of classes: an answer outside of them counts as wrong, as it does upstream.

    Args:
        batches: (images [n, 3, H, W] as the network takes them, labels [n]); on the network's device.
    """
    training = model.training
    model.eval()
    correct: Tensor | int = 0
    total = 0
    for images, labels in batches:
        correct = correct + (model(images).argmax(dim=1) == labels).sum()
        total += len(labels)
    model.train(training)
    return 100 * float(correct) / total


def in_batches(
    images: Tensor, labels: Tensor, *, device: torch.device, batch: int = 500
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield consecutive (images, labels) of at most `batch`, moved to `device`."""
    for start in range(0, len(labels), batch):
        yield images[start : start + batch].to(device), labels[start : start + batch].to(device)
