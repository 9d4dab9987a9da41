"""Fashion-MNIST at 28×28, grey: 60,000 training and 10,000 test images."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import FashionMNIST

from dire_plug.data.dataset import Dataset, DatasetSpec, make_tensor_dataset
from dire_plug.data.subsample import first_of_each_class, resize
from dire_plug.errors import DirePlugError

AGAIN = "The file is damaged or another one: remove it and get it again"


def find_file(folder: Path, name: str) -> Path | None:
    """Return `folder/name`, or the same with .gz; None where neither is."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, *, sha256: str | None = None) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped (.gz) or not.

    Args:
        path: the file.
        sha256: the digest that its uncompressed content must have; None checks nothing.

    Returns:
        Tensor: uint8, of the shape that the header states.

    Raises:
        DirePlugError: the file is truncated, isn't IDX, or isn't the one with that digest.
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DirePlugError(
            f"{path}: not an IDX file of bytes (it starts with {content[:4].hex() or 'nothing'}). {AGAIN}"
        )
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start]) if len(content) >= start else ()
    if not shape or 0 in shape or len(content) - start != math.prod(shape):
        raise DirePlugError(f"{path}: holds {len(content)} bytes, where its header says {shape or 'more'}. {AGAIN}")
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DirePlugError(f"{path}: sha256 of the content is {found}, expected {sha256}. {AGAIN}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DirePlugError(f"{path}: cannot be read: {error}. {AGAIN}") from error


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
    """Read the four IDX files; refuse files that aren't the published ones."""
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
    content = []
    for name in (f"{half}-images-idx3-ubyte", f"{half}-labels-idx1-ubyte"):
        path = find_file(folder, name)
        if path is None:
            raise DirePlugError(f"{folder / name}: no such file, gzipped or not")
        content.append(read_idx(path, sha256=SHA256[name]))
    return content[0][:, None], content[1].long()


def places(root: Path) -> tuple[Path, ...]:
    """Return the folders where the files may be: ours, torchvision's, Debian's."""
    return root / "fashion-mnist", root / "FashionMNIST" / "raw", DEBIAN


def missing(folder: Path) -> tuple[str, ...]:
    """Return the files that a folder lacks."""
    return tuple(name for name in SHA256 if find_file(folder, name) is None)


def download(root: Path) -> None:
    """Fetch the files to root/FashionMNIST/raw by torchvision, which verifies their checksums."""
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
