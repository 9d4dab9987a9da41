"""Stand in for a dataset that isn't here, by its published size: for plans and estimates, which read no image."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dire_plug.data.dataset import STATISTICS, Dataset, Triple
from dire_plug.data.loading import DatasetSource, class_count
from dire_plug.data.validation import Judge
from dire_plug.errors import DirePlugError
from dire_plug.files import digest

SIZES = {
    "digits": (1437, 360, 8),
    "fashion-mnist": (60_000, 10_000, 28),
    "cifar-10": (50_000, 10_000, 32),
    "cifar-100": (50_000, 10_000, 32),
    "tiny-imagenet": (100_000, 10_000, 64),
    "imagenette": (9469, 3925, 224),
    "imagewoof": (9025, 3929, 224),
    "imagenet-100": (126_689, 5000, 224),
    "imagenet-1k": (1_281_167, 50_000, 224),
}
"""Training images, test images, and pixels of a side, as each dataset's authors published it (of ImageNet, the
crop); digits, as `data.digits` splits them; Imagenette and Imagewoof, as their second version does."""


@dataclass(frozen=True, eq=False)
class UnreadSplit:
    """Labels without images."""

    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Raise: there are no images.

        Raises:
            DirePlugError: always.
        """
        raise DirePlugError("a dataset's stand-in has no images; this is a fault of ours")


@dataclass(frozen=True, eq=False)
class StandIn(Dataset):
    """A dataset without images."""

    @cached_property
    def measured(self) -> tuple[Triple, Triple]:
        """ImageNet's mean and standard deviation: the images' own aren't known, and nothing is made by them."""
        return STATISTICS["imagenet-1k"]


def stand_in(
    source: DatasetSource | str,
    *,
    size: int | None = None,
    limit: int | None = None,
    validation: int | None = None,
    judge: Judge = "test",
) -> Dataset:
    """Return a dataset with the number of images and classes that the named one would have, and a digest of its own.

    Args:
        source: as `load` takes it.
        size, limit: as `load` takes them.
        validation, judge: as `hold_out` takes them; None holds nothing out.

    Raises:
        DirePlugError: the number of its images isn't known: it is a folder, or a third party's.
    """
    name = source if isinstance(source, str) else source.name
    classes = class_count(source)
    if name not in SIZES:
        raise DirePlugError(f"{name}: how many images it has isn't known before it is here")
    train, test, side = SIZES[name]
    train = (limit or train) - (validation or 0)
    tested = validation if validation is not None and judge == "validation" else test
    return StandIn(
        name=name,
        train=UnreadSplit(torch.arange(train) % classes),
        test=UnreadSplit(torch.arange(tested) % classes),
        classes=tuple(map(str, range(classes))),
        size=size or side,
        digest=digest(["stand-in", name, size, limit, validation]),
        judged=judge,
    )
