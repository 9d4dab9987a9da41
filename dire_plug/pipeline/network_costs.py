"""Count what an image costs in a network: operations of convolutions and products, and bytes kept for backward.

Networks are built without memory, on torch's device `meta`, so that those of ImageNet fit everywhere. Nothing here is
measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dire_plug.models import build, last_linear, stem_like
from dire_plug.models.architectures import is_made_for_a_size
from dire_plug.native.sre2l import StatisticsLoss

COUNTED = (2, 4)
"""Images in the two batches that are counted; their difference leaves out what doesn't grow with a batch."""


@dataclass(frozen=True)
class ImageCost:
    """The cost of one image in one network.

    Attributes:
        forward: operations of a forward pass.
        both: of forward and backward.
        kept: bytes that the backward pass needs of the forward pass.
        weights: bytes of the parameters.
        width: of the penultimate embedding.
    """

    forward: float
    both: float
    kept: int
    weights: int
    width: int


@dataclass(frozen=True)
class UnrolledCost:
    """The cost of one step of training whose graph is kept, and of the backward pass through it.

    Attributes:
        operations: of each image.
        kept: bytes of each image.
        fixed: bytes that don't depend on the number of images: gradients and parameters.
    """

    operations: float
    kept: int
    fixed: int


@lru_cache(maxsize=128)
def count_pass(
    *, architecture: str, outputs: int, stem: str, size: int, flat: bool = True, inverted: bool = False
) -> ImageCost:
    """Count one image's pass through a network and back; see `build_for`.

    Args:
        inverted: in eval mode, with frozen weights and the statistics of each batch normalization compared, as in the
            loops that invert a network; else as it is trained.
    """
    with torch.device("meta"):
        model = build_for(architecture=architecture, outputs=outputs, stem=stem, size=size, flat=flat)
    if inverted:
        model.eval().requires_grad_(False)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                StatisticsLoss(layer)

    def run(images: Tensor) -> None:
        model(images)

    forward, kept, _ = _per_image(run, size)
    # gradients of images and of weights are two products of the forward pass's size; torch's counter takes a grouped
    # convolution's second one for a dense convolution's
    both = forward * (2 if inverted else 3)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return ImageCost(forward, both, kept, weights, last_linear(model).in_features)


@lru_cache(maxsize=128)
def takes_one_image(*, architecture: str, outputs: int, stem: str, size: int) -> bool:
    """Return whether a network can be trained with a batch of one image.

    It can't where a normalisation is left with one value of a channel, as where a ResNet's last map is 1×1.
    """
    with torch.device("meta"):
        model = build_for(architecture=architecture, outputs=outputs, stem=stem, size=size, flat=True)
        try:
            model(torch.zeros(1, 3, size, size))
        except ValueError:
            return False
    return True


@lru_cache(maxsize=32)
def count_unrolled(*, architecture: str, outputs: int, stem: str, size: int) -> UnrolledCost:
    """Count a step of plain gradient descent on a network's parameters, differentiated with respect to the images.

    As in MTT's `distill.py`, the parameters are one vector, and each step leaves a new one.
    """
    with torch.device("meta"):
        model = build_for(architecture=architecture, outputs=outputs, stem=stem, size=size, flat=True)
    own = dict(model.named_parameters())
    before = torch.empty(sum(one.numel() for one in own.values()), device="meta", requires_grad=True)
    rate = torch.empty((), device="meta", requires_grad=True)

    def run(images: Tensor) -> None:
        parts = torch.split(before, [one.numel() for one in own.values()])
        given = {name: part.view(one.shape) for (name, one), part in zip(own.items(), parts, strict=True)}
        labels = torch.zeros(len(images), dtype=torch.int64, device="meta")
        # chosen among all images, as the loop does
        chosen = images[torch.arange(len(images), device="meta")]
        loss = cross_entropy(functional_call(model, given, (chosen,)), labels)
        (gradient,) = torch.autograd.grad(loss, before, create_graph=True)
        torch.autograd.backward((before - rate * gradient).sum())

    return UnrolledCost(*_per_image(run, size))


def build_for(*, architecture: str, outputs: int, stem: str, size: int, flat: bool) -> nn.Module:
    """Return an untrained network for images of `size`, with the stem where it has it; `flat` as `TrainingSection`."""
    sized = size if flat or is_made_for_a_size(architecture) else None
    return build(architecture, outputs=outputs, stem=stem_like(architecture, stem), size=sized).train()


def _per_image(run: Callable[[Tensor], None], size: int) -> tuple[float, int, int]:
    """Return the operations of each image, the bytes kept of each, and the bytes kept whatever their number."""
    (few, little), (many, much) = (_count(run, count, size) for count in COUNTED)
    more = COUNTED[1] - COUNTED[0]
    kept = (much - little) // more
    return (many - few) / more, kept, little - COUNTED[0] * kept


def _count(run: Callable[[Tensor], None], images: int, size: int) -> tuple[int, int]:
    """Return the operations of a batch, and the bytes that autograd keeps for it."""
    held: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    batch = torch.empty(images, 3, size, size, device="meta", requires_grad=True)
    with _Operations() as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        run(batch)
    # tensors that share a storage, as views do, are kept once
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in held}
    return counter.total, sum(storages.values())


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up operations by torch's own formulas; its FlopCounterMode also takes apart what has none, which is slow."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=found)
        return found
