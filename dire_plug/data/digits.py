"""Handwritten digits at 8×8, which scikit-learn carries inside: for examples and tests without any download.

The split is our own, since the set has none: of each class, 36 images drawn without replacement by numpy's
`RandomState(0)` (whose stream is frozen) are for testing, 360 in all; the other 1,437 are for training.
Both keep the order of the set.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from dire_plug.data.dataset import Dataset, DatasetSpec, make_tensor_dataset
from dire_plug.data.subsample import first_of_each_class, resize

FILE = "digits.csv.gz"
CLASSES = 10
TEST_PER_CLASS = 36


def read(folder: Path, *, size: int | None, limit: int | None) -> Dataset:
    """Read the digits; grey levels 0 to 16 become round(255/16 · v)."""
    # the file itself: scikit-learn's own function reads it likewise, and takes seconds to import
    *levels, target = np.loadtxt(folder / FILE, delimiter=",").T
    pixels = torch.from_numpy(np.rint(np.stack(levels, 1) * 255 / 16).astype(np.uint8)).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(target).to(torch.int64)
    pixels = resize(pixels, size)
    is_test = _draw_test(labels.numpy())
    train = pixels[~is_test], labels[~is_test]
    kept = first_of_each_class(train[1], limit=limit, classes=CLASSES)
    return make_tensor_dataset(
        "digits",
        train=(train[0][kept], train[1][kept]),
        test=(pixels[is_test], labels[is_test]),
        classes=(str(digit) for digit in range(CLASSES)),
    )


def _draw_test(labels: "np.typing.NDArray[np.int64]") -> torch.Tensor:
    """Return a mask, [N], bool, of the test images."""
    # the legacy generator: numpy promises that its stream never changes
    random = np.random.RandomState(0)
    mask = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        mask[random.permutation(np.flatnonzero(labels == label))[:TEST_PER_CLASS]] = True
    return torch.from_numpy(mask)


def places(root: Path) -> tuple[Path, ...]:
    """Return scikit-learn's folder, whatever the data folder is."""
    spec = find_spec("sklearn")
    return (Path(spec.origin).parent / "datasets" / "data",) if spec and spec.origin else ()


def missing(folder: Path) -> tuple[str, ...]:
    """Return the file that the folder lacks."""
    return () if (folder / FILE).is_file() else (FILE,)


SPEC = DatasetSpec(
    name="digits",
    classes=CLASSES,
    sizes=(8, 32),
    layout=FILE,
    how="it comes with scikit-learn: pip install scikit-learn",
    places=places,
    missing=missing,
    read=read,
)
