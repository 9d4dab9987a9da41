"""Fashion-MNIST at 28×28, grey: 60,000 training and 10,000 test images."""

import gzip
import hashlib
import zlib
from pathlib import Path

import torch
from torch import Tensor

from dire_plug.data.dataset import Dataset, DatasetSpec, make_tensor_dataset
from dire_plug.data.subsample import first_of_each_class, resize
from dire_plug.errors import DirePlugError

AGAIN = "The file is damaged or another one: remove it and download it again"


def find_file(folder: Path, name: str) -> Path | None:
    """Return `folder/name`, or the same with .gz; None where neither is."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Of the uncompressed files: archives of the same content differ in their gzip headers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read(folder: Path, *, size: int | None, limit: int | None) -> Dataset:
    """Read the four IDX files; raise for files that aren't the published ones."""
    pixels, labels = _read_half(folder, "train")
    kept = first_of_each_class(labels, limit=limit, classes=len(CLASSES))
    test_pixels, test_labels = _read_half(folder, "t10k")
    return make_tensor_dataset(
        "fashion-mnist",
        train=(resize(pixels[kept], size), labels[kept]),
        test=(resize(test_pixels, size), test_labels),
        classes=CLASSES,
    )


def _read_half(folder: Path, half: str) -> tuple[Tensor, Tensor]:
    """Return pixels, uint8 [N, 1, 28, 28], and labels, int64 [N]."""
    pixels = _read(folder, f"{half}-images-idx3-ubyte", header=16)
    return pixels.reshape(-1, 1, 28, 28), _read(folder, f"{half}-labels-idx1-ubyte", header=8).long()


def _read(folder: Path, name: str, *, header: int) -> Tensor:
    """Return the bytes behind the header of an IDX file, gzipped or not: uint8, [n].

    Raises:
        DirePlugError: the file is missing, truncated, or isn't the published one.
    """
    path = find_file(folder, name)
    if path is None:
        raise DirePlugError(f"{folder / name}: no such file, gzipped or not")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DirePlugError(f"{path}: cannot be read: {error}. {AGAIN}") from error
    # the digest vouches for the header too, so nothing of it is parsed
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise DirePlugError(f"{path}: sha256 of the content is {found}, expected {SHA256[name]}. {AGAIN}")
    # bytearray: torch warns of bytes, which can't be written to
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)


def places(root: Path) -> tuple[Path, ...]:
    """Return the folders where the files may be: ours, torchvision's, Debian's."""
    return root / "fashion-mnist", root / "FashionMNIST" / "raw", DEBIAN


def missing(folder: Path) -> tuple[str, ...]:
    """Return the files that a folder lacks."""
    return tuple(name for name in SHA256 if find_file(folder, name) is None)


def download(root: Path) -> None:
    """Fetch the files to root/FashionMNIST/raw by torchvision, which verifies their checksums."""
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(root), download=True)


SPEC = DatasetSpec(
    name="fashion-mnist",
    classes=len(CLASSES),
    sizes=(8, 64),
    layout="the four files {train,t10k}-{images-idx3,labels-idx1}-ubyte, gzipped or not,",
    how=(
        "on Debian or Ubuntu, apt install dataset-fashion-mnist; elsewhere run once with the network, "
        "and torchvision fetches it"
    ),
    places=places,
    missing=missing,
    read=read,
    download=download,
)
